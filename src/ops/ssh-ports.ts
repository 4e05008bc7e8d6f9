import { errorFields } from '../base/logger.ts';
import type { Vm } from '../model/vm.ts';
import type { World } from './world.ts';

/** Whether a VM has its SSH port open on its host: its guest runs, or a client that shows itself there wakes it. */
export function wantsSshPort({ network, state, stoppedBy }: Vm): boolean {
  if (network === null) return false;
  return state === 'running' || state === 'snapshotted' || (state === 'stopped' && stoppedBy === 'policy');
}

/**
 * Opens the port of a VM that runs or can be woken. Never throws: a port that another program has taken meanwhile is no reason for
 * anything else to fail, and reconciling tries again.
 */
export async function keepSshPort({ ports, log }: Pick<World, 'ports' | 'log'>, vm: Vm): Promise<void> {
  if (vm.network === null) return;
  try {
    await ports.open({ vmId: vm.id, port: vm.network.sshPort });
  } catch (error) {
    log.warn({ vm: vm.id, ...errorFields(error) }, 'could not open an SSH port; it is tried again');
  }
}

/** A guest is gone and its VM can be woken: what led to the guest ends, and its port stays open. */
export async function leaveSshPort(world: Pick<World, 'ports' | 'log'>, vm: Vm): Promise<void> {
  world.ports.hangUp(vm.id);
  await keepSshPort(world, vm);
}
