import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { run } from '../host/run.ts';
import { newHostKeys, type HostKey } from './host-keys.ts';
import { IDENTITY_HELPER } from './identity-helper.ts';
import { IDENTITY_SCRIPT } from './identity-script.ts';

/** A program's functions, with a folder for the guest's files. */
function functionsIn(folder: string, program: string, end: string): string {
  const begin = program.indexOf(end);
  assert.ok(begin > 0);
  return program.slice(0, begin).replaceAll(/(?<![\w/])\/(etc|run|var|proc)\//g, `${folder}/$1/`);
}

interface Told {
  readonly hosts: { readonly old: string; readonly hostname: string };
  readonly keys: { readonly ed25519: HostKey; readonly hostname: string };
}

/** The same functions of the script any guest is sent, and of the helper our image has. Each gives what it says. */
const WAYS: Readonly<
  Record<string, { [K in keyof Told]: (folder: string, told: Told[K]) => Promise<string> }>
> = {
  'the script': {
    hosts: (folder, { old, hostname }) => shell(folder, `old=${old} hostname=${hostname}; rename_in_hosts`),
    keys: (folder, { ed25519: { privateBody, publicLine }, hostname }) =>
      shell(
        folder,
        `ed25519='${privateBody}' ed25519_public='${publicLine}' ecdsa=x ecdsa_public=y hostname=${hostname}; set_host_keys`,
      ),
  },
  'the helper': {
    hosts: (folder, { old, hostname }) => perl(folder, `rename_in_hosts('${old}', '${hostname}');`),
    keys: (folder, { ed25519: { privateBody, publicLine }, hostname }) =>
      perl(
        folder,
        `set_host_keys('${hostname}', ed25519 => ['${privateBody}', '${publicLine}'], ecdsa => ['x', 'y']); print @report;`,
      ),
  },
};

async function shell(folder: string, call: string): Promise<string> {
  const functions = functionsIn(folder, IDENTITY_SCRIPT, 'IFS= read -r reason');
  return (await run(['sh', '-c', `${functions}${call}`])).stdout;
}

async function perl(folder: string, call: string): Promise<string> {
  const functions = functionsIn(folder, IDENTITY_HELPER, 'mkdir $home');
  return (await run(['perl', '-e', `${functions}${call}`])).stdout;
}

/** Declares a test of both. */
function bothWays(name: string, body: (folder: string, way: (typeof WAYS)[string]) => Promise<void>): void {
  for (const [who, way] of Object.entries(WAYS))
    test(`${who}: ${name}`, () => inFolder((folder) => body(folder, way)));
}

async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-script-'));
  try {
    for (const path of ['etc/ssh', 'run/hatch', 'var']) await mkdir(join(folder, path), { recursive: true });
    await body(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

bothWays(
  'a name in the hosts file follows, also with a domain and twice in a row, and what only looks like it stays',
  async (folder, way) => {
    const hosts = join(folder, 'etc/hosts');
    await writeFile(
      hosts,
      [
        '127.0.0.1 localhost',
        '# 127.0.1.1 booted',
        '127.0.1.1\tbooted.example.org booted booted\tbooted # booted',
        'booted 10.0.0.1 not-booted booted2 unbooted booted-x  x',
        '',
        '10.0.0.2 back\\slash %s $(id) `id` "q" booted',
        '10.0.0.3 booted.',
      ].join('\n'),
    );
    await way.hosts(folder, { old: 'booted', hostname: 'copy-1' });
    assert.deepEqual((await readFile(hosts, 'utf8')).split('\n'), [
      '127.0.0.1 localhost',
      '# 127.0.1.1 booted',
      '127.0.1.1\tcopy-1.example.org copy-1 copy-1\tcopy-1 # copy-1',
      'booted 10.0.0.1 not-booted booted2 unbooted booted-x  x',
      '',
      '10.0.0.2 back\\slash %s $(id) `id` "q" copy-1',
      '10.0.0.3 copy-1.',
      '',
    ]);
  },
);

bothWays('a hosts file that does not name the machine is not written', async (folder, way) => {
  const hosts = join(folder, 'etc/hosts');
  await writeFile(hosts, '127.0.0.1 localhost', { mode: 0o444 });
  const before = await stat(hosts, { bigint: true });
  await way.hosts(folder, { old: 'booted', hostname: 'copy' });
  assert.equal((await stat(hosts, { bigint: true })).mtimeNs, before.mtimeNs);
});

bothWays(
  'the host keys that were sent are written over those that are there, which keep their mode',
  async (folder, way) => {
    const [ed25519, ecdsa] = await newHostKeys('root@copy');
    assert.ok(ed25519 && ecdsa);
    const at = (name: string): string => join(folder, 'etc/ssh', name);
    await writeFile(at('ssh_host_ed25519_key'), 'old', { mode: 0o640 });
    await writeFile(at('ssh_host_ed25519_key.pub'), 'old', { mode: 0o644 });
    await writeFile(at('ssh_host_rsa_key'), 'old', { mode: 0o600 });
    await writeFile(at('ssh_host_other_key'), 'old');
    const stdout = await way.keys(folder, { ed25519, hostname: 'copy' });
    const said = stdout.trim().split('\n').toSorted();
    assert.equal(said.length, 2);
    assert.equal(said[0], `key ${ed25519.publicLine}`);
    assert.match(
      said[1] ?? '',
      /^key ssh-rsa \S+ root@copy$/,
      'one of a kind that was not sent is made there',
    );
    assert.equal((await stat(at('ssh_host_ed25519_key'))).mode & 0o777, 0o640);
    assert.equal((await readFile(at('ssh_host_ed25519_key.pub'), 'utf8')).trim(), ed25519.publicLine);
    assert.equal(await readFile(at('ssh_host_other_key'), 'utf8'), 'old');
  },
);
