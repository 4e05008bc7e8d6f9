import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { Failure } from '../model/failure.ts';

/** What bytes are called that are no text. */
export const BYTES = 'application/octet-stream';
/** How long an upload may bring no byte, in milliseconds. */
const STALL_MS = 60_000;
/** How long whoever was refused in the middle of an upload has to stop sending. */
const REFUSED_MS = 5_000;

/**
 * Cuts off whoever goes on sending long after the answer that refused it. Till then what comes is read and let fall: a caller whose
 * connection is reset while it sends may never see why.
 */
export function cutOffLater(upload: IncomingMessage, clock: Clock): void {
  if (upload.complete) return;
  upload.resume();
  const { socket } = upload;
  const ended = new AbortController();
  for (const thing of [socket, upload]) thing.once('close', () => ended.abort());
  clock.sleep(REFUSED_MS, ended.signal).then(
    () => socket.destroy(),
    () => undefined,
  );
}

/** A body as it comes. Throws Failure `timeout` when it is waited for and no byte comes; the connection stays, for the answer. */
export async function* whileItFlows(body: Readable, clock: Clock): AsyncGenerator<Uint8Array> {
  const pieces = body.iterator({ destroyOnReturn: false });
  try {
    for (;;) {
      const came = new AbortController();
      const stalled = clock.sleep(STALL_MS, came.signal).then(() => {
        throw new Failure('timeout', `No part of the file has come for ${STALL_MS / 1000} s.`);
      });
      stalled.catch(() => undefined);
      const next: IteratorResult<unknown> = await Promise.race([pieces.next(), stalled]).finally(() =>
        came.abort(),
      );
      if (next.done === true) return;
      if (next.value instanceof Uint8Array) yield next.value;
    }
  } finally {
    // The rest can be let fall, once nobody waits for it here. Of one that stalled that is when something comes, or never.
    void pieces.return?.().catch(() => undefined);
  }
}
