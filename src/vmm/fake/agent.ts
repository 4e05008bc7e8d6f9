import { duplexPair, type Duplex } from 'node:stream';
import { systemClock } from '../../base/clock.ts';
import { bytesOf, FakeGuestFiles } from './guest-files.ts';
import { CLOCK_PATH, IDENTITY_PROGRAMS, runIdentityProgram, type FakeFiles } from './identity.ts';

/** The pretended guest, as its agent has it. */
export interface FakeInside extends FakeFiles {
  /** Resolves when the guest does not stand still; rejects when it has ended. */
  readonly awake: () => Promise<void>;
  readonly shutdown: (mode: 'powerdown' | 'reboot') => void;
}

/** As its programs have it. */
interface Inside extends FakeInside {
  readonly files: FakeGuestFiles;
}

interface Status {
  readonly exited: boolean;
  readonly exitcode?: number;
  readonly 'out-data'?: string;
  readonly 'err-data'?: string;
}

const SUPPORTED = [
  'guest-sync',
  'guest-sync-delimited',
  'guest-ping',
  'guest-info',
  'guest-exec',
  'guest-exec-status',
  'guest-get-time',
  'guest-set-time',
  'guest-shutdown',
  'guest-file-open',
  'guest-file-read',
  'guest-file-write',
  'guest-file-seek',
  'guest-file-flush',
  'guest-file-close',
];

/**
 * The agent of a pretended guest: the qemu-guest-agent protocol (one JSON object a line,
 * https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html) over a stream in memory. Its shell knows `echo` (also into
 * a file, with `>` at the end), `cat`, `date -s @SECONDS`, `true`, `false`, `exit N` and `sleep`; any other program is not found (127). It lets
 * itself be made another machine, as guest/identity.ts does it, and has files written and read, as guest/guest-file.ts does it. While the guest stands still the agent is silent, and answers
 * later what it was asked meanwhile.
 */
export function fakeAgent(inside: FakeInside): Duplex {
  const [ours, theirs] = duplexPair();
  const results = new Map<number, Status>();
  const timers = new Set<NodeJS.Timeout>();
  const files = new FakeGuestFiles(inside);
  let pid = 100;
  let pending = '';
  let lastTurn: Promise<void> = Promise.resolve();

  const say = (value: object, mark = ''): void => {
    if (ours.writable)
      ours.write(Buffer.concat([Buffer.from(mark, 'latin1'), Buffer.from(`${JSON.stringify(value)}\n`)]));
  };
  const refuse = (): void => say({ error: { class: 'GenericError', desc: 'the guest has ended' } });
  const exec = (args: Record<string, unknown>): void => {
    const mine = pid++;
    results.set(mine, { exited: false });
    say({ return: { pid: mine } });
    void runFake({ ...inside, files }, args).then(
      ({ afterMs, status }) => {
        const timer = setTimeout(() => {
          timers.delete(timer);
          results.set(mine, status);
        }, afterMs);
        timer.unref();
        timers.add(timer);
        // The guest ended in the middle of it: nobody answers any more.
      },
      () => void ours.destroy(),
    );
  };
  const hear = (line: string): void => {
    const { execute, arguments: args = {} } = JSON.parse(line) as {
      execute?: string;
      arguments?: Record<string, unknown>;
    };
    const answered = files.answer(String(execute), args);
    if (answered)
      return void answered.then(
        (answer) =>
          say(
            typeof answer === 'string'
              ? { error: { class: 'GenericError', desc: answer } }
              : { return: answer.value },
          ),
        () => void ours.destroy(),
      );
    switch (execute) {
      case 'guest-sync-delimited':
        return say({ return: args['id'] }, '\xff');
      case 'guest-sync':
        return say({ return: args['id'] });
      case 'guest-ping':
        return say({ return: {} });
      case 'guest-set-time':
        return void inside
          .write(CLOCK_PATH, `${Math.floor(Number(args['time']) / 1e9)}\n`)
          .then(() => say({ return: {} }), refuse);
      case 'guest-get-time':
        return void inside
          .read(CLOCK_PATH)
          .then(
            (text) => say({ return: (text === undefined ? systemClock.now() / 1000 : Number(text)) * 1e9 }),
            refuse,
          );
      case 'guest-info':
        return say({
          return: {
            version: 'pretended',
            supported_commands: SUPPORTED.map((name) => ({ name, enabled: true })),
          },
        });
      case 'guest-exec':
        return exec(args);
      case 'guest-exec-status': {
        const asked = Number(args['pid']);
        const status = results.get(asked);
        if (!status) return say({ error: { class: 'GenericError', desc: `Invalid parameter 'pid'` } });
        if (status.exited) results.delete(asked);
        return say({ return: status });
      }
      case 'guest-shutdown':
        return inside.shutdown(args['mode'] === 'reboot' ? 'reboot' : 'powerdown');
      default:
        return say({
          error: { class: 'CommandNotFound', desc: `The command ${String(execute)} has not been found` },
        });
    }
  };
  const answer = (line: string): void => {
    try {
      hear(line);
    } catch {
      say({ error: { class: 'GenericError', desc: 'JSON parse error' } });
    }
  };

  ours.on('data', (chunk: Buffer) => {
    const lines = (pending + chunk.toString('utf8').replaceAll('�', '')).split('\n');
    pending = lines.pop() ?? '';
    for (const line of lines) {
      if (line.trim() === '') continue;
      lastTurn = lastTurn.then(inside.awake).then(
        () => answer(line),
        () => void ours.destroy(),
      );
    }
  });
  ours.on('error', () => undefined);
  theirs.once('close', () => {
    for (const timer of timers) clearTimeout(timer);
    ours.destroy();
  });
  return theirs;
}

