import { createSocket } from 'node:dgram';
import { once } from 'node:events';

const PORT = 7007;
const EVERY_MS = 5;

/** A line that lets a guest say every datagram back, now and after every wake. It needs no more than perl. */
export const ECHO_SERVER = `systemd-run --unit=echo perl -e 'use Socket; socket(S, PF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in(${PORT}, INADDR_ANY)) or die; while (defined(my $from = recv(S, my $said, 64, 0))) { send(S, $said, 0, $from) }'`;

/** What is heard from a guest while something is done to it. */
export interface Heard<T> {
  readonly result: T;
  /** The longest time between two echoes. */
  readonly gapMs: number;
}

/** Calls a guest every few milliseconds while `work` is done, and until it has answered once more. Throws when it never answers. */
export async function whileCalling<T>(address: string, work: () => Promise<T>): Promise<Heard<T>> {
  const socket = createSocket('udp4');
  socket.connect(PORT, address);
  await once(socket, 'connect');
  let last: number | undefined;
  let gapMs = 0;
  socket.on('message', () => {
    const now = performance.now();
    if (last !== undefined) gapMs = Math.max(gapMs, now - last);
    last = now;
  });
  // A guest whose address nobody has yet.
  socket.on('error', () => undefined);
  const calls = setInterval(() => socket.send('echo'), EVERY_MS);
  try {
    await once(socket, 'message', { signal: AbortSignal.timeout(10_000) });
    const result = await work();
    await once(socket, 'message', { signal: AbortSignal.timeout(10_000) });
    return { result, gapMs };
  } finally {
    clearInterval(calls);
    socket.close();
  }
}
