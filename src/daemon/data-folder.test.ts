import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { identify } from '../host/process.ts';
import { claimant, claimDataFolder, dataFolder, makeDataFolder, whyNotWritten } from './data-folder.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-data-'));
});
after(() => rm(folder, { recursive: true, force: true }));

test('a folder is claimed by one process at a time, and who comes second is told its pid', async () => {
  const data = dataFolder(join(folder, 'claimed'));
  await makeDataFolder(data);
  const letGo = await claimDataFolder(data);
  assert.equal((await claimant(data))?.pid, process.pid);
  await assert.rejects(claimDataFolder(data), {
    message: `Another hatchd (pid ${process.pid}) uses the data folder ${data.root}; stop it, or give this one another HATCH_DATA_DIR.`,
  });
  await letGo();
  await letGo();
  assert.equal(await claimant(data), undefined);
  await (
    await claimDataFolder(data)
  )();
  assert.deepEqual((await readdir(data.root)).sort(), ['images', 'layers', 'net', 'spool', 'vms']);
});

test('a claim whose process is gone, or that is none, holds nobody up', async () => {
  const data = dataFolder(join(folder, 'left'));
  await makeDataFolder(data);
  const me = await identify(process.pid);
  for (const left of [JSON.stringify({ ...me, startTime: '1' }), '{"pid":', '', '[]']) {
    await writeFile(data.pidFile, left);
    const letGo = await claimDataFolder(data);
    assert.equal((await claimant(data))?.pid, process.pid);
    await letGo();
  }
});

test('of several that start at once where one has crashed, exactly one gets the folder', async () => {
  const data = dataFolder(join(folder, 'rush'));
  await makeDataFolder(data);
  const me = await identify(process.pid);
  for (let round = 0; round < 5; round++) {
    await writeFile(data.pidFile, JSON.stringify({ ...me, startTime: '1' }));
    const claims = await Promise.allSettled(Array.from({ length: 5 }, () => claimDataFolder(data)));
    const won = claims.flatMap((claim) => (claim.status === 'fulfilled' ? [claim.value] : []));
    assert.equal(won.length, 1);
    for (const claim of claims)
      if (claim.status === 'rejected') assert.match(String(claim.reason), /Another hatchd \(pid \d+\)/);
    assert.deepEqual(await claimant(data), me);
    for (const letGo of won) await letGo();
  }
});

test('a claim somebody else has taken over meanwhile is not let go', async () => {
  const data = dataFolder(join(folder, 'taken-over'));
  await makeDataFolder(data);
  const letGo = await claimDataFolder(data);
  const other = { pid: 1, startTime: '1', bootId: 'x' };
  await writeFile(data.pidFile, JSON.stringify(other));
  await letGo();
  assert.deepEqual(await claimant(data), other);
});

test('a folder that cannot be made or written is told in a sentence that names it', async () => {
  await writeFile(join(folder, 'file'), '');
  for (const path of ['file', 'file/below']) {
    const data = dataFolder(join(folder, path));
    const says = { message: `HATCH_DATA_DIR ${data.root} is not a folder.` };
    await assert.rejects(makeDataFolder(data), says);
    await assert.rejects(claimDataFolder(data), says);
  }
  const sentences: readonly [code: string, says: RegExp][] = [
    ['EACCES', /cannot be written; run hatchd as root or choose another folder\.$/],
    ['EPERM', /cannot be written/],
    ['EROFS', /read-only; choose another folder\.$/],
    ['ENOSPC', /^The disk of HATCH_DATA_DIR \/d is full; make room and start again\.$/],
    ['EDQUOT', /is full/],
  ];
  for (const [code, says] of sentences) {
    const told = whyNotWritten({ root: '/d' }, Object.assign(new Error(code), { code }));
    assert.ok(told instanceof Error);
    assert.match(told.message, says);
  }
  const defect = new Error('of another kind');
  assert.equal(whyNotWritten({ root: '/d' }, defect), defect);
});
