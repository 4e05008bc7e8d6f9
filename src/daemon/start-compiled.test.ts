import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { serveHatchd, type ServingHatchd } from '../../test/support/hatchd-process.ts';
import { systemClock } from '../base/clock.ts';
import { until } from '../base/until.ts';
import { readIfThere } from '../host/files.ts';

const THREADS = ['0', '1', '2'];
let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-compiled-'));
});
after(() => rm(folder, { recursive: true }));

/** A hatchd with two threads of its proxy, up and serving. */
async function start(env: Readonly<Record<string, string>>): Promise<ServingHatchd> {
  const hatchd = serveHatchd({
    HATCH_DATA_DIR: join(folder, 'data'),
    HATCH_HTTP_ADDR: '127.0.0.1:0',
    HATCH_PROXY_ADDR: '127.0.0.1:0',
    HATCH_PROXY_THREADS: '2',
    ...env,
  });
  await hatchd.line(/"msg":"ready"/);
  return hatchd;
}

async function end(hatchd: ServingHatchd): Promise<void> {
  hatchd.kill('SIGTERM');
  assert.deepEqual(await hatchd.ended, { code: 0, signal: null }, hatchd.said());
}

/** Starts a hatchd and asks each of its threads whether it has the stripper of types. */
async function stripped(cache: string): Promise<Record<string, string>> {
  const ask = join(await mkdtemp(join(folder, 'asked-')), 'ask');
  const program = `${ask}.cjs`;
  await writeFile(
    program,
    `const { threadId } = require('node:worker_threads');
    const { existsSync, writeFileSync } = require('node:fs');
    const look = setInterval(() => {
      if (!existsSync(${JSON.stringify(ask)})) return;
      clearInterval(look);
      const has = process.moduleLoadList.some((name) => name.includes('amaro'));
      writeFileSync(${JSON.stringify(ask)} + '.' + threadId, has ? 'has it' : 'has none');
    }, 20);
    look.unref();`,
  );
  const hatchd = await start({ NODE_COMPILE_CACHE: cache, NODE_OPTIONS: `--require ${program}` });
  await writeFile(ask, '');
  const said: Record<string, string> = {};
  for (const id of THREADS) {
    const answer = async () => (await readIfThere(`${ask}.${id}`)) || undefined;
    said[id] = await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, answer);
  }
  await end(hatchd);
  return said;
}

async function markOf(cache: string): Promise<string> {
  const names = await readdir(cache, { recursive: true });
  const mark = names.find((name) => basename(name) === 'hatchd-edition');
  assert.ok(mark !== undefined, names.join());
  return join(cache, mark);
}

const NONE = { 0: 'has none', 1: 'has none', 2: 'has none' };

test('hatchd serves without a stripper of types in any of its threads: at its first start, at the next, and after its source was another', async () => {
  const cache = join(folder, 'cache');
  assert.deepEqual(await stripped(cache), NONE);
  const mark = await markOf(cache);
  const [edition, written] = [await readFile(mark, 'utf8'), (await stat(mark)).mtimeMs];
  assert.deepEqual(await stripped(cache), NONE);
  assert.equal((await stat(mark)).mtimeMs, written, 'nothing was compiled again');
  // Node keeps it apart for other flags of V8, and then the process that starts programs would find nothing.
  assert.deepEqual(await readdir(cache), [basename(dirname(mark))], 'all of its processes share it');

  // As an upgrade leaves it: the mark of another source, and not all that this one needs.
  const kept = await readdir(dirname(mark));
  for (const name of kept) if (name !== basename(mark)) await rm(join(dirname(mark), name));
  await writeFile(mark, 'another');
  assert.deepEqual(await stripped(cache), NONE);
  assert.equal(await readFile(mark, 'utf8'), edition);
});

test('to whoever started it, it is the same process with the same arguments, and says everything once', async () => {
  const hatchd = await start({ NODE_COMPILE_CACHE: join(folder, 'another-cache') });
  const words = (await readFile(`/proc/${hatchd.pid}/cmdline`, 'utf8')).split('\0').slice(0, -1);
  assert.deepEqual(words.slice(-2), ['--heap-growing-percent=20', join(import.meta.dirname, 'main.ts')]);
  assert.equal(hatchd.said().match(/"msg":"ready"/g)?.length, 1);
  await end(hatchd);
});

test('where nothing can be kept, it serves as it is', async () => {
  const closed = join(folder, 'closed');
  await mkdir(closed);
  const sample = await markOf(join(folder, 'cache'));
  await mkdir(join(closed, basename(dirname(sample)), basename(sample)), { recursive: true });
  await end(await start({ NODE_COMPILE_CACHE: closed }));
  await end(await start({ NODE_COMPILE_CACHE: '/dev/null/none' }));
});
