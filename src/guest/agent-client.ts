import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { raceAbort } from '../base/deadline.ts';
import { errorFields, type Logger } from '../base/logger.ts';
import {
  AgentGone,
  AgentRefused,
  type AgentFile,
  type ExecCommand,
  type ExecResult,
  type GuestAgent,
  type GuestProgram,
  type StartedProgram,
} from './agent.ts';
import { AgentConnection } from './agent-connection.ts';
import { openAgentFile } from './agent-file.ts';
import { fieldOf } from './fields.ts';
import { execArguments, execResult, programArguments, programResult } from './agent-exec.ts';

export interface AgentDeps {
  /** A stream to the agent; asked for one at a time, and again when the last one broke. */
  readonly connect: (signal: AbortSignal) => Promise<Duplex>;
  readonly clock: Clock;
  readonly log: Logger;
}

/** How long an agent that is up has for an answer; emulated guests with busy processors need seconds. */
const ANSWER_MS = 20_000;
/** A refusal to shut down comes within this; a guest that does it never answers. */
const REFUSAL_MS = 1_000;
/** A guest's clock this near to ours is set. */
const CLOCK_SLACK_MS = 2_000;
/** `date` sets it in one process; a guest that has not done it by then is asked another way. */
const DATE_MS = 5_000;
/** How often it is asked whether what was started has ended: after this at first, each time this much later, at most so much later. */
const ASK = { firstMs: 10, times: 1.4, mostMs: 500 } as const;
/** How much of a file is asked for at a time. */
const PIECE_BYTES = 65_536;
const UNFINISHED: ExecResult = { exitCode: null, stdout: '', stderr: '', truncated: false, timedOut: true };

/** The agent of a guest, connected to when it is first asked for something. Nothing else may use its channel meanwhile. */
export function openAgent(deps: AgentDeps): GuestAgent {
  return new AgentClient(deps);
}

class AgentClient implements GuestAgent {
  readonly #deps: AgentDeps;
  readonly #closing = new AbortController();
  #connection: AgentConnection | undefined;
  /** Whether the guest has perl, as far as is known. */
  #perl = true;
  #lastTurn: Promise<void> = Promise.resolve();

  constructor(deps: AgentDeps) {
    this.#deps = deps;
  }

  async ping(signal: AbortSignal): Promise<void> {
    await this.#inTurn(this.#orClosed(signal), (connection, until) => connection.sync(until));
  }

  async exec(command: ExecCommand, signal: AbortSignal): Promise<ExecResult> {
    const nonce = randomBytes(12).toString('hex');
    const pid = await this.#run(command, nonce, signal);
    // The guest itself ends it in time.
    const heardIn = command.timeoutMs + ANSWER_MS;
    return raceAbort(
      this.#collect(pid, heardIn, (status) => execResult(status, nonce)),
      signal,
    );
  }

  async start(program: GuestProgram, signal: AbortSignal): Promise<StartedProgram> {
    const pid = await this.#exec(programArguments(program), signal);
    return { ended: this.#collect(pid, program.timeoutMs, programResult, UNFINISHED) };
  }

  /** Starts a command by the quickest runner the guest has, and gives its pid there. */
  async #run(command: ExecCommand, nonce: string, signal: AbortSignal): Promise<number> {
    if (this.#perl) {
      try {
        return await this.#exec(execArguments(command, nonce, 'perl'), signal);
      } catch (error) {
        // Nothing was started.
        if (!(error instanceof AgentRefused)) throw error;
      }
    }
    const pid = await this.#exec(execArguments(command, nonce, 'sh'), signal);
    this.#perl = false;
    return pid;
  }

  /** Asks for a program and gives its pid in the guest. */
  async #exec(argumentsJson: string, signal: AbortSignal): Promise<number> {
    const pid = fieldOf(await this.#ask('guest-exec', argumentsJson, signal), 'pid');
    if (typeof pid !== 'number') throw new AgentGone('The guest agent did not say what it started.');
    return pid;
  }

