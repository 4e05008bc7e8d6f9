import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { connectUnix } from './json-lines.ts';

/** open(2): a handle on whatever bears the name, without opening it. Node does not name it; all of Linux has this number but alpha, parisc and sparc. */
const O_PATH = 0o10000000;

/**
 * Connects to the unix socket that bears this name, never to one that a link in its place leads to: in a folder that a VMM may write
 * to, a link could lead to another VM's socket or the host's. Rejects with the system's error (ENOENT: nothing bears the
 * name), or the signal's reason when it aborts first.
 */
export async function connectInPlace(path: string, signal: AbortSignal): Promise<Socket> {
  const handle = await open(path, O_PATH | constants.O_NOFOLLOW);
  let socket: Socket;
  try {
    if (!(await handle.stat()).isSocket()) throw new Error('what bears the name of a socket is none');
    socket = await connectUnix(`/proc/self/fd/${handle.fd}`, signal);
  } finally {
    await handle.close();
  }
  // It may have broken meanwhile, and says so only once.
  if (socket.destroyed) throw socket.errored ?? new Error('the other side closed the connection');
  return socket;
}
