import assert from 'node:assert/strict';
import { once } from 'node:events';
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { exists } from '../host/files.ts';
import { hatchd, serveHatchd } from '../../test/support/hatchd-process.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-commands-'));
});
after(() => rm(folder, { recursive: true, force: true }));

test('wrong use ends with 2 and says in a line what is meant', async () => {
  const cases: readonly [words: string[], env: Record<string, string>, says: string][] = [
    [['docter'], {}, 'hatchd: there is no command "docter". Did you mean doctor?\n'],
    [['down', '--grace', '5x'], {}, 'It must be a whole number from 0 to 600.\n'],
    [[], { HATCH_VMM: 'xen' }, 'hatchd: HATCH_VMM must be one of auto, firecracker, qemu, fake.'],
  ];
  for (const [words, env, says] of cases) {
    const { exitCode, stdout, stderr } = await hatchd(words, env);
    assert.equal(exitCode, 2, stderr);
    assert.equal(stdout, '');
    assert.ok(stderr.includes(says), stderr);
    assert.doesNotMatch(stderr, /^ +at /m);
  }
});

test('config is a table for people and JSON for programs, and whoever reads it may stop in the middle', async () => {
  const env = { HATCH_DATA_DIR: join(folder, 'config'), DATABASE_URL: 'postgres://hatch:hunter2@db/hatch' };
  const { stdout } = await hatchd(['config', '--json'], env);
  const rows = JSON.parse(stdout) as { name: string; value: string | null; source: string }[];
  const valueOf = (name: string): string | null | undefined => rows.find((row) => row.name === name)?.value;
  assert.equal(valueOf('DATABASE_URL'), 'postgres://hatch:***@db/hatch');
  assert.equal(valueOf('HATCH_IMAGE_DIRS'), join(folder, 'config/images'));
  // A reader that is gone before anything was written, as head(1) may be.
  const shell = `"$0" --disable-warning=ExperimentalWarning "$1" config | true; exit "\${PIPESTATUS[0]}"`;
  const main = join(import.meta.dirname, 'main.ts');
  const child = spawn('/bin/bash', ['-c', shell, process.execPath, main], {
    env: { PATH: process.env['PATH'], NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'] },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const [code] = (await once(child, 'close')) as unknown[];
  assert.deepEqual([code, said], [0, '']);
});

test('settings come from a file too, those in the environment win, and what is no setting is refused', async () => {
  const file = join(folder, 'hatchd.env');
  const config = async (env: Record<string, string> = {}): ReturnType<typeof hatchd> =>
    hatchd(['--settings', file, 'config', '--json'], { HATCH_DATA_DIR: join(folder, 'config'), ...env });
  const missing = await config();
  assert.deepEqual(
    [missing.exitCode, missing.stderr],
    [2, `hatchd: The file ${file} of --settings is not there.\n`],
  );
  await writeFile(
    file,
    '# of this machine\nHATCH_DEFAULT_VCPU=2\nHATCH_S3_REGION="eu-west-3" # here\n\nHATCH_SSH_PORT_MIN=3000\n',
  );
  const { stdout } = await config({ HATCH_SSH_PORT_MIN: '2300' });
  const rows = JSON.parse(stdout) as { name: string; value: string | null; source: string }[];
  const shown = (name: string): unknown[] =>
    rows.filter((row) => row.name === name).map((row) => [row.value, row.source]);
  assert.deepEqual(shown('HATCH_DEFAULT_VCPU'), [['2', 'file']]);
  assert.deepEqual(shown('HATCH_S3_REGION'), [['eu-west-3', 'file']]);
  assert.deepEqual(shown('HATCH_SSH_PORT_MIN'), [['2300', 'environment']]);
  assert.deepEqual(shown('HATCH_SSH_PORT_MAX'), [['3199', 'default']]);
  await writeFile(file, 'HATCH_DEFAULT_VCUP=2\n');
  const stranger = await config();
  assert.equal(stranger.exitCode, 2);
  assert.match(stranger.stderr, /HATCH_DEFAULT_VCUP.* Did you mean HATCH_DEFAULT_VCPU\?/);
  await writeFile(file, 'HATCH_DEFAULT_VCPU=2\nHATCH_DEFAULT_MEM_MIB 1024\n');
  assert.match(
    (await config()).stderr,
    /no NAME=value and no comment: it begins with "HATCH_DEFAULT_MEM_MI"\./,
  );
});

test('doctor tells programs all it found, and ends with 1 when something fails', async () => {
  const { exitCode, stdout } = await hatchd(['doctor', '--json'], { HATCH_VMM: 'xen' });
  assert.equal(exitCode, 1);
  const { ok, findings } = JSON.parse(stdout) as { ok: boolean; findings: { check: string }[] };
  assert.deepEqual([ok, findings.map(({ check }) => check)], [false, ['config']]);
  const well = {
    HATCH_VMM: 'fake',
    HATCH_DATA_DIR: join(folder, 'doctor'),
    HATCH_HTTP_ADDR: '127.0.0.1:0',
    HATCH_PROXY_ADDR: '127.0.0.1:0',
  };
  const people = await hatchd(['doctor'], well);
  assert.equal(people.exitCode, 0);
  assert.match(people.stdout, /^ ok {3}rights .*\n[^]*\n\nGuests can run here\.\n$/);
});

test('down ends hatchd and its guests in order and keeps their rows; where there is nothing it makes nothing', async () => {
  const data = join(folder, 'down');
  const env = {
    HATCH_VMM: 'fake',
    HATCH_DATA_DIR: data,
    HATCH_HTTP_ADDR: '127.0.0.1:0',
    HATCH_PROXY_ADDR: '127.0.0.1:0',
  };
  const nothing = await hatchd(['down'], env);
  assert.deepEqual(
    [nothing.exitCode, nothing.stdout],
    [0, `There is nothing to take down: ${data} is no data folder of Hatch.\n`],
  );
  assert.equal(await exists(data), false);

  const first = serveHatchd(env);
  const secret = (await first.line(/^ {2}hatch_/)).trim();
  const client = await first.client(secret);
  const [web, other] = [await client.vms.create({ name: 'web' }), await client.vms.create()];
  await client.close();
  const down = await hatchd(['down', '--grace', '5'], env);
  assert.equal(down.exitCode, 0, down.stderr);
  const lines = down.stdout.split('\n');
  assert.equal(lines[0], `Stopping hatchd (pid ${first.pid}).`);
  assert.deepEqual(lines.slice(1, 3).sort(), [`Stopping ${other.id}.`, 'Stopping web.'].sort());
  assert.match(lines[3] ?? '', /^Down: 2 guests stopped, the network removed\. Disks and rows are in /);
  assert.deepEqual(await first.ended, { code: 0, signal: null });
  assert.equal(await exists(join(data, 'net/fake-network.json')), false);

  const second = serveHatchd(env);
  await second.line(/"msg":"ready"/);
  const after = await second.client(secret);
  for (const { id } of [web, other]) assert.equal((await after.vms.get(id)).state, 'stopped');
  await after.close();
  assert.doesNotMatch(second.said(), /^ {2}hatch_/m, 'the key is shown once');
  second.kill('SIGTERM');
  assert.equal((await second.ended).code, 0);
});
