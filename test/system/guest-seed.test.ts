import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { keysScript, makeSeed } from '../../src/guest/seed.ts';
import { run } from '../../src/host/run.ts';

const top = await mkdtemp(join(tmpdir(), 'hatch-guest-seed-'));
after(() => rm(top, { recursive: true }));
const signal = new AbortController().signal;
const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLE me@here';
const SPEC = {
  path: join(top, 'seed.iso'),
  hostname: 'web',
  instanceId: 'vm-aaaaaaaaaaaa',
  sshAuthorizedKeys: [KEY],
  defaultUser: 'debian',
};

test('the volume is labelled cidata and holds the exact bytes, made once or twice', async () => {
  const userData = '#!/bin/sh\r\necho "tab\there, é, no end of line"';
  for (const tree of ['-R', '-J']) {
    await makeSeed({ run }, { ...SPEC, userData }, signal);
    const { stdout: about } = await run(['isoinfo', '-d', '-i', SPEC.path]);
    assert.match(about, /^Volume id: cidata$/m);
    const { stdout } = await run(['isoinfo', tree, '-i', SPEC.path, '-x', '/user-data']);
    assert.equal(stdout, userData);
  }
  const { stdout: meta } = await run(['isoinfo', '-R', '-i', SPEC.path, '-x', '/meta-data']);
  assert.deepEqual(JSON.parse(meta), {
    'instance-id': 'vm-aaaaaaaaaaaa',
    'local-hostname': 'web',
    'public-keys': [KEY],
  });
  const { stdout: vendor } = await run(['isoinfo', '-R', '-i', SPEC.path, '-x', '/vendor-data']);
  assert.equal(vendor, keysScript('debian', [KEY]));
  assert.deepEqual(await readdir(top), ['seed.iso']);
  assert.equal((await stat(SPEC.path)).mode & 0o777, 0o600);
});

test('user-data of 256 KiB fits', async () => {
  const userData = '#cloud-config\n' + '# é\n'.repeat(50_000);
  await makeSeed({ run }, { ...SPEC, userData }, signal);
  const { stdout } = await run(['isoinfo', '-R', '-i', SPEC.path, '-x', '/user-data']);
  assert.equal(stdout, userData);
});

/**
 * Runs the keys' script on a root file system of its own: a mount namespace in which /etc, /home and /root are empty but for
 * what users need, so that `useradd` really makes one and the machine's own are not touched.
 */
async function inEmptyGuest(shell: string, before: string, scripts: readonly string[]): Promise<string> {
  const folder = await mkdtemp(join(top, 'guest-'));
  for (const [i, script] of scripts.entries()) await writeFile(join(folder, `script-${i}`), script);
  const steps = [
    'set -e',
    'mkdir -p etc home root && cp -a /etc/pam.d /etc/login.defs /etc/nsswitch.conf /etc/security etc/ 2>/dev/null || true',
    'cp -aL /etc/ld.so.cache /etc/alternatives etc/ 2>/dev/null || true',
    'mkdir -p etc/sudoers.d etc/skel && : >etc/subuid && : >etc/subgid',
    "printf 'root:x:0:0:root:/root:/bin/bash\\n' >etc/passwd",
    "printf 'root:x:0:\\n' >etc/group; printf 'root:*::\\n' >etc/gshadow; printf 'root:*:1:0:99999:7:::\\n' >etc/shadow",
    'for d in etc home root; do mount --bind $d /$d; done',
    before,
    ...scripts.map((_, i) => `${shell} ./script-${i}`),
    'for u in debian root; do h=$(getent passwd $u | cut -d: -f6) || continue; echo "== $u $(id -gn $u)";' +
      ' [ -f $h/.ssh/authorized_keys ] || continue; stat -c "%a %U %n" $h $h/.ssh $h/.ssh/authorized_keys;' +
      ' cat $h/.ssh/authorized_keys; done; for f in /etc/sudoers.d/*; do [ -f $f ] || continue; stat -c "%a %U" $f; cat $f; done',
    'getent shadow debian | cut -d: -f2; getent passwd debian | cut -d: -f7',
  ];
  const { stdout } = await run(
    ['unshare', '--mount', '--propagation', 'private', '/bin/sh', '-c', steps.join('\n')],
    {
      cwd: folder,
    },
  );
  return stdout;
}

const ODD = [
  KEY,
  `ssh-rsa AAAAB3NzaOdd it's "quoted" $(touch /pwned) \`id\` \\ é * END`,
  'from="10.0.0.0/8",command="echo \'hi  there\'" ssh-ed25519 AAAAC3Restricted with options',
  'END',
];

for (const shell of ['/bin/dash', '/bin/bash']) {
  test(`the script makes the missing user and adds every key once, as ${shell} reads it`, async () => {
    const script = keysScript('debian', ODD);
    const out = await inEmptyGuest(shell, ':', [script, script]);
    assert.equal(
      out,
      [
        '== debian debian',
        '755 debian /home/debian',
        '700 debian /home/debian/.ssh',
        '600 debian /home/debian/.ssh/authorized_keys',
        ...ODD,
        '== root root',
        '440 root',
        'debian ALL=(ALL) NOPASSWD:ALL',
        '*',
        '/bin/bash',
        '',
      ].join('\n'),
    );
  });
}

test('a user who is there keeps what he has: no sudo is given, a file without a last line end is not spoilt', async () => {
  const before =
    'useradd -m -s /bin/sh debian; mkdir /home/debian/.ssh; ' +
    `printf 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLE other comment\\nssh-rsa AAAAmine' >/home/debian/.ssh/authorized_keys`;
  const out = await inEmptyGuest('/bin/sh', before, [keysScript('debian', [KEY, 'ssh-rsa AAAAnew'])]);
  assert.match(
    out,
    /authorized_keys\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLE other comment\nssh-rsa AAAAmine\nssh-rsa AAAAnew\n== root/,
  );
  assert(!out.includes('NOPASSWD'));
  assert.match(out, /\/bin\/sh\n$/);
});

test('for root the key stands on a line of its own', async () => {
  const before = `mkdir -p /root/.ssh; echo 'command="echo no" ${KEY}' >/root/.ssh/authorized_keys`;
  const out = await inEmptyGuest('/bin/sh', before, [keysScript('root', [KEY])]);
  assert(out.includes(`command="echo no" ${KEY}\n${KEY}\n`));
});
