import { Readable } from 'node:stream';
import { abortReason } from '../../base/clock.ts';
import type { ByteSource } from './byte-source.ts';
import { CHUNK_BYTES } from './ext4/file-system.ts';

export interface FileContent {
  readonly sizeBytes: number;
  /** Exactly `sizeBytes` bytes, or an error. */
  readonly content: Readable;
}

/** Pieces as a stream that closes their source however it ends; also when nobody ever read from it. */
export function contentStream(
  pieces: AsyncGenerator<Buffer>,
  source: Pick<ByteSource, 'close'>,
  signal: AbortSignal,
  explained: (error: unknown) => unknown,
): Readable {
  const onAbort = (): void => void stream.destroy(abortReason(signal));
  const stream = new Readable({
    highWaterMark: CHUNK_BYTES,
    read: () => {
      pieces.next().then(
        (piece) => {
          if (!stream.destroyed) stream.push(piece.done ? null : piece.value);
        },
        (error: unknown) => {
          const shown = explained(error);
          stream.destroy(shown instanceof Error ? shown : new Error(String(shown)));
        },
      );
    },
    destroy: (error, done) => {
      signal.removeEventListener('abort', onAbort);
      source.close().then(
        () => done(error),
        (failed: unknown) => done(error ?? (failed instanceof Error ? failed : new Error(String(failed)))),
      );
    },
  });
  if (signal.aborted) onAbort();
  else signal.addEventListener('abort', onAbort, { once: true });
  return stream;
}
