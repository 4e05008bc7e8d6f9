import { errorFields } from '../base/logger.ts';
import { Failure, invalid } from '../model/failure.ts';
import { mergeIdle } from '../model/create-request.ts';
import { effectiveLimits } from '../model/quota.ts';
import type { Quotas } from '../model/records.ts';
import type { Vm, VmPatch } from '../model/vm.ts';
import { Taken } from '../store/store.ts';
import { mustBeHere } from './elsewhere.ts';
import type { Caller, PatchVm } from './hatch.ts';
import { imageOf, portOf } from './host-steps.ts';
import { findVm } from './vms.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';

const MIB = 1024 * 1024;

/** Changes a VM's name, labels, idle policy or whether it starts with the host at any time; its size only while it is stopped: the next start has it. */
export async function patchVm(
  world: Pick<World, 'store' | 'settings' | 'fleet' | 'net' | 'log'>,
  caller: Caller,
  idOrName: string,
  request: PatchVm,
): Promise<Vm> {
  const { store, settings } = world;
  const vm = await findVm(world, caller, idOrName);
  mustBeHere(world, vm);
  const sizes = Object.entries({
    vcpu_count: request.vcpuCount,
    mem_mib: request.memMib,
    disk_mib: request.diskMib,
  }).filter(([, value]) => value !== undefined);
  const field = sizes[0]?.[0];
  if (field !== undefined && (vm.state !== 'stopped' || vm.operation !== null)) {
    throw new Failure(
      'wrong_state',
      `"${field}" can only be changed while the VM is stopped; it is ${vm.state}.`,
      {
        details: { field, state: vm.state, allowed: ['stopped'] },
      },
    );
  }
  if (request.diskMib !== undefined) await checkDisk(world, vm, request.diskMib);
  const patch: VmPatch = {
    ...(request.name === undefined ? {} : { name: request.name }),
    ...(request.labels === undefined ? {} : { labels: request.labels }),
    ...(request.idle === undefined
      ? {}
      : { idle: request.idle === null ? null : mergeIdle(vm.idle ?? settings.idle, request.idle) }),
    ...(request.autostart === undefined ? {} : { autostart: request.autostart }),
    ...(request.vcpuCount === undefined ? {} : { vcpuCount: request.vcpuCount }),
    ...(request.memMib === undefined ? {} : { memMib: request.memMib }),
    ...(request.diskMib === undefined ? {} : { diskMib: request.diskMib }),
  };
  try {
    const patched =
      field === undefined
        ? await store.vms.update(vm.id, ownerOf(vm), patch)
        : await store.vms.move(vm.id, ownerOf(vm), ['stopped'], patch, {
            limits: await limitsOf(world, vm),
          });
    if (!patched)
      throw new Failure('busy', 'The VM changed in the meantime; ask again.', {
        details: { operation: vm.operation?.verb ?? null },
      });
    world.fleet.touch(vm.id);
    if (patched.name !== vm.name) await renameInNetwork(world, patched);
    return patched;
  } catch (error) {
    if (!(error instanceof Taken)) throw error;
    throw new Failure('already_exists', `"name" cannot be "${request.name ?? ''}": another VM has it.`, {
      details: { field: 'name', value: request.name },
    });
  }
}

/** Has DHCP call it by its new name. Where that fails it is mended with the rest of the network. */
async function renameInNetwork({ net, log }: Pick<World, 'net' | 'log'>, vm: Vm): Promise<void> {
  if (vm.state !== 'running' || vm.network === null || vm.operation !== null) return;
  try {
    await net.attach(portOf(vm, vm.network));
  } catch (error) {
    log.warn({ vm: vm.id, ...errorFields(error) }, 'DHCP does not know the new name of a VM yet');
  }
}

async function checkDisk(world: Pick<World, 'store' | 'settings'>, vm: Vm, diskMib: number): Promise<void> {
  const least = Math.max(vm.diskMib ?? 0, Math.ceil((await imageOf(world, vm)).sizeBytes / MIB));
  if (diskMib < least)
    throw invalid('disk_mib', `"disk_mib" can only grow: it is ${least} MiB now.`, { minimum: least });
}

async function limitsOf(
  { store, settings }: Pick<World, 'store' | 'settings'>,
  { accountId }: Vm,
): Promise<Quotas> {
  const account = await store.accounts.get(accountId);
  return account ? effectiveLimits(account.quotas, settings.limits) : settings.limits;
}
