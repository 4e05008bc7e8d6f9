import { connect, type Socket } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { withTimeout } from '../../base/deadline.ts';

/** After this long without a word TCP asks whether the other side is still there. */
const KEEPALIVE_MS = 30_000;

/**
 * Leads an accepted connection (opened with `allowHalfOpen`) to a guest's port, both ways, until both sides have said all:
 * one that stops sending still hears the other. An abort of one side is passed to the other. Resolves when both are closed,
 * with why it ended early; never rejects.
 */
export async function relay(
  client: Socket,
  target: { readonly ip: string; readonly port: number; readonly connectTimeoutMs: number },
): Promise<Error | undefined> {
  const guest = connect({ host: target.ip, port: target.port, allowHalfOpen: true });
  const closed = Promise.all([whenClosed(client, guest), whenClosed(guest, client)]);
  let failure: Error | undefined;
  try {
    await connected(client, guest, target);
    for (const socket of [client, guest]) {
      socket.setNoDelay(true);
      socket.setKeepAlive(true, KEEPALIVE_MS);
    }
    await Promise.all([pipeline(client, guest), pipeline(guest, client)]);
  } catch (error) {
    failure = error instanceof Error ? error : new Error(String(error));
    reset(client);
    reset(guest);
  }
  await closed;
  return failure;
}

/** Resolves when the guest has answered; rejects when it does not in time, refuses, or the client went away first. */
async function connected(
  client: Socket,
  guest: Socket,
  {
    ip,
    port,
    connectTimeoutMs,
  }: { readonly ip: string; readonly port: number; readonly connectTimeoutMs: number },
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const limit = withTimeout(`connecting to ${ip}:${port}`, connectTimeoutMs);
  const onClientClose = (): void => reject(new Error('the client went away before the guest answered'));
  const onTooLong = (): void => reject(new Error(`the guest did not answer within ${connectTimeoutMs} ms`));
  guest
    .once('connect', resolve)
    .once('error', reject)
    .once('close', () => reject(new Error('the connection was closed')));
  client.once('close', onClientClose);
  limit.signal.addEventListener('abort', onTooLong, { once: true });
  try {
    await promise;
  } finally {
    limit.clear();
    client.off('close', onClientClose);
  }
}

/**
 * Resolves when a socket is closed. One that broke, or was closed before both sides had said all, takes the other with it: these
 * listeners come before the pipelines', which would end the other as if all had been said.
 */
function whenClosed(socket: Socket, other: Socket): Promise<void> {
  return new Promise((resolve) => {
    const onClose = (): void => {
      if (!socket.readableEnded || !socket.writableFinished) reset(other);
      resolve();
    };
    socket.on('error', () => reset(other));
    if (socket.closed) onClose();
    else socket.once('close', onClose);
  });
}

/** Ends a connection so that its other side sees it was cut off. */
function reset(socket: Socket): void {
  if (socket.destroyed) return;
  // A socket that still connects would first go on connecting.
  if (socket.connecting) socket.destroy();
  else socket.resetAndDestroy();
}