/** What a program does in the pretended guest, and after how many milliseconds it has done it. */
async function runFake(
  inside: Inside,
  args: Record<string, unknown>,
): Promise<{ readonly status: Status; readonly afterMs: number }> {
  const given = Array.isArray(args['arg']) ? args['arg'].map(String) : [];
  const stdin =
    typeof args['input-data'] === 'string' ? Buffer.from(args['input-data'], 'base64').toString('utf8') : '';
  // Commands come wrapped (guest/agent-exec.ts), in sh or in perl: -c RUNNER hatch-exec, or -e RUNNER, and then
  // NONCE SECONDS CWD COUNT [K=V...] PROGRAM ARG...
  const path = String(args['path']);
  const wrapped = path === 'perl' || given[2] === 'hatch-exec';
  const [nonce = '', seconds, , count, ...rest] = given.slice(path === 'perl' ? 2 : 3);
  const program = wrapped ? rest.slice(Number(count)) : [path, ...given];
  const did = await interpret(inside, program, stdin);
  const limitMs = wrapped ? Number(seconds) * 1000 : Infinity;
  const timedOut = did.forMs >= limitMs;
  const trailer = wrapped ? `\n${nonce} ${timedOut ? 0 : did.exitCode} ${timedOut ? 1 : 0} 0 0\n` : '';
  return {
    afterMs: Math.min(did.forMs, limitMs, 2 ** 31 - 1),
    status: {
      exited: true,
      exitcode: did.exitCode,
      'out-data': Buffer.from(did.out).toString('base64'),
      'err-data': Buffer.from(did.err + trailer).toString('base64'),
    },
  };
}

interface Did {
  readonly exitCode: number;
  readonly out: string;
  readonly err: string;
  readonly forMs: number;
}

async function interpret(inside: Inside, program: readonly string[], stdin: string): Promise<Did> {
  const did = { exitCode: 0, out: '', err: '', forMs: 0 };
  const [name, ...args] = program;
  switch (name) {
    case '/bin/sh':
    case 'sh': {
      // Whatever is written in it was written in this moment.
      if (args[2] === 'hatch-busy') {
        const said = await inside.read('/run/hatch/busy');
        return said === undefined ? did : { ...did, out: `${said}\nage 0\n` };
      }
      const said = await inside.files.run(args[2], args.slice(3));
      if (said !== undefined) return { ...did, out: said };
      const own = IDENTITY_PROGRAMS.find((one) => one === args[2]);
      if (own) {
        const runHook = async (text: string): Promise<Did> => {
          const it = await shell(inside, text.trim().split(/\s+/), '');
          return { ...it, out: it.out + it.err };
        };
        return { ...did, out: await runIdentityProgram(inside, { name: own, stdin, runHook }) };
      }
      return args[0] === '-c' ? shell(inside, (args[1] ?? '').trim().split(/\s+/), stdin) : did;
    }
    case 'echo':
      return { ...did, out: `${args.join(' ')}\n` };
    case 'cat': {
      const [path] = args;
      const kept = path === undefined ? stdin : await inside.read(path);
      const out = kept === undefined ? undefined : bytesOf(kept).toString('utf8');
      if (out !== undefined) return { ...did, out };
      return { ...did, exitCode: 1, err: `cat: ${path}: No such file or directory\n` };
    }
    case 'true':
      return did;
    case 'false':
      return { ...did, exitCode: 1 };
    case 'exit':
      return { ...did, exitCode: Number(args[0] ?? 0) };
    case 'date': {
      const [option, when = ''] = args;
      if (option !== '-s' || !/^@\d+(\.\d+)?$/.test(when))
        return { ...did, exitCode: 1, err: 'date: invalid date\n' };
      await inside.write(CLOCK_PATH, `${Math.floor(Number(when.slice(1)))}\n`);
      return did;
    }
    case 'sleep':
      return { ...did, forMs: Number(args[0] ?? 0) * 1000 };
    default:
      return { ...did, exitCode: 127, err: `sh: 1: ${name ?? ''}: not found\n` };
  }
}

/** One command, its output perhaps into a file. */
async function shell(inside: Inside, words: readonly string[], stdin: string): Promise<Did> {
  const path = words.at(-2) === '>' ? words.at(-1) : undefined;
  if (path === undefined) return interpret(inside, words, stdin);
  const did = await interpret(inside, words.slice(0, -2), stdin);
  await inside.write(path, did.out);
  return { ...did, out: '' };
}
