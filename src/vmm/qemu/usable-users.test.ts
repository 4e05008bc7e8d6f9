import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { VmmError } from '../driver.ts';
import { usableUsers } from './usable-users.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-users-'));
});
after(() => rm(folder, { recursive: true }));

const uids = { min: 61000, max: 64999 };
const ALL = '000001ffffffffff';

/** As hatchd with these rights sees it. */
async function as(uid: number, capabilities: string, mode: 'auto' | 'on' | 'off' = 'auto'): Promise<unknown> {
  const status = join(folder, 'status');
  await writeFile(status, `Name:\thatchd\nUid:\t${uid}\t${uid}\t${uid}\t${uid}\nCapEff:\t${capabilities}\n`);
  return usableUsers({ mode, uids }, join(folder, 'vms'), status);
}

test('as root with its capabilities every QEMU has a user of its own, unless that is switched off', async () => {
  assert.deepEqual(await as(0, ALL), { uids });
  assert.deepEqual(await as(0, ALL, 'on'), { uids });
  assert.deepEqual(await as(0, ALL, 'off'), { why: 'HATCH_QEMU_USERS=off' });
});

test('what hatchd lacks for it is named; where it is asked for that is an error', async () => {
  assert.deepEqual(await as(1000, '0'), { why: 'hatchd does not run as root' });
  // What a container has unless told otherwise.
  assert.deepEqual(await as(0, '00000000a80425fb'), { why: 'hatchd runs without CAP_SYS_PTRACE' });
  assert.deepEqual(await as(0, '0000000000080000'), {
    why: 'hatchd runs without CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_KILL, CAP_SETGID, CAP_SETUID',
  });
  await assert.rejects(
    as(1000, '0', 'on'),
    (error) =>
      error instanceof VmmError &&
      error.message ===
        'HATCH_QEMU_USERS=on, but hatchd does not run as root; mend that, or set HATCH_QEMU_USERS=off.',
  );
});

test('it is tried whether files can be given away, and nothing is left of that', async () => {
  const status = join(folder, 'root-status');
  await writeFile(status, `Uid:\t0\t0\t0\t0\nCapEff:\t${ALL}\n`);
  const mine = await mkdtemp(join(folder, 'data-'));
  const found = await usableUsers({ mode: 'auto', uids }, mine, status);
  if (process.geteuid?.() === 0) assert.deepEqual(found, { uids });
  else
    assert.deepEqual(found, {
      why: 'files in HATCH_DATA_DIR cannot be given to the users 61000 to 64999 (EPERM)',
    });
  assert.deepEqual(await readdir(mine), []);
});
