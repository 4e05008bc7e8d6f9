import { invalid, Failure } from '../model/failure.ts';
import { AgentRefused, type ExecCommand, type ExecResult, type GuestProgram } from './agent.ts';
import { fieldOf } from './fields.ts';

/** What of each output is kept, and what may go in. */
export const MOST_OUTPUT_BYTES = 1024 * 1024;
const MOST_STDIN_BYTES = 1024 * 1024;
/** MAX_ARG_STRLEN of the guest's kernel (execve(2)), its closing NUL included. */
const MOST_ARGUMENT_BYTES = 128 * 1024;

/**
 * The arguments of `guest-exec` for a command. Throws Failure `invalid_request` for texts no program can be given, and
 * `too_large`.
 */
export function execArguments(command: ExecCommand, nonce: string): string {
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
    path: '/bin/sh',
    arg: [
      ...['-c', RUNNER, 'hatch-exec', nonce, seconds.toFixed(3), String(Math.ceil(seconds))],
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

/**
 * Runs in the guest, in any POSIX sh: `hatch-exec NONCE SECONDS WHOLE_SECONDS CWD COUNT [K=V...] PROGRAM ARG...`.
 *
 * The agent reports an exit only when nobody holds the outputs it captures any more, and gives no time limit. So the
 * program writes into pipes of the runner's: a reader keeps a little over 1 MiB of each and swallows the rest for as long as
 * anyone holds the pipe. When the program itself has ended, the runner waits until the readers have taken what is there (a
 * reader that sleeps has emptied its pipe), prints what was kept and then, on stderr, a line with the nonce, the exit code
 * and whether the time was over.
 *
 * Every program started costs an emulated guest some 50 ms, so there are few of them.
 *
 * At the end of its time everything in the program's control group dies (cgroup v2, cgroup.kill, Linux 5.14), and everything
 * in its session: that is all there is without such a group.
 */
const RUNNER = `
nonce=$1 seconds=$2 whole=$3
shift 3
exec 3<&0 5>&2 </dev/null 2>/dev/null
unset INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET SYSTEMD_EXEC_PID
export HOME="\${HOME:-/root}" PATH="\${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
groups=/sys/fs/cgroup/hatch-exec cg=
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  for old in "$groups"/*/; do [ -d "$old" ] && rmdir "$old"; done
  cg=$groups/$nonce
fi
for top in /dev/shm /run /tmp; do
  d=$top/hatch-exec.$nonce
  mkdir -m 700 "$d" && break
done
mkfifo "$d/out.pipe" "$d/err.pipe" || { echo 'no folder to keep the output in' >&5; exit 1; }
hatch_setsid=$(command -v setsid)

keep() {
  exec 4<"$d/$1.pipe"
  (trap '' XFSZ; ulimit -f 2064; exec cat <&4 >"$d/$1") &
  echo $! >"$d/$1.pid"
  wait $!
  exec cat <&4 >/dev/null
}
settle() {
  asleep=0
  while [ $asleep -lt 2 ]; do
    pid=
    read -r pid <"$d/$1.pid"
    if [ "$pid" ]; then
      state=
      IFS= read -r state <"/proc/$pid/stat"
      case \${state##*) } in
        '' | Z*) return ;;
        S*) asleep=$((asleep + 1)) ;;
        *) asleep=0 ;;
      esac
    fi
    sleep 0.01 || sleep 1
  done
}
kill_all() {
  [ "$cg" ] && echo 1 >"$cg/cgroup.kill"
  kill -KILL "$main"
  for round in 1 2 3 4 5 6 7 8; do
    found=
    for file in /proc/[0-9]*/stat; do
      state=
      IFS= read -r state <"$file"
      set -- \${state##*) }
      [ "\${4-}" = "$main" ] && [ "$1" != Z ] || continue
      pid=\${file#/proc/}
      kill -KILL "\${pid%/stat}"
      found=1
    done
    [ "$found" ] || return
  done
}
watch() {
  trap 'kill "$nap"; exit' TERM
  sleep "$seconds" &
  nap=$!
  wait "$nap" || sleep "$whole"
  : >"$d/over"
  kill_all
}

: >"$d/out"
: >"$d/err"
# In brackets: a function's redirections keep the old outputs open beside the new, and the agent would wait for them.
(keep out) 3<&- 5>&- >/dev/null 2>&1 &
(keep err) 3<&- 5>&- >/dev/null 2>&1 &
(
  # Again, if another runner tidied the group away before anyone was in it.
  for try in 1 2 3; do
    [ "$cg" ] && mkdir -p "$cg" && echo 0 >"$cg/cgroup.procs" && break
  done 2>/dev/null
  cd "$1" || exit 126
  hatch_left=$2
  shift 2
  while [ $hatch_left -gt 0 ]; do
    export "$1"
    shift
    hatch_left=$((hatch_left - 1))
  done
  exec $hatch_setsid "$@"
) <&3 3<&- 5>&- >"$d/out.pipe" 2>"$d/err.pipe" &
main=$!
exec 3<&-
(watch) 5>&- >/dev/null 2>&1 &
dog=$!
wait "$main"
code=$?
[ -e "$d/over" ] || kill "$dog"
wait "$dog"
settle out
settle err
over=0
[ -e "$d/over" ] && over=1
[ -s "$d/out" ] && cat "$d/out"
[ -s "$d/err" ] && cat "$d/err" >&5
printf '\\n%s %s %s\\n' "$nonce" "$code" "$over" >&5
[ "$cg" ] && rmdir "$cg"
rm -rf "$d"
`;
