import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentGone, type ExecCommand, type ExecResult, type GuestAgent } from './agent.ts';
import { Failure } from '../model/failure.ts';
import { guestFileSuite } from './guest-file-suite.ts';
import { oddFileSuite } from './odd-file-suite.ts';

const MIB = 1024 * 1024;

/**
 * What every guest agent must do, whoever is behind it: run in memory with programs of this machine, and on a real guest. `files`:
 * what it does with files, too, which is the same whatever runs the commands.
 */
export function agentSuite(
  name: string,
  {
    open,
    mostMs,
    files = true,
  }: { readonly open: () => GuestAgent; readonly mostMs: number; readonly files?: boolean },
): void {
  let opened: GuestAgent | undefined;
  const agent = (): GuestAgent => (opened ??= open());
  const exec = (
    command: string | readonly string[],
    more: Partial<Omit<ExecCommand, 'command'>> = {},
  ): Promise<ExecResult> =>
    agent().exec(
      { cwd: null, env: {}, stdin: null, timeoutMs: mostMs, ...more, command },
      AbortSignal.timeout(2 * mostMs),
    );
  const fine = { exitCode: 0, stderr: '', truncated: false, timedOut: false };

  test(`${name}: a line is the shell's, a list is run as it is`, async () => {
    assert.deepEqual(await exec('echo "a  b"; echo c >&2; exit 3'), {
      ...fine,
      exitCode: 3,
      stdout: 'a  b\n',
      stderr: 'c\n',
    });
    const args = ['', ' ', '*', '$HOME', "it's", 'é\n', '-n', '--', 'a=b'];
    assert.deepEqual(await exec(['printf', '%s|', ...args]), {
      ...fine,
      stdout: args.map((a) => `${a}|`).join(''),
    });
  });

  test(`${name}: variables are added to the guest's own, whatever is in them`, async () => {
    const odd = `it's "$(id)" \\ é\n`;
    // Names the runner has for itself, too.
    const env = { ODD: odd, d: '/', nonce: 'x', main: '1', cg: '/' };
    const result = await exec('printf %s "$ODD$d$nonce$main$cg"; command -v ls >&2', { env });
    assert.equal(result.stdout, `${odd}/x1/`);
    assert.match(result.stderr, /\/ls\n$/);
    assert.equal(
      (await exec(['printenv', 'PATH'], { env: { PATH: '/usr/bin:/bin' } })).stdout,
      '/usr/bin:/bin\n',
    );
  });

  test(`${name}: it runs where it is told, at the top unless told`, async () => {
    assert.equal((await exec('pwd', { cwd: '/usr/bin' })).stdout, '/usr/bin\n');
    assert.equal((await exec('pwd')).stdout, '/\n');
    const nowhere = await exec('pwd', { cwd: '/nowhere' });
    assert.equal(nowhere.exitCode, 126);
    assert.match(nowhere.stderr, /\/nowhere/);
  });

  test(`${name}: a program that is not there, and one that a signal ends, have the shell's exit codes`, async () => {
    const missing = await exec(['no-such-program']);
    assert.equal(missing.exitCode, 127);
    assert.match(missing.stderr, /no-such-program/);
    assert.equal((await exec('kill -TERM $$')).exitCode, 143);
    assert.equal((await exec(['sh', '-c', 'kill -KILL $$'])).exitCode, 137);
  });

  test(`${name}: stdin is handed on whole, and ended; without it there is none`, async () => {
    const text = 'é'.repeat(MIB / 2);
    const result = await exec('md5sum; cat | wc -c', { stdin: text });
    assert.match(result.stdout, /^[0-9a-f]{32} {2}-\n0\n$/);
    assert.equal((await exec('wc -c', { stdin: text })).stdout.trim(), String(MIB));
    assert.deepEqual(await exec('cat'), { ...fine, stdout: '' });
    // A program that does not read it is no failure.
    assert.deepEqual(await exec('true', { stdin: text }), { ...fine, stdout: '' });
  });

  test(`${name}: what is no UTF-8 is replaced, NUL and CR are kept`, async () => {
    assert.equal((await exec(`printf 'a\\377b\\000c\\r\\n'`)).stdout, 'a\ufffdb\0c\r\n');
  });

  test(`${name}: the first MiB of each output is kept, and the program never waits for the rest`, async () => {
    const both = await exec(
      `head -c ${3 * MIB} /dev/zero | tr '\\0' x; head -c ${2 * MIB} /dev/zero | tr '\\0' y >&2; exit 5`,
    );
    assert.deepEqual(
      { ...both, stdout: both.stdout.length, stderr: both.stderr.length },
      { exitCode: 5, stdout: MIB, stderr: MIB, truncated: true, timedOut: false },
    );
    assert.match(both.stdout, /^x+$/);
    assert.match(both.stderr, /^y+$/);
    const exact = await exec(`head -c ${MIB} /dev/zero | tr '\\0' x`);
    assert.deepEqual({ ...exact, stdout: exact.stdout.length }, { ...fine, stdout: MIB });
    // The character that stands across the limit is left out, not broken.
    const cut = await exec(`printf x; head -c ${MIB} /dev/zero | sed 's/\\x00\\x00/\\xc3\\xa9/g'`);
    assert.equal(cut.truncated, true);
    assert.match(cut.stdout, /^xé+$/);
  });

  test(`${name}: at the end of its time it dies with all it started, and what it said is given`, async () => {
    const marker = `hatch-suite-${process.pid}-${Date.now()}`;
    const hold = `exec -a ${marker} tail -f /dev/null`;
    const result = await exec(
      ['bash', '-c', `echo begun; echo so >&2; (${hold}) & setsid --fork bash -c '${hold}'; ${hold}`],
      // Long enough for an emulated guest to have said both, on a bad day too.
      { timeoutMs: 6000 },
    );
    assert.deepEqual(result, {
      exitCode: null,
      stdout: 'begun\n',
      stderr: 'so\n',
      truncated: false,
      timedOut: true,
    });
    // Such that it is no argument of whoever looks for it.
    const pattern = `[${marker.slice(0, 1)}]${marker.slice(1)}`;
    // One that made a session of its own is out of reach without cgroup v2; it is ended here.
    const left = await exec(
      `for f in $(grep -lzx '${pattern}' /proc/[0-9]*/cmdline 2>/dev/null); do p=\${f#/proc/}; echo left; ` +
        `kill -9 \${p%/cmdline}; done; ls /sys/fs/cgroup/cgroup.controllers >&2`,
    );
    assert.equal(left.stdout, left.stderr.startsWith('/sys') ? '' : 'left\n');
  });

  test(`${name}: a child left in the background keeps no one waiting, lives on, and may go on writing`, async () => {
    const started = await exec(
      `f=$(mktemp); (while [ -e $f ]; do echo more || echo broken >$f; done) & echo $f; echo $!`,
    );
    const [file = '', pid = ''] = started.stdout.split('\n').filter((line) => line !== 'more');
    assert.equal(started.exitCode, 0);
    const alive = await exec(`kill -0 ${pid} && echo alive; cat ${file}; rm ${file}`);
    assert.equal(alive.stdout, 'alive\n');
  });

  test(`${name}: what it said just before it ended is all there, though a child holds the output`, async () => {
    for (let i = 0; i < 3; i++) {
      const result = await exec(`tail -f /dev/null & head -c 60000 /dev/zero | tr '\\0' z; echo $!`);
      assert.equal(result.stdout.slice(0, 60_000), 'z'.repeat(60_000));
      await exec(`kill ${Number(result.stdout.slice(60_000))}`);
    }
  });

  test(`${name}: several at once do not mix`, async () => {
    const results = await Promise.all(
      ['a', 'b', 'c'].map((word) => exec(`read x; echo $x ${word}`, { stdin: `${word}\n` })),
    );
    assert.deepEqual(
      results.map((result) => result.stdout),
      ['a a\n', 'b b\n', 'c c\n'],
    );
  });

  test(`${name}: nothing of the runner is left in the guest when it has reported`, async () => {
    const { stdout } = await exec('dirname "$(readlink /proc/$$/fd/1)"; cat /proc/self/cgroup');
    const [folder = '', ...groups] = stdout.split('\n');
    // A runner without a folder writes into pipes that have no name.
    assert.match(folder, /^(\/[a-z/]+\/hatch-exec\.\w+|\.)$/);
    const group = groups.find((line) => line.startsWith('0::/hatch-exec/'))?.slice(3) ?? '/nowhere';
    assert.equal((await exec(`ls -d ${folder === '.' ? '' : folder} /sys/fs/cgroup${group}`)).stdout, '');
  });

  test(`${name}: a program of our own is run as it is, and what it leaves behind is not waited for`, async () => {
    const signal = AbortSignal.timeout(2 * mostMs);
    const script =
      'read -r line; (exec sleep 600 </dev/null >/dev/null 2>&1) & echo "$line $!"; echo "$0" >&2; exit 3';
    const argv = ['/bin/sh', '-c', script, 'me'] as const;
    const { ended } = await agent().start({ argv, stdin: 'é\n', timeoutMs: mostMs }, signal);
    const { stdout, ...rest } = await ended;
    assert.deepEqual(rest, { ...fine, exitCode: 3, stderr: 'me\n' });
    const [, said, pid] = /^(\S+) (\d+)\n$/.exec(stdout) ?? assert.fail(stdout);
    assert.equal(said, 'é');
    assert.equal((await exec(`kill ${pid}`)).exitCode, 0, 'it went on');
  });

  test(`${name}: what no program can be given is refused by field`, async () => {
    const refused = async (field: string, code: string, work: Promise<unknown>): Promise<void> =>
      assert.rejects(
        work,
        (error: unknown) =>
          error instanceof Failure && error.code === code && error.details['field'] === field,
      );
    await refused('command', 'invalid_request', exec('a\0b'));
    await refused('command', 'invalid_request', exec([]));
    await refused('command', 'too_large', exec(['echo', 'x'.repeat(128 * 1024)]));
    await refused('env', 'invalid_request', exec('true', { env: { 'A-B': '' } }));
    await refused('cwd', 'invalid_request', exec('true', { cwd: '/a\0' }));
    await refused('stdin', 'too_large', exec('true', { stdin: 'x'.repeat(MIB + 1) }));
    // The longest that a program can be given.
    assert.equal((await exec(['printf', '%s', 'x'.repeat(128 * 1024 - 1)])).stdout.length, 128 * 1024 - 1);
  });

  test(`${name}: giving up rejects at once with the reason, and the next call is answered`, async () => {
    const stop = new AbortController();
    const waiting = agent().exec(
      { command: ['tail', '-f', '/dev/null'], cwd: null, env: {}, stdin: null, timeoutMs: 2000 },
      stop.signal,
    );
    stop.abort(new Error('enough'));
    await assert.rejects(waiting, /enough/);
    assert.equal((await exec('echo here')).stdout, 'here\n');
  });

  if (files) {
    guestFileSuite(name, {
      guest: async () => {
        const folder = (await exec('mktemp -d')).stdout.trim();
        const list = async (): Promise<readonly string[]> =>
          (await exec(['find', folder, '-mindepth', '1', '-maxdepth', '1', '-printf', '%f\\0'])).stdout
            .split('\0')
            .slice(0, -1);
        return { agent: agent(), folder, list };
      },
      mostMs,
    });
    oddFileSuite(name, { agent, exec, mostMs });
  }

  test(`${name}: it says what it is`, async () => {
    const info = await agent().info(AbortSignal.timeout(mostMs));
    assert.match(info.version, /^\d+\.\d+/);
    assert(info.supports.includes('guest-exec'));
  });

  test(`${name}: it answers a ping, and after it is closed nothing`, async () => {
    await agent().ping(AbortSignal.timeout(mostMs));
    const closed = agent();
    closed.close();
    await assert.rejects(closed.ping(AbortSignal.timeout(mostMs)), AgentGone);
  });
}
