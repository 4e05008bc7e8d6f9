import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { test, type TestContext } from 'node:test';
import { hatch, type Ran } from '../../../test/support/cli.ts';
import { field, testApi, type TestApi } from '../../api/test-client.ts';
import { invalid } from '../../model/failure.ts';
import { systemClock } from '../../base/clock.ts';

/** `hatch vm cp` in a folder of its own against the API itself over a pretended Hatch, with the VMs `web` and `db`. */
async function server(t: TestContext): Promise<{
  readonly api: TestApi;
  readonly folder: string;
  readonly cp: (words: readonly string[], world?: Parameters<typeof hatch>[1]) => Promise<Ran>;
  /** What a file of a VM holds, and its mode. */
  readonly inside: (vm: string, path: string) => Promise<readonly [string, string]>;
}> {
  const api = await testApi(systemClock);
  const url = await api.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => api.app.close());
  const folder = await mkdtemp(join(tmpdir(), 'hatch-cp-'));
  t.after(() => rm(folder, { recursive: true }));
  for (const name of ['web', 'db']) await api.call('POST', '/vms', { name });
  const env = { HATCH_URL: url, HATCH_API_KEY: api.key };
  return {
    api,
    folder,
    cp: (words, world = {}) => hatch(['vm', 'cp', ...words], { env, cwd: folder, ...world }),
    inside: async (vm, path) => {
      const { text, headers } = await api.call('GET', `/vms/${vm}/files?path=${path}`);
      return [text, String(headers['hatch-file-mode'])];
    },
  };
}

test('a file goes in with its mode, by its own name into a folder, and as told otherwise', async (t) => {
  const { api, folder, cp, inside } = await server(t);
  await writeFile(join(folder, 'run.sh'), '#!/bin/sh\n');
  await chmod(join(folder, 'run.sh'), 0o750);
  const copied = await cp(['run.sh', 'web:/srv/start']);
  assert.equal(copied.out, 'web:/srv/start has 10B, mode 0750, owner 0:0.\n', copied.err);
  assert.deepEqual(await inside('web', '/srv/start'), ['#!/bin/sh\n', '0750']);
  await cp(['./run.sh', 'web:/srv/', '--mode', '0600', '--owner', '1000', '--group', '5', '-p', '--wake']);
  assert.deepEqual(await inside('web', '/srv/run.sh'), ['#!/bin/sh\n', '0600']);
  const { visitor, ...written } = api.hatch.inside.written.at(-1) ?? assert.fail();
  assert.deepEqual(written, { path: '/srv/run.sh', mode: 0o600, owner: '1000', group: '5', parents: true });
  assert.equal(visitor?.by, 'file');
  await cp(['-', 'web:/srv/piped'], { stdinBytes: Buffer.from('from elsewhere') });
  assert.deepEqual(await inside('web', '/srv/piped'), ['from elsewhere', '0644']);
  await writeFile(join(folder, 'none'), '');
  const json: unknown = JSON.parse((await cp(['none', 'web:/srv/none', '--json'])).out);
  assert.deepEqual([field(json, 'path'), field(json, 'size_bytes')], ['/srv/none', 0]);
});

test('a path that is a folder in the guest takes the file into it', async (t) => {
  const { api, folder, cp, inside } = await server(t);
  await writeFile(join(folder, 'a'), 'a');
  const { vms } = api.hatch;
  const write = vms.writeFile.bind(vms);
  Object.assign(vms, {
    writeFile: async (...asked: Parameters<typeof write>) => {
      if (asked[2].path === '/srv') throw invalid('path', 'It is a folder.', { kind: 'folder' });
      return write(...asked);
    },
  } satisfies Partial<typeof vms>);
  const copied = await cp(['a', 'web:/srv']);
  assert.equal(copied.code, 0, copied.err);
  assert.deepEqual((await inside('web', '/srv/a'))[0], 'a');
  assert.equal((await cp(['-', 'web:/srv'])).code, 2);
});

