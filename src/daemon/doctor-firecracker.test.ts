import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { run } from '../host/run.ts';
import type { JailHost } from '../vmm/firecracker/cages.ts';
import { readConfig } from './config.ts';
import { dataFolder } from './data-folder.ts';
import { firecracker } from './doctor-firecracker.ts';

let folder: string;
let host: JailHost;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-dfc-'));
  host = { isRoot: true, procMounts: join(folder, 'mounts'), mountinfo: join(folder, 'mountinfo') };
  await writeFile(host.mountinfo, '22 1 254:0 / / rw,relatime - ext4 /dev/vda1 rw\n');
});
after(() => rm(folder, { recursive: true }));

/** A program that says these words to these flags. */
async function program(name: string, says: Readonly<Record<string, string>>): Promise<string> {
  const path = join(folder, name);
  const cases = Object.entries(says).map(([flag, words]) => `${flag}) echo '${words}';;`);
  await writeFile(path, `#!/bin/sh\ncase "$1" in ${cases.join(' ')} esac\n`);
  await chmod(path, 0o755);
  return path;
}

const release = (version: string): Promise<readonly [string, string]> =>
  Promise.all([
    program(`fc-${version}`, { '--version': `Firecracker v${version}`, '--snapshot-version': 'v10.0.0' }),
    program(`jailer-${version}`, { '--version': `Jailer v${version}` }),
  ]);

async function told(
  env: Readonly<Record<string, string>>,
  more: Partial<JailHost> = {},
): Promise<readonly string[]> {
  const { values } = readConfig({ HATCH_VMM: 'firecracker', HATCH_DATA_DIR: folder, ...env });
  const found = await firecracker({ run }, values, dataFolder(folder), { ...host, ...more });
  return found.map(({ verdict, message }) => `${verdict}: ${message}`);
}

test('Firecracker and a jailer of one release are told with their versions, the snapshot format and the users', async () => {
  const [bin, jailer] = await release('1.16.1');
  const env = { HATCH_FIRECRACKER_BIN: bin, HATCH_JAILER_BIN: jailer };
  assert.deepEqual(await told(env), [
    'ok: Firecracker 1.16.1, snapshots of format 10.0.0',
    'ok: the jailer is 1.16.1 as well; guests are users 61000 to 64999, each its own',
  ]);
});

test('a jailer that is missing, not wished for, or of no use is told with what is lost and what to do', async () => {
  const [bin, jailer] = await release('1.16.1');
  const at = async (env: Record<string, string>, more: Partial<JailHost> = {}): Promise<string> =>
    (await told({ HATCH_FIRECRACKER_BIN: bin, HATCH_JAILER_BIN: jailer, ...env }, more))[1] ?? '';
  assert.match(
    await at({ HATCH_JAILER_BIN: '/nowhere/jailer' }),
    /^warn: guests are not jailed, since the jailer \(\/nowhere\/jailer\) is not installed: each guest's .*\(HATCH_JAILER_BIN\)$/,
  );
  assert.match(await at({ HATCH_JAILER: 'off' }), /^warn: guests are not jailed, since HATCH_JAILER=off/);
  assert.match(await at({}, { isRoot: false }), /^warn: .*hatchd does not run as root/);
  assert.match(
    await at({ HATCH_JAILER: 'on' }, { isRoot: false }),
    /^fail: HATCH_JAILER=on, but hatchd does not/,
  );
  const [, old] = await release('1.15.0');
  assert.match(
    await at({ HATCH_JAILER_BIN: old }),
    /^fail: The jailer is 1\.15\.0 and Firecracker is 1\.16\.1; install/,
  );
});

test('a Firecracker that is missing or too old fails where it is asked for, and is a warning where QEMU does', async () => {
  const missing = { HATCH_FIRECRACKER_BIN: '/nowhere/firecracker' };
  assert.match(
    (await told(missing)).join(),
    /^fail: Firecracker \(\/nowhere\/firecracker\) is not installed/,
  );
  assert.match(
    (await told({ ...missing, HATCH_VMM: 'auto' })).join(),
    /^warn: Firecracker .* is not installed.*Until then guests run on QEMU\.$/,
  );
  const [old] = await release('1.10.0');
  assert.match(
    (await told({ HATCH_FIRECRACKER_BIN: old })).join(),
    /^fail: Firecracker 1\.10\.0 is too old; install/,
  );
  assert.deepEqual(await told({ ...missing, HATCH_VMM: 'qemu' }), ['ok: not used (HATCH_VMM=qemu)']);
});

test('the release whose restored guests lose their vsock is a warning', async () => {
  const [bin, jailer] = await release('1.16.0');
  const [first] = await told({ HATCH_FIRECRACKER_BIN: bin, HATCH_JAILER_BIN: jailer });
  assert.match(first ?? '', /^warn: Firecracker 1\.16\.0, .*; install 1\.16\.1$/);
});
