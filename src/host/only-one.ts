import { createServer } from 'node:net';
import { isErrno } from '../base/errno.ts';
import { systemClock, type Clock } from '../base/clock.ts';

/**
 * A lock that dies with its process: a Unix socket in Linux's abstract namespace (unix(7)), which no crash leaves behind. It is
 * seen within one network namespace.
 */

/** Runs `work` while no other process runs under the same name; waits for one that does. Gives up with an Error after 10 s. */
export async function onlyOne<T>(
  name: string,
  work: () => Promise<T>,
  { clock = systemClock, waitMs = 10_000 }: { readonly clock?: Clock; readonly waitMs?: number } = {},
): Promise<T> {
  const until = clock.steady() + waitMs;
  for (;;) {
    const letGo = await take(name);
    if (letGo) {
      try {
        return await work();
      } finally {
        await letGo();
      }
    }
    if (clock.steady() >= until) throw new Error(`another process has held ${name} for ${waitMs / 1000} s`);
    await clock.sleep(20);
  }
}

/** What lets the name go again; undefined while another has it. */
function take(name: string): Promise<(() => Promise<void>) | undefined> {
  return new Promise((resolve, reject) => {
    const server = createServer((caller) => caller.destroy());
    server.once('error', (error) => {
      if (isErrno(error, 'EADDRINUSE')) resolve(undefined);
      else reject(error);
    });
    server.listen({ path: `\0${name}`, exclusive: true }, () =>
      resolve(
        () =>
          new Promise((done) => {
            server.close(() => done());
          }),
      ),
    );
  });
}
