import { readdir, rename } from 'node:fs/promises';
import { isErrno } from '../base/errno.ts';
import { parseId, type VmId } from '../base/ids.ts';
import { errorFields } from '../base/logger.ts';
import { remove, truncateLog } from '../host/files.ts';
import { CONSOLE_FILE } from '../vmm/driver.ts';
import { layerFolder } from './layers.ts';
import { portsOf, settle, wantsNetwork } from './recover.ts';
import { layersPlanned } from './snapshot-plan.ts';
import { keepSshPort, wantsSshPort } from './ssh-ports.ts';
import type { World } from './world.ts';
import { SCRATCH_FILE, vmFolder } from './settings.ts';

/** A console log is cut to its second half when it grows over this. */
const CONSOLE_BYTES = 4 * 1024 * 1024;

/**
 * Compares what is on this host (processes, taps, rules, reservations, folders, layers: by their names alone) with what the
 * rows want, and mends it. VMs with an operation under way are left alone, and none may begin while it looks. Says what it did.
 */
export async function reconcile(world: World): Promise<readonly string[]> {
  const done = await world.flights.hold(async (flying) => [
    ...(await processes(world, flying)),
    ...(await network(world, flying)),
    ...(await sshPorts(world, flying)),
    ...(await folders(world, flying)),
    ...(await layers(world, flying)),
    ...(await layerFolders(world, flying)),
  ]);
  for (const line of done) world.log.warn({ found: line }, 'reconciled');
  await settle(world);
  return done;
}

async function processes(
  { driver, store, settings, flights }: World,
  flying: ReadonlySet<VmId>,
): Promise<string[]> {
  const done: string[] = [];
  const observed = await driver.observe();
  const rows = new Map((await store.vms.ofHost(settings.hostId)).map((vm) => [vm.id, vm]));
  for (const { vmId, process } of observed) {
    const vm = rows.get(vmId);
    const wanted = vm?.process?.pid === process.pid && vm.process.startTime === process.startTime;
    if (wanted || flying.has(vmId) || flights.has(vmId)) continue;
    await driver.reap(process);
    if (!vm) await driver.clear({ vmId, folder: vmFolder(settings, vmId) });
    done.push(`ended process ${process.pid} of ${vmId}, which no VM claims`);
  }
  return done;
}

async function network(
  { net, store, settings }: World,
  flying: ReadonlySet<VmId>,
): Promise<readonly string[]> {
  const wanted = (await store.vms.ofHost(settings.hostId)).filter(
    (vm) => wantsNetwork(vm) && !flying.has(vm.id),
  );
  return net.repair(wanted.flatMap(portsOf), flying);
}

/**
 * Opens the SSH ports of VMs that run or can be woken: one that somebody else on the host took may have come free. Closes those of VMs
 * that went to another host while they slept.
 */
async function sshPorts(world: World, flying: ReadonlySet<VmId>): Promise<readonly string[]> {
  const { ports, store, settings } = world;
  const wanted = (await store.vms.ofHost(settings.hostId)).filter(wantsSshPort);
  const ids = new Set(wanted.map(({ id }) => id));
  for (const id of ports.vmIds()) if (!ids.has(id) && !flying.has(id)) await ports.close(id);
  for (const vm of wanted) if (!flying.has(vm.id)) await keepSshPort(world, vm);
  return [];
}

async function folders(
  { store, settings, driver, log }: World,
  flying: ReadonlySet<VmId>,
): Promise<string[]> {
  const done: string[] = [];
  const rows = new Map((await store.vms.ofHost(settings.hostId)).map((vm) => [vm.id, vm]));
  for (const name of await namesIn(settings.vmsFolder)) {
    const id = parseId('vm', name);
    if (id === undefined || flying.has(id)) continue;
    const folder = vmFolder(settings, id);
    const vm = rows.get(id);
    try {
      const files = vm ? [] : await readdir(folder);
      const moved = vm ? null : await store.vms.get(id);
      if (files.includes(SCRATCH_FILE)) {
        await driver.clear({ vmId: id, folder });
        await remove(folder);
        done.push(`removed the folder of ${id}, in which a snapshot was verified`);
      } else if (moved && moved.hostId !== settings.hostId) {
        // It slept when it went to another host, and what it is lies in the store.
        await remove(folder);
        done.push(`removed the folder of ${id}, which is on ${moved.hostId ?? 'no host'} now`);
      } else if (files.some((file) => file.startsWith('disk.'))) {
        // No crash of ours leaves a disk without a row: the database was put back to an earlier state, or lost.
        await rename(folder, `${folder}.lost`);
        done.push(
          `put the folder of ${id} aside as ${id}.lost: it holds a disk, and the database knows no such VM`,
        );
      } else if (!vm || (vm.layerId === null && vm.state !== 'snapshotted')) {
        // One that sleeps may have its disk in the store alone.
        await remove(folder);
        done.push(`removed the folder of ${id}, which no VM claims`);
      } else await truncateLog(`${folder}/${CONSOLE_FILE}`, CONSOLE_BYTES);
    } catch (error) {
      log.warn({ vm: id, ...errorFields(error) }, 'could not tend a folder');
    }
  }
  return done;
}

async function layers({ store, settings, archive }: World, flying: ReadonlySet<VmId>): Promise<string[]> {
  if (flying.size > 0 || (await store.operations.unfinished(settings.hostId)).length > 0) return [];
  const used = new Set((await store.vms.ofHost(settings.hostId)).map((vm) => vm.layerId));
  const done: string[] = [];
  for (const layer of await store.layers.ofHost(settings.hostId)) {
    if (used.has(layer.id) || archive.holds(layer.id) || !(await store.layers.removeIfUnused(layer.id)))
      continue;
    await remove(layerFolder(settings, layer.id));
    done.push(`forgot layer ${layer.id}, which nobody uses`);
  }
  return done;
}

/** Folders of layers no row and no operation knows: of snapshots that were given up, or whose removal was cut off. */
async function layerFolders(
  { store, settings, archive, log }: World,
  flying: ReadonlySet<VmId>,
): Promise<string[]> {
  if (flying.size > 0) return [];
  const done: string[] = [];
  const planned = layersPlanned(await store.operations.unfinished(settings.hostId));
  for (const name of await namesIn(settings.layersFolder)) {
    const id = parseId('layer', name);
    if (id === undefined || planned.has(id) || archive.holds(id) || (await store.layers.get(id))) continue;
    try {
      await remove(layerFolder(settings, id));
      done.push(`removed the folder of ${id}, which no snapshot names`);
    } catch (error) {
      log.warn({ layer: id, ...errorFields(error) }, 'could not remove a folder');
    }
  }
  return done;
}

async function namesIn(folder: string): Promise<readonly string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}
