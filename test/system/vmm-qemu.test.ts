import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { silent } from '../../src/base/logger.ts';
import { signalProcess } from '../../src/host/process.ts';
import { run } from '../../src/host/run.ts';
import type { Driver } from '../../src/vmm/driver.ts';
import { driverSuite } from '../../src/vmm/driver-suite.ts';
import { openQemu } from '../../src/vmm/qemu/driver.ts';
import type { DriverHost } from '../../src/vmm/suite/bench.ts';
import { AGENT_SEED, agentCases } from '../support/agent-cases.ts';
import { agentOf, bootAndSave } from '../support/booted-guest.ts';
import { qemuCases } from '../support/qemu-cases.ts';

/** Longer than the 108 bytes a unix socket's address holds, as a data folder may be. */
const DEEP = 'a-folder-for-virtual-machines-whose-name-is-rather-long-'.repeat(2);

const root = await mkdtemp(join(tmpdir(), 'qemu-'));
const folder = join(root, DEEP, 'vms');
await mkdir(folder, { recursive: true });
const open = (): Promise<Driver> =>
  openQemu({
    run,
    log: silent,
    qemuBin: 'qemu-system-x86_64',
    cpu: null,
    users: { min: 61000, max: 64999 },
    cgroups: null,
    folder,
    kvmVerdictFile: join(root, 'kvm.json'),
  });
const driver = await open();
/** One guest for all that is tried here: copies of it serve driver and agent. */
const booted = await bootAndSave(driver, folder, AGENT_SEED);
after(async () => {
  await booted.remove();
  await rm(root, { recursive: true });
});

agentCases(booted);

function qemuHost(): DriverHost {
  return {
    driver,
    about: 'the real one with a real guest, not jailed',
    reopen: open,
    fresh: () => booted.fresh(),
    guest: async () => {
      const guest = await booted.fork();
      // The suite has its own, one at a time.
      guest.agent.close();
      return guest;
    },
    saved: async () => booted,
    copyOf: (spec) => booted.copyOf(spec),
    agent: agentOf,
    killVmm: async (process) => void (await signalProcess(process, 'SIGKILL')),
    opensTaps: true,
    patience: { answerMs: 60_000, silenceMs: 700 },
    // The guest is the whole file's.
    dispose: async () => undefined,
  };
}

driverSuite('QEMU', async () => qemuHost(), { own: qemuCases });
