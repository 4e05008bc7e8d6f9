import type { Socket } from 'node:net';
import { deadline, DeadlineExceeded, raceAbort } from '../../base/deadline.ts';
import { connectUnix, JsonLines } from '../../host/json-lines.ts';
import { VmmError } from '../driver.ts';

/** An event of QEMU's (https://qemu-project.gitlab.io/qemu/interop/qmp-spec.html): `SHUTDOWN`, `STOP`, `RESUME`... */
export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
  readonly timestamp: { readonly seconds: number; readonly microseconds: number };
}

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** How long QEMU may take to answer one command. */
const ANSWER_MS = 30_000;

/** A client of QEMU's machine protocol on its unix socket. One at a time: a second client waits unheard. */
export class Qmp {
  readonly #lines: JsonLines;
  readonly #waiting = new Map<number, Waiting>();
  readonly #answerMs: number;
  #nextId = 1;
  #greeted: () => void = () => undefined;
  #onEvent: (event: QmpEvent) => void;
  /** Resolves when the connection has ended: with QEMU itself, as a rule. */
  readonly closed: Promise<void>;

  private constructor(socket: Socket, onEvent: (event: QmpEvent) => void, answerMs: number) {
    this.#onEvent = onEvent;
    this.#answerMs = answerMs;
    this.#lines = new JsonLines(socket, (message) => this.#hear(message));
    this.closed = this.#lines.closed.then((cause) => {
      const gone = new VmmError('QEMU ended the connection', { cause });
      for (const { reject } of this.#waiting.values()) reject(gone);
      this.#waiting.clear();
    });
  }

  /**
   * Connects, hears the greeting and leaves negotiation mode. Waits for the greeting until the signal aborts: it comes when
   * QEMU has set up the machine, or when a client before us has gone. Throws the system's error, VmmError or the signal's
   * reason.
   */
  static async connect(
    path: string,
    onEvent: (event: QmpEvent) => void,
    signal: AbortSignal,
    answerMs = ANSWER_MS,
  ): Promise<Qmp> {
    const socket = await connectUnix(path, signal);
    const qmp = new Qmp(socket, onEvent, answerMs);
    try {
      const greeted = new Promise<void>((resolve) => (qmp.#greeted = resolve));
      await raceAbort(Promise.race([greeted, qmp.closed.then(gone)]), signal);
      await qmp.execute('qmp_capabilities', {}, signal);
      return qmp;
    } catch (error) {
      qmp.close();
      throw error;
    }
  }

  /** Gives what the command returns. Throws VmmError with QEMU's own words, or of kind `timeout` when it has none. */
  async execute(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    signal?: AbortSignal,
  ): Promise<unknown> {
    const id = this.#nextId++;
    const answered = new Promise<unknown>((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.#lines.send({ execute: command, arguments: args, id });
    try {
      return await deadline(
        `QEMU's answer to ${command}`,
        this.#answerMs,
        () => Promise.race([answered, this.closed.then(gone)]),
        signal,
      );
    } catch (error) {
      throw error instanceof DeadlineExceeded
        ? new VmmError(error.message, { kind: 'timeout', cause: error })
        : error;
    } finally {
      this.#waiting.delete(id);
      answered.catch(() => undefined);
    }
  }

  /** Ends the connection; QEMU goes on. */
  close(): void {
    this.#onEvent = () => undefined;
    this.#lines.end();
  }

  #hear(message: unknown): void {
    if (typeof message !== 'object' || message === null) return;
    const said = message as Record<string, unknown>;
    if ('QMP' in said) return this.#greeted();
    if (typeof said['event'] === 'string') return this.#onEvent(said as unknown as QmpEvent);
    const waiting = typeof said['id'] === 'number' ? this.#waiting.get(said['id']) : undefined;
    if (!waiting) return;
    if ('error' in said) {
      const { desc } = said['error'] as { readonly desc?: unknown };
      waiting.reject(new VmmError(`QEMU refused: ${String(desc)}`));
    } else waiting.resolve(said['return']);
  }
}

function gone(): never {
  throw new VmmError('QEMU ended the connection');
}
