import { damaged } from './blob-error.ts';
import type { SpooledPack } from './chunk-store.ts';
import { FRAME_CHUNKS, PACK_TARGET, type FrameRef, type PackId } from './format.ts';
import type { AccountKeys } from './keys.ts';
import type { OpenFile, Spool } from './spool.ts';
import type { FrameToWrite } from './threads/jobs.ts';
import type { Threads } from './threads/pool.ts';

/** Frames that follow each other go to one pack until there are so many bytes of them: small snapshots make one pack. */
const GROUP_FRAMES = 64;
/** Frames in one job for a thread. */
const JOB_FRAMES = 16;
/** Packs that are being flushed, over all; a slow disk holds up the threads then. */
const FLUSHING = 3;

/** A frame on its way into a pack. */
export interface PendingFrame extends FrameToWrite {
  /** Told once it is known where it is; the pack's size comes later. */
  readonly settle: (frame: FrameRef) => void;
}

export interface PackersOptions {
  readonly pool: Threads;
  readonly spool: Spool;
  readonly keys: AccountKeys;
  readonly now: () => number;
  readonly onPack: (pack: SpooledPack) => void;
  readonly signal: AbortSignal;
}

/** A pack's entry while it is written: all frames of it share it, and its size is set at its end. */
interface GrowingPack {
  readonly account: string;
  readonly id: PackId;
  bytes: number;
  readonly sealed: boolean;
}

/**
 * Writes frames into packs, one pack at a time in each thread. Which frame goes where depends only on their order and the
 * number of threads. When anything fails, the rest is given up, and `done` throws it.
 */
export class Packers {
  readonly #options: PackersOptions;
  readonly #queues: PendingFrame[][];
  readonly #running: (Promise<void> | undefined)[];
  readonly #flushing = new Set<Promise<void>>();
  readonly #open = new Map<number, OpenFile & { readonly ref: GrowingPack }>();
  #added = 0;
  #queued = 0;
  #ending = false;
  #failure: { readonly error: unknown } | undefined;
  #onRoom: (() => void) | undefined;

  constructor(options: PackersOptions) {
    this.#options = options;
    this.#queues = Array.from({ length: options.pool.size }, () => []);
    this.#running = this.#queues.map(() => undefined);
  }

  /** Takes a frame; resolves when there is room for the next. Throws what went wrong with one before. */
  async add(frame: PendingFrame): Promise<void> {
    const thread = Math.floor(this.#added / GROUP_FRAMES) % this.#queues.length;
    this.#added += 1;
    this.#queued += 1;
    this.#queues[thread]?.push(frame);
    this.#running[thread] ??= this.#write(thread);
    const most = GROUP_FRAMES * (this.#queues.length + 1);
    while (this.#queued > most && !this.#failure)
      await new Promise<void>((resolve) => (this.#onRoom = resolve));
    if (this.#failure) throw this.#failure.error;
  }

  /** Ends all packs; resolves when they are durable. */
  async done(): Promise<void> {
    this.#ending = true;
    await Promise.all(this.#queues.map((_, thread) => (this.#running[thread] ??= this.#write(thread))));
    await Promise.all(this.#flushing);
    if (this.#failure) throw this.#failure.error;
  }

  /** Gives up: what is not durable is removed. Resolves when no thread uses any file any more. */
  async abandon(error: unknown): Promise<void> {
    this.#fail(error);
    await this.done().catch(() => undefined);
  }

  async #write(thread: number): Promise<void> {
    try {
      const queue = this.#queues[thread] ?? [];
      while (!this.#failure) {
        const frames = queue.splice(0, JOB_FRAMES);
        if (frames.length > 0) await this.#writeFrames(thread, frames);
        else if (this.#ending) {
          await this.#finish(thread);
          break;
        } else break;
      }
    } catch (error) {
      this.#fail(error);
    }
    if (this.#failure) await this.#drop(thread);
    this.#running[thread] = undefined;
  }

  async #writeFrames(thread: number, frames: readonly PendingFrame[]): Promise<void> {
    const { pool, spool, keys, now, signal } = this.#options;
    let open = this.#open.get(thread);
    if (!open) {
      const file = await spool.newPack(now());
      open = {
        ...file,
        ref: { account: keys.account, id: file.id, bytes: 0, sealed: keys.seal !== undefined },
      };
      this.#open.set(thread, open);
    }
    const { ref } = open;
    const plain = frames.map(({ fd, chunks, ids }) => ({ fd, chunks, ids }));
    const ask = { pack: ref.id, packFd: open.file.fd, seal: keys.seal, frames: plain };
    const answer = await pool.run('pack', ask, { thread, signal });
    frames.forEach((frame, index) => {
      const written = answer.frames[index];
      if (!written) throw damaged(`pack ${ref.id} was not written as it should be`);
      frame.settle({ ...written, pack: ref });
    });
    this.#queued -= frames.length;
    this.#onRoom?.();
    if (answer.bytes >= PACK_TARGET) await this.#finish(thread);
  }

  async #finish(thread: number): Promise<void> {
    const open = this.#open.get(thread);
    if (!open) return;
    const { pool, spool, keys, signal, onPack } = this.#options;
    const { bytes, sha256 } = await pool.run('finish', { pack: open.id }, { thread, signal });
    open.ref.bytes = bytes;
    this.#open.delete(thread);
    const flush = spool
      .keepPack(open, bytes, sha256, keys.seal !== undefined)
      .then(onPack)
      .catch(async (error: unknown) => {
        this.#fail(error);
        await spool.dropPack(open);
      })
      .finally(() => this.#flushing.delete(flush));
    this.#flushing.add(flush);
    if (this.#flushing.size >= FLUSHING) await Promise.race(this.#flushing);
  }

  async #drop(thread: number): Promise<void> {
    const open = this.#open.get(thread);
    if (!open) return;
    this.#open.delete(thread);
    // A thread that ended, or a store that is closed, has forgotten it already.
    await this.#options.pool.run('drop', { pack: open.id }, { thread }).catch(() => undefined);
    await this.#options.spool.dropPack(open);
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
    this.#onRoom?.();
  }
}

/** Gathers chunks of one image into frames. */
export class FrameFiller {
  #chunks: number[] = [];
  readonly #ids = Buffer.alloc(FRAME_CHUNKS * 32);
  readonly #begin: () => number;
  readonly #emit: (chunks: Float64Array, ids: Uint8Array, handle: number) => Promise<void>;
  #handle = 0;

  constructor(
    begin: () => number,
    emit: (chunks: Float64Array, ids: Uint8Array, handle: number) => Promise<void>,
  ) {
    this.#begin = begin;
    this.#emit = emit;
  }

  /** Where the next chunk goes: the handle of its frame, and its slot. */
  next(): { readonly handle: number; readonly slot: number } {
    if (this.#chunks.length === 0) this.#handle = this.#begin();
    return { handle: this.#handle, slot: this.#chunks.length };
  }

  /** Adds it there. */
  async add(chunk: number, ids: Uint8Array, from: number): Promise<void> {
    this.#ids.set(ids.subarray(from, from + 32), this.#chunks.length * 32);
    this.#chunks.push(chunk);
    if (this.#chunks.length === FRAME_CHUNKS) await this.flush();
  }

  /** Sends off a frame that is not full. */
  async flush(): Promise<void> {
    if (this.#chunks.length === 0) return;
    const chunks = Float64Array.from(this.#chunks);
    const ids = Uint8Array.from(this.#ids.subarray(0, chunks.length * 32));
    this.#chunks = [];
    await this.#emit(chunks, ids, this.#handle);
  }
}
