import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { newId, type VmId } from '../../base/ids.ts';
import { identify } from '../../host/process.ts';
import type { VmmProcess } from '../../model/vm.ts';
import { nameOf } from './command-line.ts';
import { vmOfQemu } from './processes.ts';

let root: string;
let folder: string;
let vmId: VmId;
let children: ChildProcess[];

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'hatch-qemu-'));
  folder = join(root, 'vms');
  vmId = newId('vm');
  await mkdir(join(folder, vmId), { recursive: true });
  children = [];
});
afterEach(async () => {
  for (const child of children) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  await rm(root, { recursive: true });
});

/** A process with the arguments of a QEMU; its shell waits for a line that does not come. */
async function start(cwd: string, ...args: readonly string[]): Promise<VmmProcess> {
  const child = spawn('/bin/sh', ['-c', 'read line', ...args], { cwd, stdio: ['pipe', 'ignore', 'ignore'] });
  children.push(child);
  await once(child, 'spawn');
  const found = await identify(child.pid ?? 0);
  assert(found);
  return found;
}

test("a QEMU is its VM's by its name and by the folder it runs in", async () => {
  const { pid } = await start(join(folder, vmId), '-name', nameOf(vmId), '-m', '512M');
  assert.equal(await vmOfQemu(folder, pid), vmId);
});

test('its folder is known by a link to it too', async () => {
  await symlink(folder, join(root, 'link'));
  const { pid } = await start(join(folder, vmId), '-name', nameOf(vmId));
  assert.equal(await vmOfQemu(join(root, 'link'), pid), vmId);
});

test('it is still known when its folder was removed under it', async () => {
  const { pid } = await start(join(folder, vmId), '-name', nameOf(vmId));
  await rm(join(folder, vmId), { recursive: true });
  assert.equal(await vmOfQemu(folder, pid), vmId);
});

test('another folder, another name, no name, no process are nobody of ours', async () => {
  const other = newId('vm');
  await mkdir(join(folder, other));
  await mkdir(join(root, vmId));
  const elsewhere = await start(join(root, vmId), '-name', nameOf(vmId));
  const renamed = await start(join(folder, vmId), '-name', nameOf(other));
  const foreign = await start(join(folder, vmId), '-name', vmId);
  const odd = await start(join(folder, vmId), '-name', 'hatch-vm-../../etc');
  const nameless = await start(join(folder, vmId));
  for (const { pid } of [elsewhere, renamed, foreign, odd, nameless])
    assert.equal(await vmOfQemu(folder, pid), undefined);
  assert.equal(await vmOfQemu(folder, 2 ** 22 + 1), undefined);
  assert.equal(await vmOfQemu(join(root, 'nowhere'), elsewhere.pid), undefined);
});
