import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { newId, type VmId } from '../../base/ids.ts';
import { silent, type Logger } from '../../base/logger.ts';
import { exists } from '../../host/files.ts';
import { CONTROLLERS } from '../cgroups.ts';
import type { MachineSpec } from '../driver.ts';
import { Limits, NO_LIMITS } from './limits.ts';

/** A hierarchy of plain folders; of the real one the files in a group go with it. */
let mount: string;
before(async () => {
  mount = await mkdtemp(join(tmpdir(), 'hatch-limits-'));
});
after(() => rm(mount, { recursive: true }));

const machine = (vmId: VmId): MachineSpec => ({ vmId, vcpuCount: 2, memMib: 1024 }) as MachineSpec;

test('each QEMU is in a group of its VM, with room for what it takes besides the guest; more where it emulates', async () => {
  const limits = new Limits({ log: silent, cgroups: { mount, controllers: CONTROLLERS } });
  for (const [accel, mib] of [
    ['kvm', 1024 + 256 + 128],
    ['tcg', 1024 + 512 + 128],
  ] as const) {
    const vmId = newId('vm');
    await limits.put(machine(vmId), accel, { pid: 4242 });
    const said = (file: string): Promise<string> => readFile(join(mount, 'hatch', vmId, file), 'utf8');
    assert.equal(await said('memory.max'), String(mib * 1024 * 1024));
    assert.equal(await said('cpu.max'), '300000 100000');
    assert.equal(await said('pids.max'), '130');
    assert.equal(await said('cgroup.procs'), '4242');
    assert.equal(await limits.wereTooSmall(vmId), false);
    await writeFile(join(mount, 'hatch', vmId, 'memory.events'), 'oom 1\noom_kill 1\n');
    assert.equal(await limits.wereTooSmall(vmId), true);
    await rm(join(mount, 'hatch', vmId), { recursive: true });
    await mkdir(join(mount, 'hatch', vmId));
    await limits.lift(vmId);
    assert.equal(await exists(join(mount, 'hatch', vmId)), false);
  }
});

test('without a hierarchy, or with one that is not ours to divide, there are no limits, which the log says once', async () => {
  const none = new Limits({ log: silent, cgroups: null });
  await none.put(machine(newId('vm')), 'kvm', { pid: 1 });
  await none.lift(newId('vm'));
  assert.equal(await none.wereTooSmall(newId('vm')), false);

  const warnings: string[] = [];
  const log: Logger = { ...silent, warn: (_fields, message) => void warnings.push(message) };
  const theirs = join(mount, 'theirs');
  await mkdir(join(theirs, 'cgroup.subtree_control'), { recursive: true });
  const limits = new Limits({ log, cgroups: { mount: theirs, controllers: CONTROLLERS } });
  const vmId = newId('vm');
  for (let i = 0; i < 2; i++) await limits.put(machine(vmId), 'kvm', { pid: 1 });
  assert.deepEqual(warnings, [NO_LIMITS]);
  assert.equal(await exists(join(theirs, 'hatch', vmId)), false);
});
