import { createReadStream } from 'node:fs';
import { open, rm, stat } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { connectInPlace } from '../../host/unix-socket.ts';
import { VmmError } from '../driver.ts';
import { giveTo } from './own-user.ts';

/**
 * A machine's state as QEMU's migration stream. QEMU's sandbox forbids it to start a program (`exec:`), and `file:` came only
 * with 8.2, so it speaks to a unix socket of ours in the VM's folder, whose other end is a file.
 */
export const STATE_SOCKET = 'state.sock';

/**
 * Receives a state into `statePath` while `send` has QEMU, the process `pid`, write it to the socket it is given (relative to the folder).
 * When it fails, which is always with a VmmError, no state is left.
 */
export async function receiveState(
  { folder, pid, statePath }: { readonly folder: string; readonly pid: number; readonly statePath: string },
  send: (socket: string) => Promise<void>,
): Promise<void> {
  try {
    const file = await open(statePath, 'w', 0o600);
    await withSocket(folder, pid, async (connection) => {
      let socket: Socket | undefined;
      let broken: unknown;
      const stored = connection.then(async (connected) => {
        socket = connected;
        await pipeline(connected, file.createWriteStream());
      });
      stored.catch((error: unknown) => (broken = error));
      try {
        await send(STATE_SOCKET);
        await stored;
      } catch (error) {
        // Where our end broke, QEMU only knows that the connection did.
        throw broken ?? error;
      } finally {
        // Half open, it would stay so; where the sending failed there may be more to come.
        socket?.destroy();
        await file.close().catch(() => undefined);
      }
    });
  } catch (cause) {
    await rm(statePath, { force: true });
    throw cause instanceof VmmError
      ? cause
      : new VmmError('the state could not be written', {
          kind: isFull(cause) ? 'no_space' : 'failed',
          cause,
        });
  }
}

/**
 * Feeds a state from `statePath` to a QEMU in the folder. `listen` has it listen on the socket it is given (relative to the folder);
 * `connectTo` is that socket's path for us. Resolves when all has been sent; whether it was any good QEMU says.
 */
export async function sendState(
  {
    statePath,
    connectTo,
    signal,
  }: {
    readonly statePath: string;
    readonly connectTo: (socket: string) => string;
    readonly signal: AbortSignal;
  },
  listen: (socket: string) => Promise<void>,
): Promise<void> {
  await listen(STATE_SOCKET);
  const socket = await connectInPlace(connectTo(STATE_SOCKET), signal);
  const { size } = await stat(statePath);
  const state = createReadStream(statePath);
  try {
    await pipeline(state, socket, { signal });
  } catch (error) {
    // QEMU hangs up as soon as it has what it needs, perhaps before we have said that this was all. It says itself whether
    // it has loaded; only what could not be read, or was not wanted, is a failure here.
    if (signal.aborted || state.bytesRead < size) throw error;
  }
}

async function withSocket(
  folder: string,
  pid: number,
  work: (connection: Promise<Socket>) => Promise<void>,
): Promise<void> {
  const path = join(folder, STATE_SOCKET);
  await rm(path, { force: true });
  const server = createServer({ allowHalfOpen: true });
  const connection = new Promise<Socket>((resolve) => server.once('connection', resolve));
  try {
    await listenIn(server, folder);
    await giveTo({ pid }, path);
    await work(connection);
  } finally {
    server.close();
    await rm(path, { force: true });
  }
}

/** Listens in the folder by a short path, whatever the folder's is: an address holds 108 bytes (unix(7)). */
async function listenIn(server: Server, folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(`/proc/self/fd/${handle.fd}/${STATE_SOCKET}`, resolve);
    });
  } finally {
    await handle.close();
  }
}

function isFull(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT');
}