  async open(path: string, mode: 'r' | 'r+', signal: AbortSignal): Promise<AgentFile> {
    return openAgentFile(
      {
        ask: (command, argumentsJson, until) => this.#ask(command, argumentsJson, until),
        // Nobody waits for it.
        tell: (command, argumentsJson) =>
          void this.#ask(command, argumentsJson, this.#closing.signal).catch((error: unknown) =>
            this.#deps.log.debug(errorFields(error), command),
          ),
      },
      { path, mode },
      signal,
    );
  }

  async read(path: string, signal: AbortSignal): Promise<string | undefined> {
    const file = await this.#openIfThere(path, 'r', signal);
    if (file === undefined) return undefined;
    try {
      const pieces: Buffer[] = [];
      let at = 0;
      for (let over = false; !over;) {
        const { bytes, ended } = await file.read(at, PIECE_BYTES, signal);
        pieces.push(bytes);
        at += bytes.length;
        over = ended;
      }
      return Buffer.concat(pieces).toString('utf8');
    } finally {
      file.close();
    }
  }

  async write(path: string, text: string, signal: AbortSignal): Promise<boolean> {
    // For reading too: a pipe that nobody reads would keep the agent waiting at its opening.
    const file = await this.#openIfThere(path, 'r+', signal);
    if (file === undefined) return false;
    try {
      await file.write(0, Buffer.from(text), signal);
      return true;
    } catch (error) {
      if (error instanceof AgentRefused) return false;
      throw error;
    } finally {
      // Until then it lies in the agent.
      file.close();
    }
  }

  async #openIfThere(path: string, mode: 'r' | 'r+', signal: AbortSignal): Promise<AgentFile | undefined> {
    try {
      return await this.open(path, mode, signal);
    } catch (error) {
      // There is none, or the agent is not allowed to.
      if (error instanceof AgentRefused) return undefined;
      throw error;
    }
  }

  async setTime(signal: AbortSignal): Promise<void> {
    if (!(await this.#dateSets(signal))) await this.#setTimeAndHwclock(signal);
  }

  /**
   * Not by guest-set-time: that sets the clock and then runs `hwclock --systohc`, which waits for the next whole second, and the agent
   * does nothing else meanwhile. Gives whether the guest's `date` has set it; busybox's takes whole seconds only.
   */
  async #dateSets(signal: AbortSignal): Promise<boolean> {
    for (const digits of [3, 0]) {
      const now = `@${(this.#deps.clock.now() / 1000).toFixed(digits)}`;
      try {
        const program = { argv: ['date', '-s', now], stdin: null, timeoutMs: DATE_MS } as const;
        const { ended } = await this.start(program, signal);
        if ((await raceAbort(ended, signal)).exitCode === 0) return true;
      } catch (error) {
        if (!(error instanceof AgentRefused)) throw error;
        return false;
      }
    }
    return false;
  }

  async #setTimeAndHwclock(signal: AbortSignal): Promise<void> {
    // Nanoseconds are beyond what a JavaScript number holds exactly.
    const nanoseconds = (ms: number): string => `${BigInt(ms) * 1_000_000n}`;
    try {
      await this.#ask('guest-set-time', `{"time":${nanoseconds(this.#deps.clock.now())}}`, signal);
    } catch (error) {
      // The agent sets the clock and then runs hwclock, which small guests lack: that is no failure of ours.
      if (!(error instanceof AgentRefused)) throw error;
      const off = Math.abs((await this.time(signal)) - this.#deps.clock.now());
      if (!(off <= CLOCK_SLACK_MS)) throw error;
    }
  }

  async time(signal: AbortSignal): Promise<number> {
    return Number(await this.#ask('guest-get-time', '{}', signal)) / 1e6;
  }

  async shutdown(mode: 'powerdown' | 'reboot', signal: AbortSignal): Promise<void> {
    await this.#within(ANSWER_MS, signal, (both) =>
      this.#inTurn(both, async (connection, until) => {
        await connection.sync(until);
        connection.tell('guest-shutdown', `{"mode":"${mode}"}`);
        const refused = this.#within(REFUSAL_MS, until, (limit) => connection.answer(limit));
        await refused.catch((error: unknown) => {
          // Silence, and a channel that ends, are what a guest does that goes down.
          if (error instanceof AgentRefused || until.aborted) throw error;
        });
      }),
    );
  }

  async info(
    signal: AbortSignal,
  ): Promise<{ readonly version: string; readonly supports: readonly string[] }> {
    const info = await this.#ask('guest-info', '{}', signal);
    const version = fieldOf(info, 'version');
    const commands = fieldOf(info, 'supported_commands');
    const supports = (Array.isArray(commands) ? commands : [])
      .filter((command) => fieldOf(command, 'enabled') !== false)
      .map((command) => fieldOf(command, 'name'))
      .filter((name) => typeof name === 'string');
    return { version: typeof version === 'string' ? version : 'unknown', supports };
  }

  close(): void {
    this.#closing.abort(new AgentGone('The connection to the guest agent was closed.'));
    this.#connection?.close('The connection to the guest agent was closed');
  }

  /** What came of a program. One that has not ended after so many milliseconds is `late`, or, without that, nobody's any more. */
  #collect(
    pid: number,
    mostMs: number,
    read: (status: unknown) => ExecResult | undefined,
    late?: ExecResult,
  ): Promise<ExecResult> {
    const result = this.#ended(pid, mostMs, read).then((found) => {
      const result = found ?? late;
      if (result) return result;
      throw new AgentGone('The guest agent did not say in time how the command ended.');
    });
    // Whoever waits may give up; the result is collected all the same, or the agent would keep it for ever.
    result.catch((error: unknown) => this.#deps.log.debug(errorFields(error), 'guest exec'));
    return result;
  }

  async #ended(
    pid: number,
    mostMs: number,
    read: (status: unknown) => ExecResult | undefined,
  ): Promise<ExecResult | undefined> {
    const { clock } = this.#deps;
    const never = this.#closing.signal;
    const end = clock.steady() + mostMs;
    for (
      let waitMs: number = ASK.firstMs;
      clock.steady() < end;
      waitMs = Math.min(waitMs * ASK.times, ASK.mostMs)
    ) {
      await clock.sleep(waitMs, never);
      try {
        const result = read(await this.#ask('guest-exec-status', `{"pid":${pid}}`, never));
        if (result) return result;
      } catch (error) {
        // The program runs on whatever becomes of the channel: the next one asks again.
        if (!(error instanceof AgentGone) || never.aborted) throw error;
      }
    }
    return undefined;
  }

  #ask(command: string, argumentsJson: string, signal: AbortSignal): Promise<unknown> {
    return this.#within(ANSWER_MS, signal, (both) =>
      this.#inTurn(both, (connection, until) => connection.ask(command, argumentsJson, until)),
    );
  }

  /** One at a time, in the order they came: the stream has room for one question. */
  async #inTurn<T>(
    signal: AbortSignal,
    work: (connection: AgentConnection, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const before = this.#lastTurn;
    const { promise: mine, resolve: done } = Promise.withResolvers<void>();
    this.#lastTurn = before.then(() => mine);
    try {
      await raceAbort(before, signal);
      return await work(await this.#connected(signal), signal);
    } finally {
      done();
    }
  }

  async #connected(signal: AbortSignal): Promise<AgentConnection> {
    signal.throwIfAborted();
    if (this.#connection && !this.#connection.gone) return this.#connection;
    const stream = this.#deps.connect(signal);
    try {
      this.#connection = new AgentConnection(await raceAbort(stream, signal), this.#deps.clock);
      return this.#connection;
    } catch (error) {
      // A stream that comes after we gave up would occupy the agent, which serves one.
      stream.then(
        (late) => late.destroy(),
        () => undefined,
      );
      if (signal.aborted) throw error;
      throw new AgentGone('The guest agent cannot be reached.', { cause: error });
    }
  }

  #orClosed(signal: AbortSignal): AbortSignal {
    return AbortSignal.any([signal, this.#closing.signal]);
  }

  /** Runs `work` with a signal that also aborts when the time is over or we are closed; AgentGone then. */
  async #within<T>(ms: number, signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const finished = new AbortController();
    const over = new AbortController();
    this.#deps.clock.sleep(ms, finished.signal).then(
      () => over.abort(new AgentGone(`The guest agent gave no answer for ${ms / 1000} s.`)),
      () => undefined,
    );
    try {
      return await work(AbortSignal.any([this.#orClosed(signal), over.signal]));
    } finally {
      finished.abort();
    }
  }
}
