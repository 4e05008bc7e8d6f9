import { abortReason } from '../base/clock.ts';
import { killGroup, launch, launchError, type Heard } from './launch.ts';

export type Argv = readonly [string, ...string[]];

export interface RunOptions {
  /** Milliseconds until the command is killed; 30 s unless told. */
  readonly timeoutMs?: number;
  /** Given on standard input, which is closed after it; empty unless told. */
  readonly input?: string | Uint8Array;
  /** More for standard input, once it is known. Where it rejects nothing more comes, and when the command has ended that is thrown. */
  readonly rest?: Promise<string | Uint8Array>;
  readonly cwd?: string;
  /** Added to a small fixed environment (PATH, LC_ALL=C); the daemon's own is not handed on, it holds secrets. */
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** Called for every line of output as it comes. */
  readonly onLine?: (line: string, stream: 'stdout' | 'stderr') => void;
  /** Exit codes that are no failure; [0] unless told. */
  readonly okExitCodes?: readonly number[];
}

export interface RunResult {
  /** Up to 4 MiB of each; what is over is cut at the front. */
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

/** Runs a command to its end: never through a shell, always with a deadline. Throws CommandFailed. */
export type Run = (argv: Argv, options?: RunOptions) => Promise<RunResult>;

/** A command that could not be started, was killed, or ended with an exit code that was not expected. */
export class CommandFailed extends Error {
  override readonly name = 'CommandFailed';
  readonly argv: Argv;
  /** undefined when it could not be started or was killed. */
  readonly exitCode: number | undefined;
  readonly stderrTail: string;
  /** The program is not installed. */
  readonly missing: boolean;

  constructor(
    argv: Argv,
    why: string,
    fields: { exitCode?: number | undefined; stderrTail?: string; missing?: boolean; cause?: unknown },
  ) {
    const tail = (fields.stderrTail ?? '').trim();
    super(`${argv[0]} ${why}${tail ? `: ${tail.split('\n').slice(-3).join(' | ')}` : ''}`, {
      cause: fields.cause,
    });
    this.argv = argv;
    this.exitCode = fields.exitCode;
    this.stderrTail = tail;
    this.missing = fields.missing ?? false;
  }
}

const KEEP = 4 * 1024 * 1024;
const TAIL = 2000;
export const BASE_ENV: Readonly<Record<string, string>> = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LC_ALL: 'C',
  HOME: '/root',
};

/** Runs a command of this machine in its own process group, so that its children end with it. */
export const run: Run = (argv, options = {}) =>
  new Promise((resolve, reject) => {
    const { timeoutMs = 30_000, signal, okExitCodes = [0], rest } = options;
    if (signal?.aborted) {
      rest?.catch(() => undefined);
      return reject(abortReason(signal));
    }
    let ended = false;
    let pid: number | undefined;
    let withoutRest: Error | undefined;
    const kept = {
      stdout: new Output('stdout', options.onLine),
      stderr: new Output('stderr', options.onLine),
    };
    const finish = (act: () => void): void => {
      if (ended) return;
      ended = true;
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      act();
    };
    const fail = (why: string, more: { exitCode?: number; missing?: boolean; cause?: unknown }): void =>
      finish(() =>
        reject(new CommandFailed(argv, why, { ...more, stderrTail: kept.stderr.text.slice(-TAIL) })),
      );
    const hear = (heard: Heard): void => {
      switch (heard.kind) {
        case 'spawned':
          pid = heard.pid;
          return;
        case 'failed':
          return fail(heard.code === 'ENOENT' ? 'is not installed' : 'could not be started', {
            missing: heard.code === 'ENOENT',
            cause: launchError(heard),
          });
        case 'output':
          return kept[heard.stream].take(heard.chunk);
        case 'exit':
          return;
        case 'lost':
          killGroup(pid);
          return fail('was lost: the process that had started it was killed', {});
        case 'close': {
          const { code } = heard;
          kept.stdout.end();
          kept.stderr.end();
          if (withoutRest) {
            const why = withoutRest;
            return finish(() => reject(why));
          }
          if (code === null) return fail(`was killed by ${heard.signal ?? 'a signal'}`, {});
          if (!okExitCodes.includes(code)) return fail(`ended with exit code ${code}`, { exitCode: code });
          finish(() => resolve({ stdout: kept.stdout.text, stderr: kept.stderr.text, exitCode: code }));
        }
      }
    };
    const child = launch(
      {
        argv,
        cwd: options.cwd,
        env: { ...BASE_ENV, ...options.env },
        output: 'piped',
        input: options.input ?? '',
        restComes: rest !== undefined,
      },
      hear,
    );
    rest?.then(
      (more) => child.giveRest(more),
      (why: unknown) => {
        withoutRest = why instanceof Error ? why : new Error(String(why));
        child.giveRest('');
      },
    );
    const onAbort = (): void => {
      child.kill();
      finish(() => reject(signal ? abortReason(signal) : new Error('aborted')));
    };
    const timer = setTimeout(() => {
      child.kill();
      fail(`was killed after ${timeoutMs} ms`, {});
    }, timeoutMs);
    signal?.addEventListener('abort', onAbort, { once: true });
  });

class Output {
  text = '';
  #line = '';
  readonly #decoder = new TextDecoder();
  readonly #name: 'stdout' | 'stderr';
  readonly #onLine: RunOptions['onLine'];

  constructor(name: 'stdout' | 'stderr', onLine: RunOptions['onLine']) {
    this.#name = name;
    this.#onLine = onLine;
  }

  take(chunk: Uint8Array): void {
    const text = this.#decoder.decode(chunk, { stream: true });
    this.text += text;
    if (this.text.length > KEEP) this.text = this.text.slice(-KEEP);
    if (!this.#onLine) return;
    const lines = (this.#line + text).split(/\r?\n|\r/);
    this.#line = lines.pop() ?? '';
    for (const line of lines) this.#onLine(line, this.#name);
  }

  end(): void {
    if (this.#line && this.#onLine) this.#onLine(this.#line, this.#name);
    this.#line = '';
  }
}
