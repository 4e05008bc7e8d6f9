import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { run } from '../host/run.ts';
import { newHostKeys } from './host-keys.ts';
import { IDENTITY_SCRIPT } from './identity-script.ts';

/** The script's functions, with a folder for the guest's files. */
function functionsIn(folder: string): string {
  const begin = IDENTITY_SCRIPT.indexOf('IFS= read -r reason');
  assert.ok(begin > 0);
  return IDENTITY_SCRIPT.slice(0, begin).replaceAll(/(?<![\w/])\/(etc|run|var|proc)\//g, `${folder}/$1/`);
}

async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-script-'));
  try {
    for (const path of ['etc/ssh', 'run', 'var']) await mkdir(join(folder, path), { recursive: true });
    await body(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

test('a name in the hosts file follows, also with a domain and twice in a row, and what only looks like it stays', () =>
  inFolder(async (folder) => {
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
    await run(['sh', '-c', `${functionsIn(folder)}old=booted hostname=copy-1; rename_in_hosts`]);
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
  }));

test('a hosts file that does not name the machine is not written', () =>
  inFolder(async (folder) => {
    const hosts = join(folder, 'etc/hosts');
    await writeFile(hosts, '127.0.0.1 localhost', { mode: 0o444 });
    const before = await stat(hosts, { bigint: true });
    await run(['sh', '-c', `${functionsIn(folder)}old=booted hostname=copy; rename_in_hosts`]);
    assert.equal((await stat(hosts, { bigint: true })).mtimeNs, before.mtimeNs);
  }));

test('the host keys that were sent are written over those that are there, which keep their mode', () =>
  inFolder(async (folder) => {
    const [ed25519, ecdsa] = await newHostKeys('root@copy');
    assert.ok(ed25519 && ecdsa);
    const at = (name: string): string => join(folder, 'etc/ssh', name);
    await writeFile(at('ssh_host_ed25519_key'), 'old', { mode: 0o640 });
    await writeFile(at('ssh_host_ed25519_key.pub'), 'old', { mode: 0o644 });
    await writeFile(at('ssh_host_rsa_key'), 'old', { mode: 0o600 });
    await writeFile(at('ssh_host_other_key'), 'old');
    const told = `ed25519='${ed25519.privateBody}' ed25519_public='${ed25519.publicLine}' ecdsa=x ecdsa_public=y hostname=copy`;
    const { stdout } = await run(['sh', '-c', `${functionsIn(folder)}${told}; set_host_keys`]);
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
  }));
