import { raceAbort } from '../base/deadline.ts';

/**
 * What comes, in pieces of exactly `bytes`, the last of them shorter. No more is asked for than is needed for the next. Rejects with the
 * signal's reason while it is waited for.
 */
export async function* inPieces(
  source: AsyncIterable<Uint8Array>,
  bytes: number,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const coming = source[Symbol.asyncIterator]();
  let waiting: Uint8Array[] = [];
  let length = 0;
  let over = false;
  try {
    for (;;) {
      const next = await raceAbort(coming.next(), signal);
      over = next.done === true;
      if (next.done === true) break;
      waiting.push(next.value);
      length += next.value.length;
      if (length < bytes) continue;
      const all = Buffer.concat(waiting);
      let at = 0;
      for (; length - at >= bytes; at += bytes) yield all.subarray(at, at + bytes);
      waiting = [all.subarray(at)];
      length -= at;
    }
    if (length > 0) yield Buffer.concat(waiting);
  } finally {
    // Nobody waits for the end of what was given up.
    if (!over) void coming.return?.().then(undefined, () => undefined);
  }
}
