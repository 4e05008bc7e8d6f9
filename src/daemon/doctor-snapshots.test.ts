import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { readConfig } from './config.ts';
import { dataFolder } from './data-folder.ts';
import { snapshotStore } from './doctor-snapshots.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-doctor-'));
});
after(() => rm(folder, { recursive: true, force: true }));

async function look(env: Record<string, string>): Promise<readonly string[]> {
  const found = await snapshotStore(readConfig(env).values, dataFolder(join(folder, 'data')));
  return found.map(({ verdict, message }) => `${verdict}: ${message}`);
}

test('a folder is tried and left as it was, or made at the first start', async () => {
  const [first] = await look({});
  assert.equal(first, `ok: dir:${folder}/data/snapshots is made at the first start`);
  assert.deepEqual(await readdir(folder), []);
  const stored = join(folder, 'stored');
  await mkdir(stored);
  const [second] = await look({ HATCH_SNAPSHOT_STORE: `dir:${stored}` });
  assert.equal(second, `ok: dir:${stored} keeps, gives back and removes`);
  assert.deepEqual(await readdir(stored), ['.incoming']);
});

test('a place that cannot be used is told with what is wrong', async () => {
  const file = join(folder, 'file');
  await writeFile(file, '');
  const [inTheWay] = await look({ HATCH_SNAPSHOT_STORE: `dir:${file}` });
  assert.match(inTheWay ?? '', /^fail: dir:.*\/file cannot be used: the snapshot folder cannot be used/);
  const [gone] = await look({
    HATCH_SNAPSHOT_STORE: 's3://bucket/prefix',
    HATCH_S3_ENDPOINT: 'http://127.0.0.1:1',
    HATCH_S3_ACCESS_KEY: 'key',
    HATCH_S3_SECRET_KEY: 'hunter2',
  });
  assert.match(
    gone ?? '',
    /^fail: s3:\/\/bucket\/prefix\/ cannot be used: trial-\w+ could not be kept: the connection .*\(ECONNREFUSED\)$/,
  );
});

test('the key is read, and told by its id alone', async () => {
  const path = join(folder, 'key');
  const about = async (): Promise<string> => (await look({ HATCH_SNAPSHOT_KEY_FILE: path }))[1] ?? '';
  assert.match(await about(), /^fail: HATCH_SNAPSHOT_KEY_FILE .* is not there; `openssl rand -hex 32/);
  await writeFile(path, 'too short', { mode: 0o600 });
  assert.match(await about(), /^fail: HATCH_SNAPSHOT_KEY_FILE .* is no key: .* must hold 32 random bytes/);
  const secret = 'ab'.repeat(32);
  await writeFile(path, `${secret}\n`);
  const told = await about();
  assert.match(told, /^ok: stored snapshots are encrypted under the key [0-9a-f]{16};/);
  assert.equal(told.includes(secret), false);
  await rm(path);
  await writeFile(path, secret, { mode: 0o644 });
  assert.match(await about(), /^warn: .*others than its owner may read its file; chmod 600 it$/);
  assert.match((await look({}))[1] ?? '', /^ok: stored snapshots are not encrypted/);
});
