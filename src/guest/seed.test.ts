import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { CommandFailed, run, type Run } from '../host/run.ts';
import { Failure } from '../model/failure.ts';
import { keysScript, makeSeed, seedFiles } from './seed.ts';
import { shellQuote } from './shell.ts';

const CONTENT = {
  hostname: 'web',
  instanceId: 'vm-aaaaaaaaaaaa',
  userData: null,
  sshAuthorizedKeys: [],
  defaultUser: 'debian',
};
const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLE me@here';

const folder = await mkdtemp(join(tmpdir(), 'hatch-seed-'));
after(() => rm(folder, { recursive: true }));

test('user-data is handed on byte for byte, whatever it is', () => {
  for (const userData of ['', '#!/bin/sh\r\necho \0é\n', '#cloud-config\nusers: []']) {
    assert.equal(seedFiles({ ...CONTENT, userData })['user-data'], userData);
  }
});

test('without user-data there is a cloud-config that asks for nothing', () => {
  assert.equal(seedFiles(CONTENT)['user-data'], '#cloud-config\n{}\n');
});

test('meta-data names the instance and the host, and the keys unless they are for root', () => {
  const meta = (defaultUser: string): unknown =>
    JSON.parse(seedFiles({ ...CONTENT, defaultUser, sshAuthorizedKeys: [KEY] })['meta-data'] ?? '');
  const plain = { 'instance-id': 'vm-aaaaaaaaaaaa', 'local-hostname': 'web' };
  assert.deepEqual(meta('debian'), { ...plain, 'public-keys': [KEY] });
  assert.deepEqual(meta('root'), plain);
});

test('without keys nothing is added to the guest', () => {
  assert.deepEqual(Object.keys(seedFiles({ ...CONTENT, sshAuthorizedKeys: ['  ', ''] })), [
    'user-data',
    'meta-data',
  ]);
});

test('a key of several lines and a user name no guest would take are refused by name', () => {
  const refused = (field: string) => (error: unknown) =>
    error instanceof Failure && error.code === 'invalid_request' && error.details['field'] === field;
  for (const key of [`${KEY}\nssh-rsa BBBB`, 'a\0b', 'a\rb']) {
    assert.throws(
      () => seedFiles({ ...CONTENT, sshAuthorizedKeys: [key] }),
      refused('ssh_authorized_keys'),
      key,
    );
  }
  for (const user of ['', 'Root', 'a b', "x'; rm -rf /", '-x', 'a\nb']) {
    assert.throws(() => keysScript(user, [KEY]), refused('default_user'), user);
  }
});

test('a shell gives back exactly what was quoted', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc
        .string({ unit: 'binary', minLength: 1 })
        .filter((text) => !text.includes('\0') && text.isWellFormed()),
      async (text) => {
        const { stdout } = await run(['/bin/sh', '-c', `printf '%s|' ${shellQuote(text)}`]);
        assert.equal(stdout, `${text}|`);
      },
    ),
    { numRuns: 30 },
  );
  assert.throws(() => shellQuote('a\0b'), TypeError);
});

test('a volume that cannot be made leaves nothing behind and says what to do', async () => {
  const failures: [Partial<{ stderrTail: string; missing: boolean }>, string, RegExp][] = [
    [{ stderrTail: 'genisoimage: No space left on device. Cannot write' }, 'no_space', /disk .* full/],
    [{ missing: true }, 'unavailable', /install the package genisoimage/],
  ];
  for (const [fields, code, message] of failures) {
    const broken: Run = async (argv) => {
      // It dies when it has written half.
      await writeFile(argv[argv.indexOf('-output') + 1] ?? '', 'half');
      throw new CommandFailed(argv, 'failed', fields);
    };
    await assert.rejects(
      makeSeed({ run: broken }, { ...CONTENT, path: join(folder, 'seed.iso') }, new AbortController().signal),
      (error: unknown) => error instanceof Failure && error.code === code && message.test(error.message),
    );
    assert.deepEqual(await readdir(folder), []);
  }
});

test('the old volume stays whole while a new one fails', async () => {
  const path = join(folder, 'seed.iso');
  await writeFile(path, 'old');
  const broken: Run = async (argv) => {
    throw new CommandFailed(argv, 'ended with exit code 1', { exitCode: 1 });
  };
  await assert.rejects(
    makeSeed({ run: broken }, { ...CONTENT, path }, new AbortController().signal),
    CommandFailed,
  );
  assert.equal(await readFile(path, 'utf8'), 'old');
  assert.deepEqual(await readdir(folder), ['seed.iso']);
});
