import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { isErrno } from '../base/errno.ts';
import { systemClock } from '../base/clock.ts';
import { until } from '../base/until.ts';
import { launchHere, useLauncher } from './launch.ts';
import { LauncherProcess } from './launcher-process.ts';
import { identify, isAlive, signalProcess, spawnDetached, type ProcessIdentity } from './process.ts';
import { BASE_ENV, CommandFailed, run } from './run.ts';

const AGAIN = { firstMs: 10, mostMs: 100 };
const soon = { clock: systemClock, signal: AbortSignal.timeout(20_000) };

for (const [name, open] of [
  ['as children of this process', () => undefined],
  ['by a process of its own', () => new LauncherProcess({ env: BASE_ENV })],
] as const) {
  describe(`programs started ${name}`, () => {
    let launcher: LauncherProcess | undefined;
    let undo: (() => void) | undefined;
    let folder = '';
    before(async () => {
      launcher = open();
      undo = launcher && useLauncher(launcher.launch);
      folder = await mkdtemp(join(tmpdir(), 'launch-'));
    });
    after(async () => {
      undo?.();
      await launcher?.close();
      await rm(folder, { recursive: true });
    });

    test('what it is given, says and ends with', async () => {
      const lines: string[] = [];
      const { stdout, stderr, exitCode } = await run(
        ['sh', '-c', 'cat; echo "$HATCH_X $HOME" >&2; pwd; exit 3'],
        {
          input: 'é\n',
          cwd: folder,
          env: { HATCH_X: 'x' },
          okExitCodes: [3],
          onLine: (line, stream) => lines.push(`${stream}: ${line}`),
        },
      );
      assert.deepEqual([stdout, stderr, exitCode], [`é\n${folder}\n`, 'x /root\n', 3]);
      assert.deepEqual(lines.toSorted(), ['stderr: x /root', `stdout: ${folder}`, 'stdout: é']);
    });

    test('the rest of its input comes when it is known; where it never will, nothing more does', async () => {
      const { promise: rest, resolve } = Promise.withResolvers<string>();
      const argv = ['sh', '-c', 'while read -r line; do echo "$line"; done; echo over'] as const;
      // It is at work on what it has: only that it was heard of has the rest given.
      const { stdout } = await run(argv, { input: 'first\n', rest, onLine: () => resolve('rest\n') });
      assert.equal(stdout, 'first\nrest\nover\n');
      const file = join(folder, 'said');
      const left = run(['sh', '-c', `cat > ${file}; exit 7`], {
        input: 'first\n',
        rest: Promise.reject(new Error('it is not to go on')),
      });
      await assert.rejects(left, /it is not to go on/);
      assert.equal(await readFile(file, 'utf8'), 'first\n');
    });

    test('a large output comes whole and in order', async () => {
      const { stdout } = await run(['seq', '1', '200000']);
      assert.equal(stdout, Array.from({ length: 200_000 }, (_, i) => `${i + 1}\n`).join(''));
    });

    test('one that is not there, fails, or is killed says so', async () => {
      const failed = async (argv: readonly [string, ...string[]]): Promise<CommandFailed> => {
        const error: unknown = await run(argv, { timeoutMs: 300 }).catch((cause: unknown) => cause);
        assert.ok(error instanceof CommandFailed);
        return error;
      };
      const missing = await failed(['hatch-no-such-program']);
      assert.ok(isErrno(missing.cause, 'ENOENT'));
      assert.ok(isErrno((await failed([folder])).cause, 'EACCES'));
      assert.deepEqual([missing.missing, missing.message], [true, 'hatch-no-such-program is not installed']);
      const one = await failed(['sh', '-c', 'echo sorry >&2; exit 1']);
      assert.deepEqual([one.exitCode, one.message], [1, 'sh ended with exit code 1: sorry']);
      assert.match((await failed(['sh', '-c', 'kill -9 $$'])).message, /was killed by SIGKILL/);
      assert.match((await failed(['sleep', '60'])).message, /was killed after 300 ms/);
    });

    test('one whose asker gives up ends with all it started', async () => {
      const stop = new AbortController();
      const pids: number[] = [];
      const running = run(['sh', '-c', 'sleep 61 & echo $!; echo $$; wait'], {
        signal: stop.signal,
        onLine: (line) => {
          pids.push(Number(line));
          if (pids.length === 2) stop.abort(new Error('enough'));
        },
      });
      await assert.rejects(running, /enough/);
      for (const pid of pids)
        await until(soon, async () => ((await identify(pid)) === undefined ? true : undefined), AGAIN);
    });

    test('a detached one writes to its files, is known, and its end is heard', async () => {
      const [log, stdout] = [join(folder, 'log'), join(folder, 'out')];
      const { identity, exited } = await spawnDetached(
        ['sh', '-c', 'echo out; echo err >&2; exec sleep 62'],
        {
          cwd: folder,
          log,
          stdout,
        },
      );
      assert.ok(await isAlive(identity));
      await until(soon, async () => (await readFile(log, 'utf8').catch(() => '')) || undefined, AGAIN);
      await signalProcess(identity, 'SIGKILL');
      assert.deepEqual(await exited, { code: null, signal: 'SIGKILL' });
      assert.deepEqual([await readFile(log, 'utf8'), await readFile(stdout, 'utf8')], ['err\n', 'out\n']);
    });

    test('a detached one that cannot be started says why', async () => {
      await assert.rejects(
        spawnDetached(['hatch-no-such-program'], { cwd: folder, log: join(folder, 'log') }),
        /hatch-no-such-program is not installed/,
      );
      await assert.rejects(
        spawnDetached(['true'], { cwd: folder, log: join(folder, 'nowhere', 'log') }),
        /could not be started/,
      );
    });
  });
}

