import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errorFields } from '../base/logger.ts';
import { remove } from '../host/files.ts';
import type { Vm } from '../model/vm.ts';
import { endVmm } from './host-steps.ts';
import { SCRATCH_FILE, vmFolder } from './settings.ts';
import type { World } from './world.ts';

/**
 * Works on a machine in a folder of its own, under an id no VM has (`Flights.aside`), and leaves nothing of it: hypervisor, tap, folder.
 * What cannot be cleared is logged, and left to reconciling; `what` says there what it was for. Rejects as `work` does.
 */
export async function inScratch<T>(
  world: World,
  vm: Vm,
  what: string,
  work: (folder: string) => Promise<T>,
): Promise<T> {
  const { settings, net, log } = world;
  const folder = vmFolder(settings, vm.id);
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    // Before there is a disk: whoever finds this after a crash knows that nobody misses it.
    await writeFile(join(folder, SCRATCH_FILE), '');
    return await work(folder);
  } finally {
    for (const undo of [() => endVmm(world, vm), () => net.detach(vm.id), () => remove(folder)])
      await undo().catch((error: unknown) =>
        log.error({ vm: vm.id, ...errorFields(error) }, `${what} is left to reconciling`),
      );
  }
}

/** A tap that leads nowhere, for a machine that has a network card. */
export async function tapApart({ driver, net, settings }: World, vm: Vm): Promise<void> {
  if (vm.network === null) return;
  const tapOwner = await driver.tapOwner({ vmId: vm.id, folder: vmFolder(settings, vm.id) });
  await net.attachApart({ vmId: vm.id, ...(tapOwner === null ? {} : { tapOwner }) });
}
