import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../base/clock.ts';
import { until } from '../base/until.ts';
import { HELPER_PIPE, IDENTITY_HELPER, reportFile } from './identity-helper.ts';

const SEED = 'ab'.repeat(64);
const [ONE, TWO, THREE] = ['1', '2', '3'].map((digit) => digit.repeat(32)) as [string, string, string];

/** The helper as a guest runs it, with a folder for the guest's files. */
interface RunningHelper {
  readonly folder: string;
  readonly child: ChildProcess;
  readonly tell: (text: string) => Promise<void>;
  readonly report: (id: string) => Promise<string>;
}

const soon = () => ({ clock: systemClock, signal: AbortSignal.timeout(10_000) });

async function withHelper(body: (helper: RunningHelper) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-helper-'));
  for (const path of ['etc/hatch/after-restore.d', 'run', 'var', 'sys', 'proc'])
    await mkdir(join(folder, path), { recursive: true });
  const child = start(folder);
  try {
    await heard(folder);
    await body({
      folder,
      child,
      // In one piece, as the agent writes it.
      tell: (text) => writeFile(join(folder, HELPER_PIPE), text),
      report: (id) =>
        until(soon(), () => readFile(join(folder, reportFile(id)), 'utf8').catch(() => undefined)),
    });
  } finally {
    await end(child);
    await rm(folder, { recursive: true });
  }
}

function start(folder: string): ChildProcess {
  const program = IDENTITY_HELPER.replaceAll(/(?<![\w/}])\/(etc|run|var|proc|sys)\b/g, `${folder}/$1`);
  return spawn('perl', ['-e', program], { stdio: ['ignore', 'inherit', 'inherit'] });
}

function heard(folder: string): Promise<true> {
  return until(soon(), async () =>
    (await stat(join(folder, HELPER_PIPE)).catch(() => undefined)) ? true : undefined,
  );
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

const refresh = (id: string): string => `\nrequest ${id} refresh\nrestore\n${SEED}\n10\nend ${id}\n`;

test('garbage, a request that was cut off and one of no kind it knows are survived, and the next is answered', () =>
  withHelper(async ({ tell, report, child }) => {
    await tell('\0\xff garbage');
    await tell(`end ${ONE}\nrequest x y\n\n\n`);
    await tell(`\nrequest ${ONE} refresh\nrestore\nab`);
    await tell(refresh(TWO));
    assert.match(await report(TWO), /^0\nreseeded (yes|no)\ndone\nend\n$/);
    await tell(`\nrequest ${THREE} somersault\nend ${THREE}\n`);
    assert.equal(await report(THREE), '1\nit does not know what to do\nend\n');
    await tell(`\nrequest ${ONE} refresh\nend ${ONE}\n`);
    assert.equal(await report(ONE), '1\ntoo little was said\nend\n');
    assert.equal(child.exitCode, null);
  }));

test('more than any request holds is thrown away', () =>
  withHelper(async ({ tell, report }) => {
    for (let i = 0; i < 4; i++) await tell('x'.repeat(30_000));
    await tell(`\nrequest ${ONE} refresh\n${'y\n'.repeat(500)}`);
    await tell(refresh(TWO));
    assert.match(await report(TWO), /^0\n/);
  }));

test('two requests at once are done one after the other, and one that was withdrawn is not', () =>
  withHelper(async ({ folder, tell, report }) => {
    const hook = join(folder, 'etc/hatch/after-restore.d/10-count');
    await writeFile(hook, `#!/bin/sh\necho $HATCH_REASON >>${folder}/count\nsleep 0.2\nexit 3\n`);
    await chmod(hook, 0o755);
    await tell(refresh(ONE) + refresh(TWO));
    await tell(`${refresh(THREE)}\nwithdraw ${THREE}\n`);
    for (const id of [ONE, TWO])
      assert.match(await report(id), /^0\nreseeded \w+\nhook 3 10-count\ndone\nend\n$/);
    const last = '4'.repeat(32);
    await tell(refresh(last));
    await report(last);
    assert.equal(await readFile(join(folder, 'count'), 'utf8'), 'restore\n'.repeat(3));
    assert.ok(!(await readdir(join(folder, 'run/hatch'))).includes(`report.${THREE}`));
  }));

test('killed and started anew it knows of nothing and hears again', () =>
  withHelper(async ({ folder, child, tell, report }) => {
    await tell(refresh(ONE));
    await report(ONE);
    await end(child);
    // As the service manager does it.
    await rm(join(folder, 'run/hatch'), { recursive: true });
    const next = start(folder);
    try {
      await heard(folder);
      assert.deepEqual(await readdir(join(folder, 'run/hatch')), ['requests']);
      await tell(refresh(TWO));
      assert.match(await report(TWO), /^0\n/);
    } finally {
      await end(next);
    }
  }));

test('it makes its folder where there is none, for its user alone', () =>
  withHelper(async ({ folder }) => {
    const at = join(folder, 'run/hatch');
    assert.equal((await stat(at)).mode & 0o777, 0o700);
    assert.equal((await stat(join(at, 'requests'))).mode & 0o777, 0o600);
  }));
