import { invalid, Failure } from '../model/failure.ts';
import { AgentRefused, type ExecCommand, type ExecResult, type GuestProgram } from './agent.ts';
import { PERL_RUNNER, SH_RUNNER } from './exec-runners.ts';
import { fieldOf } from './fields.ts';

/** What of each output is kept, and what may go in. */
export const MOST_OUTPUT_BYTES = 1024 * 1024;
const MOST_STDIN_BYTES = 1024 * 1024;
/** MAX_ARG_STRLEN of the guest's kernel (execve(2)), its closing NUL included. */
const MOST_ARGUMENT_BYTES = 128 * 1024;

/**
 * The arguments of `guest-exec` for a command; `runner`: what is there to run it. Throws Failure `invalid_request` for texts no program can be given, and
 * `too_large`.
 */
export function execArguments(command: ExecCommand, nonce: string, runner: 'perl' | 'sh'): string {
  const argv = typeof command.command === 'string' ? ['/bin/sh', '-c', command.command] : command.command;
  if (argv.length === 0 || argv[0] === '') throw invalid('command', '"command" must name a program.');
  for (const arg of argv) checkText('command', arg);
  const env = Object.entries(command.env).map(([name, value]) => {
    // What a shell cannot name it does not hand on either.
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
      throw invalid('env', 'A name in env is letters, digits and underscores, and begins with no digit.');
    }
    checkText('env', `${name}=${value}`);
    return `${name}=${value}`;
  });
  const cwd = command.cwd ?? '/';
  checkText('cwd', cwd);
  const stdin = command.stdin === null ? null : Buffer.from(command.stdin);
  if (stdin && stdin.length > MOST_STDIN_BYTES) {
    throw new Failure('too_large', `stdin is at most ${MOST_STDIN_BYTES} bytes.`, {
      details: { field: 'stdin', maximum: MOST_STDIN_BYTES },
    });
  }
  const seconds = command.timeoutMs / 1000;
  return JSON.stringify({
    path: runner === 'perl' ? 'perl' : '/bin/sh',
    arg: [
      ...(runner === 'perl' ? ['-e', PERL_RUNNER] : ['-c', SH_RUNNER, 'hatch-exec']),
      ...[nonce, seconds.toFixed(3)],
      // Never `-`, which is the folder before.
      cwd.startsWith('/') ? cwd : `./${cwd}`,
      String(env.length),
      ...env,
      ...argv.map((arg) => arg.toWellFormed()),
    ],
    'capture-output': true,
    ...(stdin ? { 'input-data': stdin.toString('base64') } : {}),
  });
}

/** The arguments of `guest-exec` for a program of our own. */
export function programArguments({ argv: [path, ...args], stdin }: GuestProgram): string {
  return JSON.stringify({
    path,
    arg: args,
    'capture-output': true,
    ...(stdin === null ? {} : { 'input-data': Buffer.from(stdin).toString('base64') }),
  });
}

/** What `guest-exec-status` says of a program of our own; undefined while it runs. One that a signal ended has the shell's exit code. */
export function programResult(status: unknown): ExecResult | undefined {
  if (fieldOf(status, 'exited') !== true) return undefined;
  const [out, err] = [kept(bytesOf(status, 'out-data')), kept(bytesOf(status, 'err-data'))];
  const [exitCode, killedBy] = [fieldOf(status, 'exitcode'), fieldOf(status, 'signal')];
  return {
    exitCode: typeof exitCode === 'number' ? exitCode : 128 + Number(killedBy),
    stdout: out.text,
    stderr: err.text,
    truncated: out.cut || err.cut,
    timedOut: false,
  };
}

/** What `guest-exec-status` says of it; undefined while it runs. Throws AgentRefused when the guest lost the result. */
export function execResult(status: unknown, nonce: string): ExecResult | undefined {
  if (fieldOf(status, 'exited') !== true) return undefined;
  const stderr = bytesOf(status, 'err-data');
  const at = stderr.lastIndexOf(`\n${nonce} `);
  const [, exitCode, timedOut] =
    at === -1
      ? []
      : stderr
          .subarray(at + 1)
          .toString('latin1')
          .trim()
          .split(' ');
  if (exitCode === undefined || timedOut === undefined) {
    const said = stderr.subarray(-200).toString('utf8').trim();
    throw new AgentRefused(
      `The guest did not finish running the command${said ? `: ${said}` : ''}.`,
      'GenericError',
    );
  }
  const [out, err] = [kept(bytesOf(status, 'out-data')), kept(stderr.subarray(0, at))];
  return {
    exitCode: timedOut === '1' ? null : Number(exitCode),
    stdout: out.text,
    stderr: err.text,
    truncated: out.cut || err.cut,
    timedOut: timedOut === '1',
  };
}

function bytesOf(status: unknown, name: 'out-data' | 'err-data'): Buffer {
  const data = fieldOf(status, name);
  return Buffer.from(typeof data === 'string' ? data : '', 'base64');
}

function checkText(field: string, value: string): void {
  if (value.includes('\0')) throw invalid(field, `"${field}" must not hold a NUL character.`);
  if (Buffer.byteLength(value) >= MOST_ARGUMENT_BYTES) {
    throw new Failure(
      'too_large',
      `Each part of ${field} is at most ${MOST_ARGUMENT_BYTES - 1} bytes; hand more on stdin.`,
      { details: { field, maximum: MOST_ARGUMENT_BYTES - 1 } },
    );
  }
}

/** What is no UTF-8 becomes U+FFFD; a character cut in two at the limit is left out. */
function kept(bytes: Buffer): { readonly text: string; readonly cut: boolean } {
  const cut = bytes.length > MOST_OUTPUT_BYTES;
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  return { text: decoder.decode(bytes.subarray(0, MOST_OUTPUT_BYTES), { stream: cut }), cut };
}
