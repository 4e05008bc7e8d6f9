import { randomInt } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { raceAbort } from '../base/deadline.ts';
import { AgentGone, AgentRefused } from './agent.ts';
import { fieldOf } from './fields.ts';
import { AgentLines, MARK, type AgentPiece } from './agent-lines.ts';

/** 1 MiB of each output in base64 is 2.8 MiB; nothing an agent says to us is longer. */
const MOST_LINE_BYTES = 8 * 1024 * 1024;
const MOST_WAITING_PIECES = 4096;
/** An agent that has answered an older sync is there and busy: it is given this long for the newest. */
const BUSY_MS = 10_000;

/**
 * One stream to an agent. Requests and answers carry no id: an answer belongs to the request before it, so one asks at a
 * time, and after silence nobody knows whose the next answer is, until `sync` has found it out.
 */
export class AgentConnection {
  readonly #stream: Duplex;
  readonly #clock: Clock;
  readonly #lines = new AgentLines(MOST_LINE_BYTES);
  #pieces: AgentPiece[] = [];
  #wake: (() => void) | undefined;
  #gone: AgentGone | undefined;
  /** Whether the next line is the answer to the next request. */
  #inStep = false;

  constructor(stream: Duplex, clock: Clock) {
    this.#stream = stream;
    this.#clock = clock;
    stream.on('data', (chunk: Buffer) => this.#take(chunk));
    stream.on('error', (error) => this.#end('The channel to the guest agent broke', error));
    stream.on('end', () => this.#end('The channel to the guest agent ended'));
    stream.on('close', () => this.#end('The channel to the guest agent was closed'));
  }

  get gone(): boolean {
    return this.#gone !== undefined;
  }

  close(why: string): void {
    this.#end(why);
  }

  /** Asks one thing and gives its answer. Throws AgentRefused, AgentGone, or the signal's reason. */
  async ask(command: string, argumentsJson: string, signal: AbortSignal): Promise<unknown> {
    if (!this.#inStep) await this.sync(signal);
    // What came before the question is no answer to it.
    this.#pieces = [];
    this.tell(command, argumentsJson);
    try {
      const answer = await this.answer(signal);
      this.#inStep = true;
      return answer;
    } catch (error) {
      // A refusal is an answer too.
      this.#inStep = error instanceof AgentRefused;
      throw error;
    }
  }

  /** Sends a request without waiting for its answer; one may come (`answer`), and the next `ask` finds its step anew. */
  tell(command: string, argumentsJson: string): void {
    this.#write(`{"execute":"${command}","arguments":${argumentsJson}}\n`);
    this.#inStep = false;
  }

  /** The next answer. Throws AgentRefused when it is an error, AgentGone when it is none or the channel ends. */
  async answer(signal: AbortSignal): Promise<unknown> {
    const answer = parse((await this.#next('line', signal)).text);
    if (answer === undefined) {
      this.#end('The guest agent answered with something that is not its protocol');
      throw this.#gone ?? new AgentGone();
    }
    if (answer.error) throw new AgentRefused(answer.error.desc, answer.error.class);
    return answer.value;
  }

  /**
   * Finds the step: asks the agent to say a random number after a mark no answer holds, again and again while it is
   * silent (it may not be up yet, and what was sent before that is lost), and forgets all that came before.
   */
  async sync(signal: AbortSignal): Promise<void> {
    for (let waitMs = 250; ; waitMs = Math.min(waitMs * 2, 1000)) {
      signal.throwIfAborted();
      const id = randomInt(1, 2 ** 31);
      // The mark first, so that the agent drops what it may have of a half-sent request.
      this.#write(Buffer.of(MARK));
      this.tell('guest-sync-delimited', `{"id":${id}}`);
      if (await this.#heard(id, waitMs, signal)) {
        this.#inStep = true;
        return;
      }
    }
  }

  /** Whether the agent says the number in time; a number of before shows that it is there, and gives it more time. */
  async #heard(id: number, waitMs: number, signal: AbortSignal): Promise<boolean> {
    const enough = new AbortController();
    const soon = new AbortController();
    const late = new AbortController();
    const giveUp = (ms: number, unless: AbortSignal): void =>
      void this.#clock.sleep(ms, unless).then(
        () => enough.abort(),
        () => undefined,
      );
    giveUp(waitMs, soon.signal);
    const until = AbortSignal.any([signal, enough.signal]);
    try {
      for (;;) {
        await this.#next('mark', until);
        const answer = parse((await this.#next('line', until)).text);
        if (answer?.value === id) return true;
        if (soon.signal.aborted) continue;
        soon.abort();
        giveUp(BUSY_MS, late.signal);
      }
    } catch (error) {
      if (enough.signal.aborted && !signal.aborted && !this.#gone) return false;
      throw error;
    } finally {
      soon.abort();
      late.abort();
    }
  }

  async #next<K extends AgentPiece['kind']>(
    kind: K,
    signal: AbortSignal,
  ): Promise<Extract<AgentPiece, { kind: K }>> {
    for (;;) {
      for (let piece = this.#pieces.shift(); piece; piece = this.#pieces.shift()) {
        if (isKind(piece, kind)) return piece;
      }
      if (this.#gone) throw this.#gone;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await raceAbort(promise, signal);
    }
  }

  #take(chunk: Buffer): void {
    try {
      this.#pieces.push(...this.#lines.take(chunk));
      if (this.#pieces.length > MOST_WAITING_PIECES)
        throw new RangeError('the agent sends what nobody asked for');
    } catch (error) {
      this.#end('The guest agent sends more than it may', error);
    }
    this.#wake?.();
  }

  #write(data: string | Buffer): void {
    if (this.#gone) throw this.#gone;
    this.#stream.write(data);
  }

  #end(why: string, cause?: unknown): void {
    if (this.#gone) return;
    this.#gone = new AgentGone(`${why}.`, cause === undefined ? undefined : { cause });
    this.#stream.destroy();
    this.#wake?.();
  }
}

function isKind<K extends AgentPiece['kind']>(
  piece: AgentPiece,
  kind: K,
): piece is Extract<AgentPiece, { kind: K }> {
  return piece.kind === kind;
}

interface Answer {
  readonly value?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
}

/** Reads `{"return": ...}` or `{"error": {"class", "desc"}}`; undefined when it is neither. */
function parse(text: string): Answer | undefined {
  let answer: unknown;
  try {
    answer = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof answer !== 'object' || answer === null) return undefined;
  if ('return' in answer) return { value: answer.return };
  const error = fieldOf(answer, 'error');
  if (error === undefined) return undefined;
  return { error: { class: wordOf(error, 'class'), desc: wordOf(error, 'desc') } };
}

function wordOf(value: unknown, name: string): string {
  const word = fieldOf(value, name);
  return typeof word === 'string' ? word : 'unknown';
}
