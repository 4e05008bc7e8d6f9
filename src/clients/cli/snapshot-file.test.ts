import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { test, type TestContext } from 'node:test';
import { hatch, type Ran } from '../../../test/support/cli.ts';
import { systemClock } from '../../base/clock.ts';
import { until } from '../../base/until.ts';
import { testApi, type TestApi } from '../../api/test-client.ts';

const KEY = '5a'.repeat(32);

/** `hatch` in a folder of its own against the API itself over a pretended Hatch, with a snapshot `golden`. */
async function server(t: TestContext): Promise<{
  readonly hatch: TestApi['hatch'];
  readonly folder: string;
  /** Where it is and the key to it, as `hatch` is told. */
  readonly env: Readonly<Record<string, string>>;
  readonly cli: (words: readonly string[], world?: Parameters<typeof hatch>[1]) => Promise<Ran>;
}> {
  const api = await testApi();
  const url = await api.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => api.app.close());
  const folder = await mkdtemp(join(tmpdir(), 'hatch-cli-'));
  t.after(() => rm(folder, { recursive: true }));
  await api.call('POST', '/vms', { name: 'web' });
  await api.call('POST', '/vms/web/snapshot', { name: 'golden', keep_running: true });
  const env = { HATCH_URL: url, HATCH_API_KEY: api.key };
  return {
    hatch: api.hatch,
    folder,
    env,
    cli: (words, world = {}) => hatch(words, { env, cwd: folder, ...world }),
  };
}

/** What exports are from now on. */
function exportAs({ snapshots }: TestApi['hatch'], content: () => AsyncGenerator<Uint8Array>): void {
  const whole = snapshots.export.bind(snapshots);
  Object.assign(snapshots, {
    export: async (...asked: Parameters<typeof whole>) => ({
      ...(await whole(...asked)),
      content: Readable.from(content()),
    }),
  });
}

test('snapshot export writes one file, and replaces none unless told to', async (t) => {
  const { cli, folder, hatch: world } = await server(t);
  const made = await cli(['snapshot', 'export', 'golden']);
  assert.equal(made.out, 'Snapshot golden is in golden.hatch: 10B.\n', made.err);
  assert.equal(await readFile(join(folder, 'golden.hatch'), 'utf8'), 'a snapshot');
  world.disk.file = Buffer.from('another');
  const again = await cli(['snapshot', 'export', 'golden']);
  assert.deepEqual([again.code, again.out], [2, '']);
  assert.match(again.err, /golden.hatch is there already: name another file with -o, or say --force/);
  assert.equal(await readFile(join(folder, 'golden.hatch'), 'utf8'), 'a snapshot');
  assert.equal((await cli(['snapshot', 'export', 'golden', '--force'])).code, 0);
  assert.equal(await readFile(join(folder, 'golden.hatch'), 'utf8'), 'another');
  const piped = await cli(['snapshot', 'export', 'golden', '-o', '-']);
  assert.equal(piped.out, 'another');
  const shown = await cli(['snapshot', 'export', 'golden', '-o', '-'], { answer: '' });
  assert.match(shown.err, /no text for a terminal/);
  assert.match(
    (await cli(['snapshot', 'export', 'golden', '-o', 'no/such/x'])).err,
    /cannot be written \(ENOENT\)/,
  );
  assert.deepEqual(await readdir(folder), ['golden.hatch']);
});

test('of an export that is refused or breaks off no file is left, and one that was to be replaced stays', async (t) => {
  const { cli, folder, hatch: world } = await server(t);
  assert.equal((await cli(['snapshot', 'export', 'none'])).code, 3);
  await writeFile(join(folder, 'old'), 'old');
  exportAs(world, async function* () {
    yield Buffer.from('half');
    throw new Error('the disk is full');
  });
  for (const more of [[], ['-o', 'old', '--force']])
    assert.equal((await cli(['snapshot', 'export', 'golden', ...more])).code, 5, String(more));
  assert.deepEqual(await readdir(folder), ['old']);
  assert.equal(await readFile(join(folder, 'old'), 'utf8'), 'old');
});

