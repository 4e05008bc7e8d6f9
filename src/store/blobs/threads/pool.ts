import { Worker, type Transferable } from 'node:worker_threads';
import { abortReason } from '../../../base/clock.ts';
import { BlobError } from '../blob-error.ts';
import type { Answer, Ask, JobName, Reply, Request } from './jobs.ts';

interface Waiting {
  readonly request: Request;
  readonly transfer: readonly Transferable[];
  readonly signal: AbortSignal | undefined;
  readonly resolve: (answer: Answer<JobName>) => void;
  readonly reject: (error: Error) => void;
}

interface Thread {
  worker: Worker | undefined;
  busy: Waiting | undefined;
  /** Jobs only this thread can do: its packs are open in it. */
  readonly bound: Waiting[];
}

export interface JobOptions {
  /** The thread that must do it, counted from 0; whichever is free, when it is not given. */
  readonly thread?: number;
  readonly transfer?: readonly Transferable[];
  /** A job that waits is given up at once; one that runs is waited for, since it uses files of the caller. */
  readonly signal?: AbortSignal | undefined;
}

/** What a chunk store needs of threads. */
export interface Threads {
  readonly size: number;
  run<Name extends JobName>(job: Name, ask: Ask<Name>, options?: JobOptions): Promise<Answer<Name>>;
  /** Jobs that run or wait fail. */
  close(): Promise<void>;
}

/**
 * A few worker threads that are started when they are first needed and keep no process alive. A thread that is free does
 * what only it can do first, and then what any can.
 */
export class ThreadPool implements Threads {
  readonly #threads: readonly Thread[];
  readonly #queue: Waiting[] = [];
  #closed = false;

  constructor(threads: number) {
    this.#threads = Array.from({ length: threads }, () => ({
      worker: undefined,
      busy: undefined,
      bound: [],
    }));
  }

  get size(): number {
    return this.#threads.length;
  }

  /** Does a job; settles when the thread has done with it, or never began. Throws BlobError, or the signal's reason. */
  async run<Name extends JobName>(
    job: Name,
    ask: Ask<Name>,
    options: JobOptions = {},
  ): Promise<Answer<Name>> {
    const { thread, transfer = [], signal } = options;
    if (signal?.aborted) throw abortReason(signal);
    if (this.#closed) throw new BlobError('failed', 'the chunk store is closed');
    const answer = await new Promise<Answer<JobName>>((resolve, reject) => {
      const request = { job, ask } as Request;
      const queue = thread === undefined ? this.#queue : this.#threads[thread]?.bound;
      if (!queue) throw new RangeError(`there is no thread ${thread}`);
      queue.push({ request, transfer, signal, resolve, reject });
      for (const each of this.#threads) this.#next(each);
    });
    if (signal?.aborted) throw abortReason(signal);
    return answer;
  }

  /** Ends the threads; jobs that run or wait fail. */
  async close(): Promise<void> {
    this.#closed = true;
    const why = new BlobError('failed', 'the chunk store is closed');
    for (const waiting of [
      ...this.#queue.splice(0),
      ...this.#threads.flatMap(({ bound }) => bound.splice(0)),
    ])
      waiting.reject(why);
    await Promise.all(this.#threads.map(async (thread) => thread.worker?.terminate()));
  }

  #next(thread: Thread): void {
    if (thread.busy) return;
    let next = thread.bound.shift() ?? this.#queue.shift();
    while (next?.signal?.aborted) {
      next.reject(abortReason(next.signal));
      next = thread.bound.shift() ?? this.#queue.shift();
    }
    if (!next) {
      thread.worker?.unref();
      return;
    }
    thread.busy = next;
    thread.worker ??= this.#start(thread);
    thread.worker.ref();
    thread.worker.postMessage(next.request, next.transfer);
  }

  #start(thread: Thread): Worker {
    const worker = new Worker(new URL('./thread.ts', import.meta.url), {
      name: 'hatch-chunks',
      // Its files are opened and closed by others.
      trackUnmanagedFds: false,
      // Their heaps hold next to nothing; a small limit lets go of the buffers beside them early, which is most of what they use.
      resourceLimits: { maxOldGenerationSizeMb: 32, maxYoungGenerationSizeMb: 2 },
    });
    worker.on('message', (reply: Reply) => {
      const done = thread.busy;
      thread.busy = undefined;
      if (reply.ok) done?.resolve(reply.answer);
      else done?.reject(new BlobError(reply.kind, reply.message, reply.stack));
      this.#next(thread);
    });
    // A thread that fails by itself (out of memory) fails its job; the packs that were open in it are unknown to its successor.
    let why: unknown;
    worker.on('error', (error: unknown) => {
      why = error;
    });
    worker.on('exit', () => {
      const done = thread.busy;
      thread.busy = undefined;
      thread.worker = undefined;
      done?.reject(
        new BlobError('failed', 'a thread of the chunk store ended in the middle of its work', why),
      );
      if (!this.#closed) this.#next(thread);
    });
    return worker;
  }
}
