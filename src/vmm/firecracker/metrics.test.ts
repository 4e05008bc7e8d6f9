import assert from 'node:assert/strict';
import { closeSync, openSync, writeSync } from 'node:fs';
import { mkdtemp, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { FILES } from './boot.ts';
import { forgetMetrics, takeMetrics } from './metrics.ts';

let folder: string;
let path: string;
/** As Firecracker has it: opened once, neither emptied nor appended to. */
let fd: number;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-metrics-'));
  path = join(folder, FILES.metrics);
  await writeFile(path, '');
  fd = openSync(path, 'r+');
});
afterEach(async () => {
  closeSync(fd);
  await rm(folder, { recursive: true });
});

/** A line of metrics: what the disks carried since the one before. */
function flush(read: number, written: number, padding = 0): void {
  const line = {
    utc_timestamp_ms: 0,
    block: { read_bytes: read, write_bytes: written },
    vcpu: '.'.repeat(padding),
  };
  writeSync(fd, `${JSON.stringify(line)}\n`);
}

async function taken(): Promise<readonly [number, number]> {
  const { read, written } = await takeMetrics(folder);
  return [read, written];
}

test('lines are added up, each once, however often it is asked', async () => {
  assert.deepEqual(await taken(), [0, 0]);
  flush(10, 1);
  flush(20, 2);
  assert.deepEqual(await taken(), [30, 3]);
  assert.deepEqual(await taken(), [30, 3]);
  flush(5, 0);
  assert.deepEqual(await taken(), [35, 3]);
});

test('a line that is half written counts once it is whole', async () => {
  flush(1, 1);
  const line = JSON.stringify({ block: { read_bytes: 7, write_bytes: 8 } });
  writeSync(fd, line.slice(0, 20));
  assert.deepEqual(await taken(), [1, 1]);
  writeSync(fd, line.slice(20));
  assert.deepEqual(await taken(), [1, 1]);
  writeSync(fd, '\n');
  assert.deepEqual(await taken(), [8, 9]);
});

test('what was read is cut away, the file stays small, and nothing is lost or counted twice', async () => {
  let [read, written] = [0, 0];
  for (let i = 1; i <= 50; i++) {
    flush(i, 1, 100_000);
    read += i;
    written += 1;
    assert.deepEqual(await taken(), [read, written], `line ${i}`);
  }
  // Five megabytes were written; what was read is a hole.
  assert.ok((await stat(path)).blocks * 512 < 2 * 1024 * 1024, `${(await stat(path)).blocks} blocks`);
});

test('a month of lines is added up in pieces', async () => {
  for (let i = 0; i < 3000; i++) flush(1, 2, 300);
  assert.deepEqual(await taken(), [3000, 6000]);
});

test('what is no line of metrics counts nothing, and what follows it counts', async () => {
  for (const odd of ['', 'no JSON', 'null', '3', '{"block":7}', '{"block":{"read_bytes":-1}}'])
    writeSync(fd, `${odd}\n`);
  writeSync(fd, '{"block":{"read_bytes":1.5,"write_bytes":"2"}}\n');
  writeSync(fd, 'x'.repeat(600_000));
  assert.deepEqual(await taken(), [0, 0]);
  writeSync(fd, '\n');
  flush(3, 4);
  assert.deepEqual(await taken(), [3, 4]);
});

test('a file that somebody cut, or removed, takes nothing back', async () => {
  flush(3, 4);
  assert.deepEqual(await taken(), [3, 4]);
  await truncate(path, 0);
  assert.deepEqual(await taken(), [3, 4]);
  flush(1, 1);
  assert.deepEqual(await taken(), [4, 5]);
  await rm(path);
  assert.deepEqual(await taken(), [4, 5]);
});

test('what another process counted in this folder is forgotten when a machine starts', async () => {
  flush(3, 4);
  assert.deepEqual(await taken(), [3, 4]);
  await forgetMetrics(folder);
  await rm(path);
  assert.deepEqual(await taken(), [0, 0]);
  await forgetMetrics(folder);
});
