import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { newId } from '../../base/ids.ts';
import { silent, type Logger } from '../../base/logger.ts';
import { run } from '../../host/run.ts';
import { VmmError } from '../driver.ts';
import { LOST_WITHOUT_JAILER, openCages, usableJailer, type JailHost, type JailWish } from './cages.ts';
import { CONTROLLERS } from '../cgroups.ts';
import { findJailer, jailerCommand } from './jailer.ts';
import { readJailOptions } from './testing/jail-options.ts';

let folder: string;
let host: JailHost;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-jailer-'));
  host = { isRoot: true, procMounts: join(folder, 'mounts'), mountinfo: join(folder, 'mountinfo') };
  await writeFile(host.procMounts, 'proc /proc proc rw 0 0\n');
  await writeFile(host.mountinfo, '22 1 254:0 / / rw,relatime - ext4 /dev/vda1 rw\n');
});
after(() => rm(folder, { recursive: true }));

/** A program that says this whatever it is asked. */
async function program(name: string, says: string): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, `#!/bin/sh\necho '${says}'\n`);
  await chmod(path, 0o755);
  return path;
}

function wish(jailerBin: string, mode: JailWish['mode'] = 'auto'): JailWish {
  return { mode, jailerBin, uids: { min: 61000, max: 61010 } };
}

const usable = (
  { jailerBin, mode }: JailWish,
  more: Partial<JailHost> = {},
): ReturnType<typeof usableJailer> =>
  usableJailer({ run }, { jailerBin, mode }, { version: '1.16.1', folder }, { ...host, ...more });

test('the command is one the jailer takes: its own flags, the limits, and after the dashes what is for Firecracker', () => {
  const vmId = newId('vm');
  const [bin, ...argv] = jailerCommand({
    jailerBin: '/opt/fc/jailer',
    firecrackerBin: process.execPath,
    spec: { vmId, vcpuCount: 1, memMib: 128 },
    uid: 61005,
    base: folder,
    controllers: [],
  });
  assert.equal(bin, '/opt/fc/jailer');
  // As the double reads it, which refuses what the jailer refuses.
  const read = readJailOptions(argv, { procMounts: host.procMounts, pid: 1 });
  assert.ok(typeof read === 'object');
  assert.deepEqual([read.id, read.uid, read.gid, read.netns, read.cgroups], [vmId, 61005, 61005, null, null]);
  assert.equal(read.root, join(folder, 'node', vmId, 'root'));
  assert.deepEqual(read.extra, ['--api-sock', 'fc.sock']);
});

test('limits go to a group of the VM under that of all of ours, in version 2', () => {
  const argv = jailerCommand({
    jailerBin: 'jailer',
    firecrackerBin: '/opt/fc/firecracker',
    spec: { vmId: newId('vm'), vcpuCount: 1, memMib: 128 },
    uid: 61005,
    base: folder,
    controllers: CONTROLLERS,
  });
  const at = argv.indexOf('--cgroup-version');
  assert.deepEqual(argv.slice(at), [
    ...['--cgroup-version', '2', '--parent-cgroup', 'hatch'],
    ...['--cgroup', 'cpu.max=150000 100000', '--cgroup', `memory.max=${192 * 1024 * 1024}`],
    ...['--cgroup', 'pids.max=33', '--', '--api-sock', 'fc.sock'],
  ]);
});

test('a jailer says its version; one that is not there is undefined, one that is none is told', async () => {
  const jailer = await program('jailer', 'Jailer v1.16.1');
  assert.deepEqual(await findJailer({ run }, jailer), { bin: jailer, version: '1.16.1' });
  assert.equal(await findJailer({ run }, join(folder, 'nothing')), undefined);
  assert.equal(await findJailer({ run }, 'no-such-jailer-in-the-path'), undefined);
  await assert.rejects(findJailer({ run }, await program('other', 'I am a teapot')), {
    name: 'VmmError',
    message: /other is no jailer: it says "I am a teapot" of its version\.$/,
  });
  const foreign = await program('foreign', '');
  await writeFile(foreign, Buffer.from('\x7fELF\x02\x01\x01'));
  await assert.rejects(findJailer({ run }, foreign), VmmError);
});

test('without a jailer, or root, auto goes on and says why, and on does not go on', async () => {
  const jailer = await program('fits', 'Jailer v1.16.1');
  assert.deepEqual(await usable(wish(jailer)), { bin: jailer, version: '1.16.1' });
  assert.deepEqual(await usable(wish(jailer, 'off')), { why: 'HATCH_JAILER=off' });
  assert.deepEqual(await usable(wish(jailer), { isRoot: false }), { why: 'hatchd does not run as root' });
  assert.deepEqual(await usable(wish('/nowhere/jailer')), {
    why: 'the jailer (/nowhere/jailer) is not installed',
  });
  await assert.rejects(usable(wish(jailer, 'on'), { isRoot: false }), {
    message: 'HATCH_JAILER=on, but hatchd does not run as root; run it as root, or set HATCH_JAILER=off.',
  });
  await assert.rejects(usable(wish('/nowhere/jailer', 'on')), {
    kind: 'missing',
    message:
      /^HATCH_JAILER=on, but the jailer \(\/nowhere\/jailer\) is not installed; put it beside Firecracker/,
  });
});

test('a jailer of another release, and a data folder no jail can be in, are refused in every mode but off', async () => {
  const old = await program('old', 'Jailer v1.15.0');
  for (const mode of ['auto', 'on'] as const)
    await assert.rejects(usable(wish(old, mode)), {
      kind: 'incompatible',
      message:
        'The jailer is 1.15.0 and Firecracker is 1.16.1; install both of one release, or set HATCH_JAILER=off.',
    });
  const mountinfo = join(folder, 'nodev');
  await writeFile(mountinfo, '22 1 254:0 / / rw,nodev,noexec - ext4 /dev/vda1 rw\n');
  const jailer = await program('fits-too', 'Jailer v1.16.1');
  await assert.rejects(usable(wish(jailer), { mountinfo }), {
    message: /^HATCH_DATA_DIR lies on \/, which is mounted nodev and noexec: no jail can be in it; move it/,
  });
  assert.deepEqual(await usable(wish(jailer, 'off'), { mountinfo }), { why: 'HATCH_JAILER=off' });
});

test('what is lost without the jailer is said loudly, and which limits are lost without cgroup v2', async () => {
  const said: unknown[] = [];
  const log: Logger = { ...silent, warn: (fields, message) => void said.push([fields, message]) };
  const jailer = await program('said', 'Jailer v1.16.1');
  const open = (one: JailWish): ReturnType<typeof openCages> =>
    openCages({ run, log }, one, { bin: process.execPath, version: '1.16.1', folder }, host);
  const den = { vmId: newId('vm'), folder };
  const [first, second] = await open(wish(jailer, 'off'));
  assert.deepEqual(said.splice(0), [
    [{ why: 'HATCH_JAILER=off', lost: LOST_WITHOUT_JAILER }, 'GUESTS ARE NOT JAILED'],
  ]);
  assert.equal(await first.tapOwner(den), null);
  assert.notEqual(second, undefined);
  await open(wish(jailer));
  assert.deepEqual(said, [
    [
      { missing: ['cpu', 'memory', 'pids'] },
      'cgroup v2 lacks controllers on this host, so jailed guests have no such limits',
    ],
  ]);
});
