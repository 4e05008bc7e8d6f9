import { Worker } from 'node:worker_threads';
import type { Clock } from '../../../base/clock.ts';
import { allDone } from '../../../base/all-done.ts';
import { errorFields, type Logger } from '../../../base/logger.ts';
import type { RouteBook } from '../../../ops/route-book.ts';
import type { Certificate } from '../door.ts';
import { MOST_CONNECTIONS, type ProxyOptions } from '../proxy.ts';
import { VisitServer, type VisitServerDeps } from './visit-server.ts';
import type { FromThread, ThreadData, ToThread } from './messages.ts';

/** A thread that ended by a defect is begun anew after so long, in milliseconds. */
const AGAIN_MS = 1000;
/** Most of what a request needs is garbage in a moment: with more room for it, less is looked through. */
const YOUNG_MB = 64;

export interface ThreadsDeps extends VisitServerDeps {
  readonly routeBook: Pick<RouteBook, 'edition'>;
  readonly clock: Clock;
  readonly log: Logger;
}

export interface ThreadsOptions extends ProxyOptions {
  readonly threads: number;
  /** Where they listen: all at the same port, between whose sockets Linux shares out connections (SO_REUSEPORT, socket(7)). */
  readonly place: ThreadData['place'];
}

/** The proxy in threads of its own, so that it has every processor, and neither it nor the API waits for the other. */
export class ProxyThreads {
  readonly #deps: ThreadsDeps;
  readonly #options: ThreadsOptions;
  readonly #ending = new AbortController();
  readonly #threads = new Set<Thread>();
  #certificate: Certificate | undefined;

  constructor(deps: ThreadsDeps, options: ThreadsOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#certificate = options.certificate;
  }

  /** Begins them; resolves when all listen. Throws the error, with its code, of one that cannot; then none does. */
  async open(): Promise<void> {
    try {
      await allDone(Array.from({ length: this.#options.threads }, () => this.#begin()));
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  /** How many there are. */
  get size(): number {
    return this.#threads.size;
  }

  /** Has all of them show another certificate to those who connect from now on. Rejects when it will not do. */
  async renew(certificate: Certificate): Promise<void> {
    await allDone([...this.#threads].map((thread) => thread.renew(certificate)));
    this.#certificate = certificate;
  }

  /** Takes nobody in any more, and ends what is open; resolves when that is so. */
  async close(): Promise<void> {
    this.#ending.abort(new Error('the proxy closes'));
    await Promise.all([...this.#threads].map((thread) => thread.close()));
  }

  async #begin(): Promise<void> {
    const { threads, place, mostConnections = MOST_CONNECTIONS, ...options } = this.#options;
    const data: ThreadData = {
      options: {
        ...options,
        certificate: this.#certificate,
        mostConnections: Math.ceil(mostConnections / threads),
      },
      place,
      edition: this.#deps.routeBook.edition,
    };
    const thread = new Thread(this.#deps, data);
    this.#threads.add(thread);
    void thread.ended.then(() => {
      this.#threads.delete(thread);
      if (this.#ending.signal.aborted || !thread.hasListened) return;
      this.#deps.log.error(thread.why, 'a thread of the proxy ended; another takes its place');
      void this.#beginAgain();
    });
    await thread.listening;
  }

  async #beginAgain(): Promise<void> {
    const { log, clock } = this.#deps;
    const { signal } = this.#ending;
    while (!signal.aborted) {
      try {
        await clock.sleep(AGAIN_MS, signal);
        return await this.#begin();
      } catch (error) {
        if (!signal.aborted) log.error(errorFields(error), 'a thread of the proxy could not be begun anew');
      }
    }
  }
}

class Thread {
  readonly #worker: Worker;
  readonly #renewals = new Map<number, (wrong: Error | undefined) => void>();
  readonly #listening = Promise.withResolvers<void>();
  #next = 1;
  #error: unknown;
  hasListened = false;
  /** Resolves when it has ended, whatever of. */
  readonly ended: Promise<void>;

  constructor(deps: ThreadsDeps, data: ThreadData) {
    this.#worker = new Worker(new URL('./thread-main.ts', import.meta.url), {
      workerData: data,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB },
    });
    const server = new VisitServer(deps, (message) => this.#say(message));
    this.#worker.on('message', (message: FromThread) => this.#hear(message, server, deps));
    this.#worker.on('error', (error) => void (this.#error = error));
    this.ended = new Promise((resolve) => {
      this.#worker.once('exit', () => {
        server.close();
        const gone = new Error('the thread of the proxy has ended', { cause: this.#error });
        this.#listening.reject(gone);
        for (const renewed of this.#renewals.values()) renewed(gone);
        resolve();
      });
    });
    // Its end is heard by who begins another.
    this.#listening.promise.catch(() => undefined);
  }

  /** What it ended by, as fields of a log line; none where it was ended. */
  get why(): object {
    return this.#error === undefined ? {} : errorFields(this.#error);
  }

  get listening(): Promise<void> {
    return this.#listening.promise;
  }

  renew(certificate: Certificate): Promise<void> {
    const id = this.#next++;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#renewals.set(id, (wrong) => (wrong ? reject(wrong) : resolve()));
    this.#say({ kind: 'renew', id, certificate });
    return promise;
  }

  async close(): Promise<void> {
    this.#say({ kind: 'close' });
    await this.ended;
  }

  #say(message: ToThread): void {
    this.#worker.postMessage(message);
  }

  #hear(message: FromThread, server: VisitServer, { log }: ThreadsDeps): void {
    switch (message.kind) {
      case 'listening':
        this.hasListened = true;
        return this.#listening.resolve();
      case 'not_listening':
        this.#listening.reject(Object.assign(new Error(message.message), { code: message.code }));
        return void this.#worker.terminate();
      case 'closed':
        return void this.#worker.terminate();
      case 'renewed': {
        const renewed = this.#renewals.get(message.id);
        this.#renewals.delete(message.id);
        return renewed?.(message.wrong === undefined ? undefined : new Error(message.wrong));
      }
      case 'log':
        return log[message.level](message.fields, message.message);
      default:
        server.hear(message);
    }
  }
}
