import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { readConfig } from './config.ts';
import { qemuUsers } from './doctor-qemu.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-qemu-users-'));
});
after(() => rm(folder, { recursive: true }));

async function told(
  env: Readonly<Record<string, string>>,
  { uid = 0, capabilities = '000001ffffffffff' } = {},
): Promise<string> {
  const status = join(folder, 'status');
  await writeFile(status, `Uid:\t${uid}\t${uid}\t${uid}\t${uid}\nCapEff:\t${capabilities}\n`);
  const { values } = readConfig({ HATCH_VMM: 'qemu', HATCH_DATA_DIR: folder, ...env });
  const found = await qemuUsers(values, { vms: join(folder, 'none-yet') }, status);
  return found.map(({ verdict, message }) => `${verdict}: ${message}`).join();
}

test('as whom QEMUs run is told, and what is lost and what to do where that is hatchd', async () => {
  assert.equal(await told({}), "ok: guests' QEMUs are users 61000 to 64999, each its own");
  assert.match(
    await told({ HATCH_QEMU_USERS: 'off' }),
    /^warn: guests' QEMUs are no users of their own, since HATCH_QEMU_USERS=off: each guest's QEMU runs as/,
  );
  assert.match(
    await told({}, { capabilities: '00000000a80425fb' }),
    /since hatchd runs without CAP_SYS_PTRACE: .*; run hatchd as root with all its capabilities/,
  );
  assert.match(
    await told({ HATCH_QEMU_USERS: 'on' }, { uid: 1000 }),
    /^fail: HATCH_QEMU_USERS=on, but hatchd/,
  );
  for (const vmm of ['fake', 'firecracker'])
    assert.equal(await told({ HATCH_VMM: vmm }), `ok: not used (HATCH_VMM=${vmm})`);
});
