import { createReadStream, createWriteStream } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { connectUnix } from '../../host/json-lines.ts';
import { VmmError } from '../driver.ts';

/**
 * A machine's state as QEMU's migration stream. QEMU's sandbox forbids it to start a program (`exec:`), and `file:` came only
 * with 8.2, so it speaks to a unix socket of ours in the VM's folder, whose other end is a file.
 */
const SOCKET = 'state.sock';

/** Receives a state into `statePath` while `send` has QEMU write it to the socket it is given (relative to the folder). */
export async function receiveState(
  { folder, statePath }: { readonly folder: string; readonly statePath: string },
  send: (socket: string) => Promise<void>,
): Promise<void> {
  await withSocket(folder, async (connection) => {
    const stored = connection.then((socket) =>
      pipeline(socket, createWriteStream(statePath, { mode: 0o600 })),
    );
    stored.catch(() => undefined);
    try {
      await send(SOCKET);
      await stored;
    } catch (error) {
      await rm(statePath, { force: true });
      throw error instanceof VmmError
        ? error
        : new VmmError('the state could not be written', {
            kind: isFull(error) ? 'no_space' : 'failed',
            cause: error,
          });
    }
  });
}

/**
 * Feeds a state from `statePath` to a QEMU in the folder. `listen` has it listen on the socket it is given (relative to the folder);
 * `connectTo` is that socket's path for us.
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
  await listen(SOCKET);
  const socket = await connectUnix(connectTo(SOCKET), signal);
  await pipeline(createReadStream(statePath), socket, { signal });
}

async function withSocket(
  folder: string,
  work: (connection: Promise<Socket>) => Promise<void>,
): Promise<void> {
  const path = join(folder, SOCKET);
  await rm(path, { force: true });
  const server = createServer({ allowHalfOpen: true });
  const connection = new Promise<Socket>((resolve) => server.once('connection', resolve));
  try {
    await listenIn(server, folder);
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
      server.listen(`/proc/self/fd/${handle.fd}/${SOCKET}`, resolve);
    });
  } finally {
    await handle.close();
  }
}

function isFull(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT');
}