test('when the launcher is killed, commands fail, what is detached goes on, and its end is still heard', async () => {
  let lost = 0;
  const launcher = new LauncherProcess({ env: BASE_ENV, lost: () => void lost++ });
  const undo = useLauncher(launcher.launch);
  const folder = await mkdtemp(join(tmpdir(), 'launch-'));
  try {
    const { identity, exited } = await spawnDetached(['sleep', '63'], {
      cwd: folder,
      log: join(folder, 'log'),
    });
    const pids: number[] = [];
    const command = run(['sh', '-c', 'echo $$; exec sleep 64'], {
      onLine: (line) => {
        pids.push(Number(line));
        if (launcher.pid !== undefined) process.kill(launcher.pid, 'SIGKILL');
      },
    });
    await assert.rejects(command, /was lost/);
    for (const pid of pids)
      await until(soon, async () => ((await identify(pid)) === undefined ? true : undefined), AGAIN);
    assert.ok(await isAlive(identity));
    assert.equal((await run(['echo', 'still here'])).stdout, 'still here\n');
    await signalProcess(identity, 'SIGKILL');
    assert.deepEqual(await exited, { code: null, signal: null });
  } finally {
    undo();
    await launcher.close();
    await rm(folder, { recursive: true });
  }
  assert.equal(lost, 1, 'its end is told of once');
});

const launcherModule = new URL('./launcher-process.ts', import.meta.url).href;
const node = [
  process.execPath,
  '--disable-warning=ExperimentalWarning',
  '--input-type=module',
  '-e',
] as const;

test('a process that has nothing left to do but to end it does so, and goes on', async () => {
  const program = `
    const { LauncherProcess } = await import(${JSON.stringify(launcherModule)});
    const launcher = new LauncherProcess({ env: {}, lost: () => console.log('lost') });
    await launcher.close();
    console.log('closed');`;
  assert.equal((await run([...node, program])).stdout, 'closed\n');
});

test('a process ends though what it started detached goes on, also when the launcher is closed first', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'launch-'));
  const [launchModule, processModule] = ['./launch.ts', './process.ts'].map(
    (name) => new URL(name, import.meta.url).href,
  );
  const program = `
    const { LauncherProcess } = await import(${JSON.stringify(launcherModule)});
    const { useLauncher } = await import(${JSON.stringify(launchModule)});
    const { spawnDetached } = await import(${JSON.stringify(processModule)});
    const launcher = new LauncherProcess({ env: { PATH: process.env.PATH } });
    useLauncher(launcher.launch);
    const { identity } = await spawnDetached(['sleep', '65'], { cwd: '/', log: ${JSON.stringify(join(folder, 'log'))} });
    console.log(JSON.stringify(identity));
    await launcher.close();`;
  try {
    const { stdout } = await run([...node, program], { timeoutMs: 20_000 });
    const identity = JSON.parse(stdout) as ProcessIdentity;
    assert.ok(await isAlive(identity));
    await signalProcess(identity, 'SIGKILL');
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('a program has the umask it is to have, whoever starts it, and we keep ours', async () => {
  const launcher = new LauncherProcess({ env: {} });
  const before = process.umask();
  try {
    for (const launch of [launchHere, launcher.launch]) {
      const { promise, resolve } = Promise.withResolvers<string>();
      let said = '';
      const what = {
        argv: ['/bin/sh', '-c', 'umask'],
        cwd: undefined,
        env: {},
        output: 'piped',
        input: '',
      } as const;
      launch({ ...what, umask: 0o077 }, (heard) => {
        if (heard.kind === 'output') said += Buffer.from(heard.chunk).toString();
        if (heard.kind === 'close') resolve(said);
      });
      assert.equal(await promise, '0077\n');
    }
    assert.equal(process.umask(), before);
  } finally {
    await launcher.close();
  }
});

test('it ends when the process does that it starts programs for', async () => {
  const program = `
    const { LauncherProcess } = await import(${JSON.stringify(launcherModule)});
    const launcher = new LauncherProcess({ env: {} });
    const echo = { argv: ['/bin/echo', 'hello'], cwd: undefined, env: {}, output: 'piped', input: '' };
    launcher.launch(echo, ({ kind, chunk }) => {
      if (kind === 'output') process.stdout.write(chunk);
      if (kind === 'close') process.stdout.write(launcher.pid + '\\n', () => process.kill(process.pid, 'SIGKILL'));
    });`;
  const lines: string[] = [];
  await assert.rejects(run([...node, program], { onLine: (line) => lines.push(line) }), /killed by SIGKILL/);
  assert.equal(lines[0], 'hello');
  const pid = Number(lines[1]);
  assert.ok(pid > 0);
  await until(soon, async () => ((await identify(pid)) === undefined ? true : undefined), AGAIN);
});

test('a process whose first thread has ended is alive as long as another goes on, which has its files', async () => {
  const program = `
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
ctypes.CDLL(None).syscall(60, 0)`;
  const child = spawn('python3', ['-c', program], { stdio: ['pipe', 'ignore', 'ignore'] });
  await once(child, 'spawn');
  const pid = child.pid ?? assert.fail();
  const stateOf = async (): Promise<string | undefined> =>
    (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]?.split(' ')[0];
  const identity = await identify(pid);
  assert.ok(identity);
  await until(soon, async () => ((await stateOf()) === 'Z' ? true : undefined), AGAIN);
  assert.ok(await isAlive(identity));
  const exit = once(child, 'exit');
  child.stdin.end();
  await exit;
  assert.equal(await isAlive(identity), false);
});
