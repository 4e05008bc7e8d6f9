import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { exists } from '../host/files.ts';
import { serveHatchd } from '../../test/support/hatchd-process.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-serve-'));
});
after(() => rm(folder, { recursive: true, force: true }));

test('the first start shows the admin key and keeps it for its owner alone; SIGTERM ends it with 0', async () => {
  const data = join(folder, 'life');
  const hatchd = serveHatchd({
    HATCH_DATA_DIR: data,
    HATCH_HTTP_ADDR: '127.0.0.1:0',
    HATCH_PROXY_ADDR: '127.0.0.1:0',
  });
  const shown = await hatchd.line(/^ {2}hatch_/);
  const path = join(data, 'admin-key');
  assert.equal((await readFile(path, 'utf8')).trim(), shown.trim());
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  const from = performance.now();
  hatchd.kill('SIGTERM');
  assert.deepEqual(await hatchd.ended, { code: 0, signal: null });
  assert.ok(performance.now() - from < 5000);
  assert.equal(await exists(join(data, 'hatchd.pid')), false);
});

test('asked to end while it still starts, it ends all the same', async () => {
  const data = join(folder, 'cut-short');
  const hatchd = serveHatchd({
    HATCH_DATA_DIR: data,
    HATCH_HTTP_ADDR: '127.0.0.1:0',
    HATCH_PROXY_ADDR: '127.0.0.1:0',
  });
  await hatchd.line(/"msg":"schema brought up to date"/);
  const from = performance.now();
  hatchd.kill('SIGTERM');
  assert.deepEqual(await hatchd.ended, { code: 0, signal: null }, hatchd.said());
  assert.ok(performance.now() - from < 5000);
  assert.equal(await exists(join(data, 'hatchd.pid')), false);
});