test('of an export that a person interrupts no file is left', async (t) => {
  const { folder, env, hatch: world } = await server(t);
  const { promise: end, resolve } = Promise.withResolvers<void>();
  exportAs(world, async function* () {
    yield Buffer.from('half');
    await end;
  });
  const argv = ['--disable-warning=ExperimentalWarning', join(import.meta.dirname, 'main.ts')];
  const child = spawn(process.execPath, [...argv, 'snapshot', 'export', 'golden'], {
    cwd: folder,
    env: { ...env, PATH: process.env['PATH'] },
    stdio: 'ignore',
  });
  const ended = once(child, 'exit');
  const soon = { clock: systemClock, signal: AbortSignal.timeout(20_000) };
  await until(soon, async () => {
    const [name] = await readdir(folder);
    // Once it has bytes in it, it is being written.
    return name?.endsWith('.part') && (await readFile(join(folder, name), 'utf8')) === 'half'
      ? true
      : undefined;
  });
  child.kill('SIGINT');
  assert.deepEqual(await ended, [130, null]);
  resolve();
  assert.deepEqual(await readdir(folder), []);
});

test('a key is read from its file, and one that is none is not sent', async (t) => {
  const { cli, folder, hatch: world } = await server(t);
  await writeFile(join(folder, 'text'), `${KEY}\n`);
  await writeFile(join(folder, 'raw'), Buffer.from(KEY, 'hex'));
  await writeFile(join(folder, 'none'), 'hunter2');
  for (const file of ['text', 'raw'])
    assert.equal((await cli(['snapshot', 'export', 'golden', '-o', '-', '--key-file', file])).code, 0);
  await writeFile(join(folder, 'file'), world.disk.file);
  await cli(['snapshot', 'import', 'file', '--name', 'far', '--key-file', 'text']);
  assert.deepEqual(world.disk.asked, [
    { key: KEY, plain: false },
    { key: KEY, plain: false },
    { key: KEY, name: 'far' },
  ]);
  const wrong = await cli(['snapshot', 'import', 'file', '--key-file', 'none']);
  assert.equal(wrong.code, 2);
  assert.match(wrong.err, /must hold 32 random bytes/);
  assert.doesNotMatch(wrong.err, /hunter2/);
  assert.match(
    (await cli(['snapshot', 'import', 'file', '--key-file', 'x'])).err,
    /cannot be read \(ENOENT\)/,
  );
  assert.match(
    (await cli(['snapshot', 'export', 'golden', '--plain', '--key-file', 'text'])).err,
    /do not go together/,
  );
  assert.equal(world.disk.asked.length, 3);
});

test('snapshot import takes a file or standard input, and says what came of it', async (t) => {
  const { cli, folder, hatch: world } = await server(t);
  await writeFile(join(folder, 'file'), world.disk.file);
  const made = await cli(['snapshot', 'import', 'file', '--name', 'far']);
  assert.match(
    made.out,
    /^Snapshot far \(snap-\w{12}\) is here, and VM vm-\w{12} sleeps as it\. It cannot go on on this server: it is another\.\n$/,
  );
  const piped = await cli(['snapshot', 'import', '-', '--json'], { stdinBytes: world.disk.file });
  assert.deepEqual((JSON.parse(piped.out) as { differences: unknown }).differences, ['it is another']);
  const taken = await cli(['snapshot', 'import', 'file', '--name', 'far']);
  assert.equal(taken.code, 4);
  assert.equal((await cli(['snapshot', 'import', '-'], { stdinBytes: Buffer.from('x') })).code, 2);
  assert.match((await cli(['snapshot', 'import', 'none'])).err, /none cannot be read \(ENOENT\)/);
  assert.match((await cli(['snapshot', 'import', '.'])).err, /is a folder/);
  assert.match((await cli(['snapshot', 'import', '-'], { answer: '' })).err, /Nothing comes from a terminal/);
});

test('how many bytes have come is shown to who sits there', async (t) => {
  const { cli, hatch: world } = await server(t);
  const seen = Promise.withResolvers<void>();
  exportAs(world, async function* () {
    yield Buffer.alloc(2048);
    await seen.promise;
  });
  const { code, err } = await cli(['snapshot', 'export', 'golden'], {
    watch: (text) => {
      if (text.includes('2K')) seen.resolve();
    },
  });
  assert.equal(code, 0);
  assert.match(err, /Exporting golden: 2K \(\d+ s\)/);
});