test('a file comes out with its mode, into a folder, over what is there, and to standard output', async (t) => {
  const { folder, cp } = await server(t);
  await writeFile(join(folder, 'a'), 'first');
  await cp(['a', 'web:/srv/notes', '--mode', '0640']);
  const copied = await cp(['web:/srv/notes', '.']);
  assert.equal(copied.out, 'notes has 5B of web:/srv/notes.\n', copied.err);
  assert.equal(await readFile(join(folder, 'notes'), 'utf8'), 'first');
  assert.equal((await stat(join(folder, 'notes'))).mode & 0o7777, 0o640);
  await symlink('a', join(folder, 'link'));
  await cp(['-', 'web:/srv/notes'], { stdinBytes: Buffer.from([0, 255, 10]) });
  await cp(['web:/srv/notes', 'link']);
  assert.deepEqual(await readFile(join(folder, 'a')), Buffer.from([0, 255, 10]));
  assert.deepEqual((await readdir(folder)).toSorted(), ['a', 'link', 'notes']);
  const piped = await cp(['web:/srv/notes', '-']);
  assert.equal(piped.out, Buffer.from([0, 255, 10]).toString('latin1'));
  // What is no file is written into, not replaced.
  assert.equal((await cp(['web:/srv/notes', '/dev/null'])).code, 0);
  assert.ok((await stat('/dev/null')).isCharacterDevice());
  await mkdir(join(folder, 'notes.d'));
  const missing = await cp(['web:/srv/notes', 'nowhere/']);
  assert.deepEqual([missing.code, missing.err.split('\n')[0]], [2, 'hatch: There is no folder nowhere/']);
});

test('a file goes from one VM to another', async (t) => {
  const { folder, cp, inside } = await server(t);
  await writeFile(join(folder, 'a'), 'to carry over');
  await cp(['a', 'web:/srv/a', '--mode', '0711']);
  const copied = await cp(['web:/srv/a', 'db:/srv/']);
  assert.equal(copied.code, 0, copied.err);
  assert.deepEqual(await inside('db', '/srv/a'), ['to carry over', '0711']);
});

test('what is not understood is said, with what to type instead', async (t) => {
  const { folder, cp, api } = await server(t);
  await mkdir(join(folder, 'site'));
  const wrong: readonly (readonly [words: readonly string[], says: RegExp])[] = [
    [['a', 'b'], /Neither "a" nor "b" is in a VM: write VM:\/PATH/],
    [['a', 'web:notes'], /a path in a VM begins with \/, such as web:\/notes.*\.\/web:notes/],
    [['none', 'web:/srv/none'], /none cannot be read \(ENOENT\)/],
    [['site', 'web:/srv'], /copies files, not folders.*tar -cf - site \| hatch vm cp - VM:/],
    [['-r', 'web:/srv', '.'], /hatch vm exec web -- tar -cf \/tmp\/it.tar \/srv/],
    [['web:/etc/motd', 'a', '--mode', '0600'], /--mode is for files that are copied into a VM/],
    [['-', 'web:/srv/'], /name the file in it/],
  ];
  for (const [words, says] of wrong) {
    const ran = await cp(words);
    assert.equal(ran.code, 2, `${words.join(' ')}: ${ran.err}`);
    assert.match(ran.err, says);
  }
  assert.match((await cp(['-', 'web:/srv/a'], { answer: '' })).err, /Nothing comes from a terminal/);
  const lost = await cp(['web:/srv/lost', '.']);
  assert.deepEqual([lost.code, await readdir(folder)], [3, ['site']]);
  await api.call('POST', '/vms/web/stop', {});
  await writeFile(join(folder, 'a'), 'a');
  assert.equal((await cp(['a', 'web:/srv/a'])).code, 4);
});

test('a file that breaks off on its way is not there, and what was there before is', async (t) => {
  const { api, folder, cp } = await server(t);
  await writeFile(join(folder, 'a'), 'kept');
  await cp(['a', 'web:/srv/a']);
  const { vms } = api.hatch;
  const whole = vms.readFile.bind(vms);
  Object.assign(vms, {
    readFile: async (...asked: Parameters<typeof whole>) => ({
      ...(await whole(...asked)),
      sizeBytes: 100,
      content: Readable.from(
        (async function* () {
          yield Buffer.from('half');
          throw new Error('the guest has ended');
        })(),
      ),
    }),
  } satisfies Partial<typeof vms>);
  assert.equal((await cp(['web:/srv/a', 'a'])).code, 5);
  assert.equal(await readFile(join(folder, 'a'), 'utf8'), 'kept');
  assert.deepEqual(await readdir(folder), ['a']);
});
