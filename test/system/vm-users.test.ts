import assert from 'node:assert/strict';
import { chown, mkdir, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { newId, type VmId } from '../../src/base/ids.ts';
import { VmUsers } from '../../src/vmm/vm-users.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-vm-users-'));
});
after(() => rm(folder, { recursive: true }));

async function home(): Promise<{ readonly vmId: VmId; readonly folder: string }> {
  const vmId = newId('vm');
  await mkdir(join(folder, vmId));
  return { vmId, folder: join(folder, vmId) };
}

test('each VM keeps a user of its own as long as its folder is there, and it is free again afterwards', async () => {
  const users = new VmUsers({ min: 63_001, max: 63_002 }, async () => true);
  const [first, second, third] = [await home(), await home(), await home()];
  const { uid, inside } = await users.claim(first);
  assert.deepEqual(inside, []);
  assert.equal((await stat(first.folder)).gid, uid);
  const { uid: other } = await users.claim(second);
  assert.deepEqual([uid, other].sort(), [63_001, 63_002]);
  assert.equal((await users.claim(first)).uid, uid, 'it keeps its own');
  assert.equal((await new VmUsers({ min: 63_001, max: 63_002 }, async () => true).claim(first)).uid, uid);
  await assert.rejects(users.claim(third), {
    message:
      'no user is free for the VM: all from 63001 to 63002 are taken; widen HATCH_VM_UID_MIN and HATCH_VM_UID_MAX',
  });
  await rm(first.folder, { recursive: true });
  assert.equal((await users.claim(third)).uid, uid);
});

test('a folder that has the user of another, as of data put back, gets one that is free', async () => {
  const users = new VmUsers({ min: 63_101, max: 63_109 }, async () => true);
  const [first, copied] = [await home(), await home()];
  const { uid } = await users.claim(first);
  await chown(copied.folder, 0, uid);
  assert.notEqual((await users.claim(copied)).uid, uid);
});
