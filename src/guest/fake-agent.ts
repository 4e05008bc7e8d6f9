import { duplexPair, type Duplex } from 'node:stream';
import { AgentLines, MARK } from './agent-lines.ts';
import { FakeAgentFiles, isFileCommand } from './fake-agent-files.ts';
import { fieldOf } from './fields.ts';

/** What a program the fake agent was told to run did: it is reported when nobody holds its outputs any more. */
export interface FakeOutcome {
  readonly exitCode: number | null;
  readonly signal: number | null;
  readonly out: Buffer;
  readonly err: Buffer;
}

export type FakeProgram = (request: {
  readonly path: string;
  readonly args: readonly string[];
  readonly stdin: Buffer | null;
}) => Promise<FakeOutcome>;

/**
 * A qemu-guest-agent in memory, with its manners: silent before the guest is up and towards a second client, answers in the
 * order of the requests, an exec's result given once. What happens to the channel is the test's to say.
 */
export class FakeGuestAgent {
  /** Before the guest is up what is said to it is lost. */
  up = true;
  /** Answers come in pieces of this many bytes; 0: whole. */
  pieceBytes = 0;
  /** The channel ends when this is asked, after the work is done and before the answer. */
  dropAt: string | undefined;
  /** Answers to these are kept back until the next request, as those of a guest that stood still. */
  lateAt: string | undefined;
  /** Commands refused with an error of the agent. */
  readonly refused = new Map<string, string>();
  /** The guest's clock, in nanoseconds. */
  timeNs = 0n;
  /** Its `date`: busybox's takes whole seconds only. */
  date: 'gnu' | 'busybox' = 'gnu';
  /** Programs it has not. */
  readonly lacks = new Set<string>();
  /** Files of the guest. */
  readonly inside = new FakeAgentFiles();
  readonly shutdowns: string[] = [];
  readonly asked: string[] = [];
  connections = 0;
  readonly #program: FakeProgram;
  readonly #results = new Map<number, FakeOutcome | undefined>();
  #nextPid = 100;
  #client: Duplex | undefined;
  #late: string[] = [];

  constructor(program: FakeProgram) {
    this.#program = program;
  }

  readonly connect = async (): Promise<Duplex> => {
    this.connections++;
    const [ours, theirs] = duplexPair();
    const lines = new AgentLines(64 * 1024 * 1024);
    ours.on('error', () => undefined);
    if (this.#client && !this.#client.destroyed) {
      ours.resume();
      return theirs;
    }
    this.#client = ours;
    theirs.once('close', () => ours.destroy());
    let begun = false;
    ours.on('data', (chunk: Buffer) => {
      if (!this.up) return;
      for (const piece of lines.take(chunk)) {
        // A mark in the middle of a request is a syntax error, and the agent says so.
        if (piece.kind === 'mark' && begun) this.#say(ours, error('JSON parse error, stray byte'));
        if (piece.kind === 'line') this.#hear(ours, piece.text);
      }
      begun = chunk.at(-1) !== 0x0a && chunk.at(-1) !== MARK;
    });
    return theirs;
  };

  /** Ends the channel, as a guest that reboots does. */
  drop(): void {
    this.#client?.destroy();
    this.#client = undefined;
  }

  /** Something nobody asked for, as left over from a client before. */
  blurt(bytes: string | Buffer): void {
    this.#client?.write(bytes);
  }

  /** How many results wait to be asked for. */
  get uncollected(): number {
    return this.#results.size;
  }

  #hear(client: Duplex, text: string): void {
    const request: unknown = JSON.parse(text);
    const command = String(fieldOf(request, 'execute'));
    const given = fieldOf(request, 'arguments');
    this.asked.push(command);
    const answer = this.#answer(command, given, text);
    for (const late of this.#late.splice(0)) this.#say(client, late);
    if (this.dropAt === command) {
      this.dropAt = undefined;
      this.drop();
    } else if (this.lateAt === command && answer !== undefined) {
      this.lateAt = undefined;
      this.#late.push(answer);
    } else if (answer !== undefined) {
      this.#say(client, answer, command === 'guest-sync-delimited');
    }
  }

