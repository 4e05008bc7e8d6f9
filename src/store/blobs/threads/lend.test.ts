import assert from 'node:assert/strict';
import { createSecretKey, randomBytes } from 'node:crypto';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { CHUNK, CHUNK_ID } from '../format.ts';
import { lend } from './lend.ts';
import { ThreadPool } from './pool.ts';

test('one who is done ends its own jobs, and the threads go on for the others', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-lend-'));
  t.after(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, 'image'), randomBytes(2 * CHUNK));
  const image = await open(join(folder, 'image'), 'r');
  t.after(() => image.close());
  const pool = new ThreadPool(1);
  t.after(() => pool.close());
  const [one, other] = [lend(pool), lend(pool)];
  assert.equal(one.size, 1);
  const ask = {
    fd: image.fd,
    dedup: createSecretKey(randomBytes(32)),
    ranges: Float64Array.of(0, 2),
  };
  const named = (await one.run('hash', ask)).ids;
  assert.equal(named.length, 2 * CHUNK_ID);

  const closed = { name: 'BlobError', message: 'the chunk store is closed' };
  const [runs, waits, others] = [one.run('hash', ask), one.run('hash', ask), other.run('hash', ask)];
  const refused = [assert.rejects(runs, closed), assert.rejects(waits, closed)];
  await one.close();
  await Promise.all(refused);
  await assert.rejects(one.run('hash', ask), closed);
  assert.deepEqual((await others).ids, named);
});
