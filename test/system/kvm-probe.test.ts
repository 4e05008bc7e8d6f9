import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { silent } from '../../src/base/logger.ts';
import { CommandFailed, run, type RunResult } from '../../src/host/run.ts';
import { openFirecracker } from '../../src/vmm/firecracker/driver.ts';
import { firecrackerRunsCode } from '../../src/vmm/firecracker/kvm-probe.ts';
import { probeKernel } from '../../src/vmm/firecracker/probe-kernel.ts';

const DOUBLE = join(import.meta.dirname, '../../src/vmm/firecracker/testing/firecracker-double');
let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvm-'));
});
after(() => rm(folder, { recursive: true }));

async function boot(kernel: Buffer, timeoutMs: number): Promise<RunResult> {
  const file = join(folder, 'kernel');
  await writeFile(file, kernel);
  return run(
    [
      'qemu-system-x86_64',
      ...['-machine', 'q35', '-accel', 'tcg', '-m', '64', '-nodefaults', '-no-user-config'],
      ...['-display', 'none', '-no-reboot', '-kernel', file],
    ],
    { timeoutMs },
  );
}

test('the kernel that tries KVM counts to its end and resets the machine, on an emulated processor', async () => {
  assert.equal((await boot(probeKernel(), 20_000)).exitCode, 0);
});

test('without its reset it would never end: what ends it is that it ran', async () => {
  const deaf = probeKernel();
  // In the place of `out 0x64, al`, two instructions that do nothing.
  deaf.set([0x90, 0x90], deaf.length - 5);
  await assert.rejects(
    boot(deaf, 3000),
    (error) => error instanceof CommandFailed && /killed/.test(error.message),
  );
});

test('a Firecracker whose guests run nothing is found out, and leaves nothing', async () => {
  const open = (vms: string): ReturnType<typeof openFirecracker> =>
    openFirecracker({ run, log: silent, firecrackerBin: DOUBLE, folder: vms });
  assert.equal(await firecrackerRunsCode(open), 'opens but runs nothing');
});
