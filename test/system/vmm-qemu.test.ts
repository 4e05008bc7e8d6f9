import { signalProcess } from '../../src/host/process.ts';
import { driverSuite } from '../../src/vmm/driver-suite.ts';
import type { DriverHost } from '../../src/vmm/suite/bench.ts';
import { AGENT_SEED } from '../support/agent-cases.ts';
import { agentOf, bootedOrBoot } from '../support/booted-guest.ts';
import { qemuCases } from '../support/qemu-cases.ts';
import { qemuFolder } from '../support/qemu-folder.ts';

async function qemuHost(): Promise<DriverHost> {
  const { folder, open, remove } = await qemuFolder();
  const driver = await open();
  const booted = await bootedOrBoot(driver, folder, AGENT_SEED);
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
    dispose: async () => {
      await booted.remove();
      await remove();
    },
  };
}

driverSuite('QEMU', qemuHost, { own: qemuCases });
