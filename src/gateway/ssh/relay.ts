import type { Socket } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { isErrno } from '../../base/errno.ts';
import type { Clock } from '../../base/clock.ts';
import { deadline, DeadlineExceeded } from '../../base/deadline.ts';
import { until } from '../../base/until.ts';
import { dial } from '../dial.ts';

/** After this long without a word TCP asks whether the other side is still there. */
export const KEEPALIVE_MS = 30_000;

/** Between two tries to reach a guest that refuses, in milliseconds: first, and at most. */
const RETRY = { firstMs: 50, mostMs: 500 } as const;

interface GuestPort {
  readonly ip: string;
  readonly port: number;
  /** How long the guest may take to answer; one that refuses is tried again until then. */
  readonly connectTimeoutMs: number;
}

/**
 * Leads an accepted connection (opened with `allowHalfOpen`) to a guest's, both ways, until both sides have said all: one that stops
 * sending still hears the other. An abort of one side is passed to the other. `first`: what the client has said before. Resolves when
 * both are closed, with why it ended early; never rejects.
 */
export async function relay(client: Socket, guest: Socket, first: Buffer): Promise<Error | undefined> {
  const closed = Promise.all([whenClosed(client, guest), whenClosed(guest, client)]);
  let failure: Error | undefined;
  try {
    for (const socket of [client, guest]) {
      socket.setNoDelay(true);
      socket.setKeepAlive(true, KEEPALIVE_MS);
    }
    if (first.length > 0) guest.write(first);
    await Promise.all([pipeline(client, guest), pipeline(guest, client)]);
  } catch (error) {
    failure = error instanceof Error ? error : new Error(String(error));
    reset(client);
    reset(guest);
  }
  await closed;
  return failure;
}

/**
 * Connects to the guest. A guest that boots refuses until its sshd is up, and has no address before that: the client waits, as
 * it would for a slow one. Rejects when the guest has not answered in time, or with the signal's reason.
 */
export async function reach(clock: Clock, target: GuestPort, signal: AbortSignal): Promise<Socket> {
  const { ip, port, connectTimeoutMs } = target;
  let refused: unknown;
  try {
    return await deadline(
      `connecting to ${ip}:${port}`,
      connectTimeoutMs,
      (within) =>
        until(
          { clock, signal: within },
          async () => {
            try {
              return await dial({ host: ip, port, allowHalfOpen: true }, within);
            } catch (error) {
              if (within.aborted || !isErrno(error, ...NOT_YET)) throw error;
              refused = error;
              return undefined;
            }
          },
          RETRY,
        ),
      signal,
    );
  } catch (error) {
    if (error instanceof DeadlineExceeded)
      throw new Error(`the guest did not answer within ${connectTimeoutMs} ms`, { cause: refused ?? error });
    throw error;
  }
}

/** What a guest answers whose network or server is not up yet. */
const NOT_YET = ['ECONNREFUSED', 'EHOSTUNREACH', 'ECONNRESET'];

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
export function reset(socket: Socket): void {
  if (socket.destroyed) return;
  // A socket that still connects would first go on connecting.
  if (socket.connecting) socket.destroy();
  else socket.resetAndDestroy();
}