  #answer(command: string, given: unknown, text: string): string | undefined {
    const refusal = this.refused.get(command);
    if (refusal !== undefined) {
      // The real one sets the clock before it fails to call hwclock.
      if (command === 'guest-set-time') this.#setTime(text);
      return error(refusal);
    }
    if (isFileCommand(command)) {
      const answer = this.inside.answer(command, given);
      return typeof answer === 'string' ? error(answer) : JSON.stringify({ return: answer.value });
    }
    switch (command) {
      case 'guest-sync-delimited':
        return JSON.stringify({ return: fieldOf(given, 'id') });
      case 'guest-info':
        return JSON.stringify({
          return: {
            version: '7.2.22',
            supported_commands: [
              { name: 'guest-exec', enabled: true, 'success-response': true },
              { name: 'guest-suspend-disk', enabled: false, 'success-response': false },
            ],
          },
        });
      case 'guest-set-time':
        this.#setTime(text);
        return '{"return": {}}';
      case 'guest-get-time':
        return `{"return": ${this.timeNs}}`;
      case 'guest-shutdown':
        this.shutdowns.push(String(fieldOf(given, 'mode')));
        return undefined;
      case 'guest-exec':
        if (this.lacks.has(String(fieldOf(given, 'path'))))
          return error(
            `Failed to execute child process “${String(fieldOf(given, 'path'))}” (No such file or directory)`,
          );
        return JSON.stringify({ return: { pid: this.#start(given) } });
      case 'guest-exec-status':
        return this.#status(Number(fieldOf(given, 'pid')));
      default:
        return error(`The command ${command} has not been found`, 'CommandNotFound');
    }
  }

  /** Read from the text: a JavaScript number would round it. */
  #setTime(text: string): void {
    this.timeNs = BigInt(/"time":\s*(\d+)/.exec(text)?.[1] ?? 0);
  }

  #start(given: unknown): number {
    const pid = this.#nextPid++;
    const args = fieldOf(given, 'arg');
    const input = fieldOf(given, 'input-data');
    if (fieldOf(given, 'path') === 'date') {
      // Never the one of the machine the tests run on.
      this.#results.set(pid, this.#date(Array.isArray(args) ? args.map(String) : []));
      return pid;
    }
    this.#results.set(pid, undefined);
    void this.#program({
      path: String(fieldOf(given, 'path')),
      args: Array.isArray(args) ? args.map(String) : [],
      stdin: typeof input === 'string' ? Buffer.from(input, 'base64') : null,
    }).then((outcome) => this.#results.set(pid, outcome));
    return pid;
  }

  #date([option, when]: readonly string[]): FakeOutcome {
    const [, seconds, fraction] = /^@(\d+)(?:\.(\d{1,9}))?$/.exec(when ?? '') ?? [];
    const understood =
      option === '-s' && seconds !== undefined && (fraction === undefined || this.date === 'gnu');
    if (understood) this.timeNs = BigInt(seconds + (fraction ?? '').padEnd(9, '0'));
    const none = Buffer.alloc(0);
    return { exitCode: understood ? 0 : 1, signal: null, out: none, err: none };
  }

  #status(pid: number): string {
    if (!this.#results.has(pid)) return error("Invalid parameter 'pid'");
    const outcome = this.#results.get(pid);
    if (!outcome) return '{"return": {"exited": false}}';
    this.#results.delete(pid);
    return JSON.stringify({
      return: {
        exited: true,
        ...(outcome.exitCode === null ? {} : { exitcode: outcome.exitCode }),
        ...(outcome.signal === null ? {} : { signal: outcome.signal }),
        ...(outcome.out.length > 0 ? { 'out-data': outcome.out.toString('base64') } : {}),
        ...(outcome.err.length > 0 ? { 'err-data': outcome.err.toString('base64') } : {}),
      },
    });
  }

  #say(client: Duplex, answer: string, mark = false): void {
    const bytes = Buffer.concat([Buffer.from(mark ? [MARK] : []), Buffer.from(`${answer}\n`)]);
    const step = this.pieceBytes || bytes.length;
    for (let at = 0; at < bytes.length; at += step) client.write(bytes.subarray(at, at + step));
  }
}

function error(desc: string, kind = 'GenericError'): string {
  return JSON.stringify({ error: { class: kind, desc } });
}
