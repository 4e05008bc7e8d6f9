import type { KeyObject } from 'node:crypto';
import type { BlobErrorKind } from '../blob-error.ts';
import type { FrameCodec, PackId } from '../format.ts';
import type { SealKey } from '../keys.ts';

/** What the worker threads are asked to do. Files are open already and named by their descriptor, which all threads share. */
export interface Jobs {
  /** Reads chunks of an image and names them. */
  hash: {
    ask: {
      readonly fd: number;
      readonly dedup: KeyObject;
      /** First chunk and number of chunks, pair after pair. */
      readonly ranges: Float64Array;
    };
    /** An id for each chunk, and 1 for each that is zero (its id is not set). */
    answer: { readonly ids: Uint8Array; readonly zero: Uint8Array };
  };
  /** Adds frames to a pack, beginning it when it is new to this thread. */
  pack: {
    ask: {
      readonly pack: PackId;
      readonly packFd: number;
      readonly seal: SealKey | undefined;
      readonly frames: readonly FrameToWrite[];
    };
    answer: { readonly frames: readonly FrameWritten[]; readonly bytes: number };
  };
  /** Ends a pack of this thread. */
  finish: {
    ask: { readonly pack: PackId };
    answer: { readonly bytes: number; readonly sha256: string };
  };
  /** Forgets a pack of this thread that will not be finished. */
  drop: { ask: { readonly pack: PackId }; answer: Record<never, never> };
  /** Checks and opens frames, and writes their chunks into a file. */
  unpack: {
    ask: {
      readonly fd: number;
      /** Of the file; what a last chunk has beyond it is not written. */
      readonly fileBytes: number;
      readonly pack: PackId;
      readonly key: KeyObject | undefined;
      readonly bytes: Uint8Array;
      readonly frames: readonly FrameToOpen[];
    };
    answer: { readonly written: number };
  };
}

export interface FrameToWrite {
  /** Of the image the chunks are read from. */
  readonly fd: number;
  /** Which chunks of it. */
  readonly chunks: Float64Array;
  readonly ids: Uint8Array;
}

export interface FrameWritten {
  readonly number: number;
  readonly offset: number;
  readonly stored: number;
  readonly chunks: number;
  readonly codec: FrameCodec;
  readonly check: Uint8Array;
}

export interface FrameToOpen {
  /** Where it begins in `bytes`. */
  readonly at: number;
  readonly number: number;
  readonly stored: number;
  readonly chunks: number;
  readonly codec: FrameCodec;
  readonly check: Uint8Array;
  /** Slot, number of chunks, and the first chunk of the file they become, triple after triple. */
  readonly writes: Float64Array;
}

export type JobName = keyof Jobs;
export type Ask<Name extends JobName> = Jobs[Name]['ask'];
export type Answer<Name extends JobName> = Jobs[Name]['answer'];

/** One message to a thread. */
export type Request = {
  readonly [Name in JobName]: { readonly job: Name; readonly ask: Ask<Name> };
}[JobName];

/** And its answer; a thread does one job at a time. */
export type Reply =
  | { readonly ok: true; readonly answer: Answer<JobName> }
  | { readonly ok: false; readonly kind: BlobErrorKind; readonly message: string; readonly stack?: string };
