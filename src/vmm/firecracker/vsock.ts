import type { Socket } from 'node:net';
import { deadline, DeadlineExceeded } from '../../base/deadline.ts';
import { connectInPlace } from '../../host/unix-socket.ts';
import { VmmError } from '../driver.ts';

/** Where the agent of the default image listens (hatch-agent-vsock.service). */
const AGENT_PORT = 1024;
const ANSWER_MS = 3000;

/**
 * Connects to a port in the guest by the VMM's vsock socket: the host says `CONNECT <port>`, the VMM answers `OK <port>` once
 * somebody in the guest has taken the connection, and closes it when nobody listens (Firecracker, docs/vsock.md). Throws
 * VmmError when nobody does, `timeout` while the guest stands still.
 */
export async function connectVsock(path: string, signal: AbortSignal): Promise<Socket> {
  const socket = await connectInPlace(path, signal);
  try {
    await deadline(
      'the guest on vsock',
      ANSWER_MS,
      (within) => {
        socket.write(`CONNECT ${AGENT_PORT}\n`);
        return readOk(socket, within);
      },
      signal,
    );
    return socket;
  } catch (error) {
    socket.destroy();
    if (!(error instanceof DeadlineExceeded)) throw error;
    throw new VmmError('the guest did not answer on vsock', { kind: 'timeout', cause: error });
  }
}

/** Reads the answer, byte for byte: what follows its line end belongs to the guest. */
function readOk(socket: Socket, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    let line = '';
    const done = (error?: Error): void => {
      socket.off('readable', onReadable).off('close', onClose).off('error', done);
      signal.removeEventListener('abort', onAbort);
      if (error) reject(error);
      else resolve();
    };
    const onClose = (): void => done(new VmmError('nobody listens on vsock in the guest'));
    // Whoever set the limit says why.
    const onAbort = (): void => done(new Error('given up'));
    const onReadable = (): void => {
      for (let byte = readByte(socket); byte !== undefined; byte = readByte(socket)) {
        if (byte !== '\n') line += byte;
        else
          return done(
            /^OK \d+$/.test(line) ? undefined : new VmmError(`vsock answered ${JSON.stringify(line)}`),
          );
        if (line.length > 32) return done(new VmmError('vsock answered with a line that has no end'));
      }
    };
    socket.on('readable', onReadable).once('close', onClose).once('error', done);
    signal.addEventListener('abort', onAbort, { once: true });
  });
}

function readByte(socket: Socket): string | undefined {
  const chunk: unknown = socket.read(1);
  return Buffer.isBuffer(chunk) ? chunk.toString('latin1') : undefined;
}
