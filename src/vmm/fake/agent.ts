import { duplexPair, type Duplex } from 'node:stream';

/** What the pretended guest's agent does to it. */
export interface FakeAgentHooks {
  readonly shutdown: (mode: 'powerdown' | 'reboot') => void;
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
  'guest-set-time',
  'guest-shutdown',
];

/**
 * The agent of a pretended guest: the qemu-guest-agent protocol (one JSON object a line,
 * https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html) over a stream in memory. Its shell knows `echo`, `cat`,
 * `true`, `false`, `exit N` and `sleep`; any other program is not found (127).
 */
export function fakeAgent(hooks: FakeAgentHooks): Duplex {
  const [ours, theirs] = duplexPair();
  const results = new Map<number, Status>();
  const timers = new Set<NodeJS.Timeout>();
  let pid = 100;
  let pending = '';

  const say = (value: object, mark = ''): void => {
    if (ours.writable)
      ours.write(Buffer.concat([Buffer.from(mark, 'latin1'), Buffer.from(`${JSON.stringify(value)}\n`)]));
  };
  const exec = (args: Record<string, unknown>): void => {
    const mine = pid++;
    results.set(mine, { exited: false });
    const ran = runFake(args);
    const timer = setTimeout(() => {
      timers.delete(timer);
      results.set(mine, ran.status);
    }, ran.afterMs);
    timer.unref();
    timers.add(timer);
    say({ return: { pid: mine } });
  };
  const hear = (line: string): void => {
    const { execute, arguments: args = {} } = JSON.parse(line) as {
      execute?: string;
      arguments?: Record<string, unknown>;
    };
    switch (execute) {
      case 'guest-sync-delimited':
        return say({ return: args['id'] }, '\xff');
      case 'guest-sync':
        return say({ return: args['id'] });
      case 'guest-ping':
      case 'guest-set-time':
        return say({ return: {} });
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
        return hooks.shutdown(args['mode'] === 'reboot' ? 'reboot' : 'powerdown');
      default:
        return say({
          error: { class: 'CommandNotFound', desc: `The command ${String(execute)} has not been found` },
        });
    }
  };

  ours.on('data', (chunk: Buffer) => {
    const lines = (pending + chunk.toString('utf8').replaceAll('�', '')).split('\n');
    pending = lines.pop() ?? '';
    for (const line of lines) {
      if (line.trim() === '') continue;
      try {
        hear(line);
      } catch {
        say({ error: { class: 'GenericError', desc: 'JSON parse error' } });
      }
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
function runFake(args: Record<string, unknown>): { readonly status: Status; readonly afterMs: number } {
  const given = Array.isArray(args['arg']) ? args['arg'].map(String) : [];
  const stdin =
    typeof args['input-data'] === 'string' ? Buffer.from(args['input-data'], 'base64').toString('utf8') : '';
  // Commands come wrapped (guest/agent-exec.ts): -c RUNNER hatch-exec NONCE SECONDS WHOLE CWD COUNT [K=V...] PROGRAM ARG...
  const wrapped = given[2] === 'hatch-exec';
  const nonce = given[3] ?? '';
  const program = wrapped ? given.slice(8 + Number(given[7])) : [String(args['path']), ...given];
  const did = interpret(program, stdin);
  const limitMs = wrapped ? Number(given[4]) * 1000 : Infinity;
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

function interpret(
  program: readonly string[],
  stdin: string,
): { exitCode: number; out: string; err: string; forMs: number } {
  const did = { exitCode: 0, out: '', err: '', forMs: 0 };
  const [name, ...args] = program;
  switch (name) {
    case '/bin/sh':
    case 'sh':
      return args[0] === '-c' ? interpret((args[1] ?? '').trim().split(/\s+/), stdin) : did;
    case 'echo':
      return { ...did, out: `${args.join(' ')}\n` };
    case 'cat':
      return { ...did, out: stdin };
    case 'true':
      return did;
    case 'false':
      return { ...did, exitCode: 1 };
    case 'exit':
      return { ...did, exitCode: Number(args[0] ?? 0) };
    case 'sleep':
      return { ...did, forMs: Number(args[0] ?? 0) * 1000 };
    default:
      return { ...did, exitCode: 127, err: `sh: 1: ${name ?? ''}: not found\n` };
  }
}
