import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { allDone } from '../base/all-done.ts';
import { isErrno } from '../base/errno.ts';
import { newId } from '../base/ids.ts';
import { exists, remove } from '../host/files.ts';
import { Failure } from '../model/failure.ts';
import type { Image, Layer } from '../model/records.ts';
import type { Vm, VmNetwork } from '../model/vm.ts';
import type { Port } from '../net/network.ts';
import type { Driver, MachineSpec } from '../vmm/driver.ts';
import { releaseLayers } from './layers.ts';
import { kernelOf, mustBoot } from './image-kernel.ts';
import type { Stage, Step } from './steps.ts';
import type { World } from './world.ts';
import { visibleAccounts, vmFolder } from './settings.ts';
import { ownerOf } from './owner.ts';

type Deps = Pick<
  World,
  'store' | 'driver' | 'net' | 'ports' | 'files' | 'fleet' | 'muster' | 'settings' | 'log'
>;

const MIB = 1024 * 1024;
/** The name of the seed volume in a VM's folder. */
export const SEED_FILE = 'seed.iso';

/** What the guest calls itself, and what DHCP calls it. */
export function hostnameOf(vm: Pick<Vm, 'name' | 'id'>): string {
  return vm.name ?? vm.id;
}

/** The VM's place in the network. */
export function portOf(vm: Vm, network: VmNetwork): Port {
  return { vmId: vm.id, ip: network.ip, mac: network.mac, hostname: hostnameOf(vm) };
}

/**
 * The image a VM was made from, with an initrd if what the VM boots has one: its folder has a kernel of its own, and the image may
 * have become another one since, or be another host's. Throws `not_found`, which registered files and `in_use` make hard to reach.
 */
export async function imageOf({ store, settings }: Pick<Deps, 'store' | 'settings'>, vm: Vm): Promise<Image> {
  const image = await store.images.get(visibleAccounts(settings, vm.accountId), vm.imageId);
  if (!image)
    throw new Failure('not_found', `The image ${vm.imageId} of this VM is gone.`, {
      details: { image_id: vm.imageId },
    });
  const own = vmFolder(settings, vm.id);
  const booted = await Promise.all(kernelNames.map((name) => exists(join(own, name))));
  const [kernel, vmlinux, initrd] = booted;
  if (!kernel && !vmlinux) return image;
  return { ...image, initrdPath: initrd ? join(own, 'initrd') : null };
}

/** A VM's disk, and the frozen ones it stands on where that is known: absolute paths. */
export type MachineDisk = Pick<Layer, 'path' | 'format'> & { readonly over?: readonly string[] };

/** The machine a VM's row describes, with its disk. */
export function specOf(
  { settings, driver }: Pick<Deps, 'settings' | 'driver'>,
  vm: Vm,
  image: Image,
  disk: MachineDisk,
): MachineSpec {
  return {
    vmId: vm.id,
    folder: vmFolder(settings, vm.id),
    vcpuCount: vm.vcpuCount,
    memMib: vm.memMib,
    kernel: kernelName(driver),
    initrd: image.initrdPath === null ? null : 'initrd',
    bootArgs: vm.bootArgs ?? image.bootArgs ?? settings.defaultBootArgs ?? driver.defaultBootArgs,
    disks: [
      {
        path: nameWithin(settings, vm, disk.path),
        format: disk.format,
        readOnly: false,
        ...(disk.over ? { over: disk.over } : {}),
      },
      { path: SEED_FILE, format: 'raw', readOnly: true },
    ],
    network: vm.network === null ? null : { tap: vm.id, mac: vm.network.mac },
    machineType: null,
  };
}

function nameWithin(settings: Deps['settings'], vm: Vm, path: string): string {
  return path.slice(vmFolder(settings, vm.id).length + 1);
}

/** The top disk of a VM; throws when it has none yet. */
export async function diskOf({ store }: Pick<Deps, 'store'>, vm: Vm): Promise<Layer> {
  const layer = vm.layerId === null ? null : await store.layers.get(vm.layerId);
  if (!layer) throw noDisk(vm);
  return layer;
}

function noDisk(vm: Vm): Failure {
  return new Failure('wrong_state', `VM ${vm.id} has no disk.`, { details: { state: vm.state } });
}

/** The top disk of a VM with all it stands on, as a hypervisor is to find it; throws as `diskOf`. */
export async function wholeDiskOf(deps: Pick<Deps, 'store'>, vm: Vm): Promise<MachineDisk> {
  const [top, ...below] = vm.layerId === null ? [] : await deps.store.layers.chain(vm.layerId);
  if (!top) throw noDisk(vm);
  return { path: top.path, format: top.format, over: below.map((layer) => layer.path) };
}

/**
 * The steps that put a VM on its host: its files and its place in the network, then the hypervisor, last the ways in. Creating and
 * starting are the same steps; what a start finds made, it keeps, and what it found it does not undo.
 */
export function bootSteps(deps: Deps, vm: Vm, image: Image): readonly Stage[] {
  const fresh = vm.layerId === null;
  const folder = folderStep(deps, vm, image, fresh);
  const files = [diskStep(deps, vm, image, fresh), seedStep(deps, vm, image)];
  const vmm = vmmStep(deps, vm, image);
  if (vm.network === null) return [folder, files, vmm];
  const alone = networkStep(deps, vm, vm.network);
  const network: Step = {
    ...alone,
    run: (signal) => deps.muster.arrive(vm.id).then(() => alone.run(signal)),
  };
  // The network first: it waits for programs, and the files are made meanwhile.
  return [folder, [network, ...files], [vmm, sshStep(deps, vm, vm.network)]];
}

function folderStep(deps: Deps, vm: Vm, image: Image, fresh: boolean): Step {
  const { settings, driver } = deps;
  const folder = vmFolder(settings, vm.id);
  return {
    name: 'folder',
    async run() {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      const kernel = join(folder, kernelName(driver));
      const own = !fresh && (await exists(kernel));
      await mustBoot(driver, image, own ? kernel : kernelOf(driver, image));
      await allDone([
        link(kernelOf(driver, image), kernel),
        ...(image.initrdPath === null ? [] : [link(image.initrdPath, join(folder, 'initrd'))]),
      ]);
    },
    undo: async () => (fresh ? dropFolder(deps, vm) : undefined),
  };
}

/** Removes a VM's folder. A disk that could not be forgotten before is, or all of it stays: no row may name a file that is gone. */
export async function dropFolder(deps: Pick<Deps, 'store' | 'settings'>, vm: Vm): Promise<void> {
  await dropDisk(deps, vm);
  await remove(vmFolder(deps.settings, vm.id));
}

/** The links in a VM's folder to what it boots. */
export const kernelNames = ['kernel', 'vmlinux', 'initrd'] as const;

/** What a kernel is called in a VM's folder: one that changes hypervisors has both. */
function kernelName({ kernel }: Pick<Driver, 'kernel'>): string {
  return kernel === 'uncompressed' ? 'vmlinux' : 'kernel';
}

/**
 * A link in the VM's folder: the VMM opens only relative paths, so that a recorded one opens its own file. One that leads
 * somewhere stays: the image may have become a newer one since, whose kernel has no modules on this VM's disk.
 */
async function link(target: string, path: string): Promise<void> {
  try {
    await symlink(target, path);
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
    if (await exists(path)) return;
    await remove(path);
    await symlink(target, path);
  }
}

function diskStep({ store, driver, files, settings }: Deps, vm: Vm, image: Image, fresh: boolean): Step {
  const folder = vmFolder(settings, vm.id);
  const wanted = vm.diskMib === null ? null : vm.diskMib * MIB;
  return {
    name: 'disk',
    async run(signal) {
      if (!fresh) {
        const layer = await diskOf({ store }, vm);
        const disk = { path: nameWithin(settings, vm, layer.path), format: layer.format };
        if (wanted !== null) await files.growDisk({ folder, disk, sizeBytes: wanted }, signal);
        return;
      }
      const disk = await files.makeDisk(
        {
          folder,
          imagePath: image.rootfsPath,
          imageFormat: image.rootfsFormat,
          sizeBytes: wanted,
          qcow2: driver.capabilities.qcow2,
        },
        signal,
      );
      const layer = await store.layers.create({
        id: newId('layer'),
        hostId: settings.hostId,
        kind: 'disk',
        path: join(folder, disk.path),
        format: disk.format,
        parentId: null,
        imageAccountId: image.accountId,
        imageId: image.id,
        frozen: false,
      });
      await store.vms.update(vm.id, ownerOf(vm), { layerId: layer.id });
    },
    async undo() {
      if (!fresh) return;
      await dropDisk({ store, settings }, vm);
    },
  };
}

/** Forgets a VM's disk: the row's name of it, and the layer if nobody else stands on it. Its file goes with the folder. */
export async function dropDisk({ store, settings }: Pick<Deps, 'store' | 'settings'>, vm: Vm): Promise<void> {
  const now = await store.vms.get(vm.id);
  if (!now || now.layerId === null) return;
  await store.vms.update(vm.id, ownerOf(vm), { layerId: null });
  await releaseLayers({ store, settings }, [now.layerId]);
}

/** The seed volume. */
export function seedStep(
  { store, files, settings }: Pick<Deps, 'store' | 'files' | 'settings'>,
  vm: Vm,
  image: Image,
): Step {
  return {
    name: 'seed',
    run: async (signal) =>
      files.makeSeed(
        {
          path: join(vmFolder(settings, vm.id), SEED_FILE),
          vmId: vm.id,
          hostname: hostnameOf(vm),
          userData: await store.vms.userData(vm.id),
          sshAuthorizedKeys: vm.sshAuthorizedKeys,
          defaultUser: image.defaultUser,
          instanceId: vm.instanceId,
        },
        signal,
      ),
    // The next start makes it anew; a first one's goes with the folder.
    undo: async () => undefined,
  };
}

/** The VM's place in the network; `apart`: its tap off the bridge until it joins; `join`: one that was made apart joins. */
export function networkStep(
  { net, driver, settings }: Pick<Deps, 'net' | 'driver' | 'settings'>,
  vm: Vm,
  network: VmNetwork,
  how: { readonly apart?: boolean; readonly join?: boolean } = {},
): Step {
  return {
    name: 'network',
    run: () => attach({ net, driver, settings }, vm, network, how),
    undo: () => net.detach(vm.id),
  };
}

/** Gives a VM its place in the network, with a tap its hypervisor can open; `how` as for `Network.attach`. */
export async function attach(
  { net, driver, settings }: Pick<Deps, 'net' | 'driver' | 'settings'>,
  vm: Vm,
  network: VmNetwork,
  how: { readonly apart?: boolean; readonly join?: boolean } = {},
): Promise<void> {
  const tapOwner = await driver.tapOwner({ vmId: vm.id, folder: vmFolder(settings, vm.id) });
  await net.attach({ ...portOf(vm, network), ...(tapOwner === null ? {} : { tapOwner }) }, how);
}

function vmmStep(deps: Deps, vm: Vm, image: Image): Step {
  const { store, driver, fleet } = deps;
  return {
    name: 'vmm',
    async run(signal) {
      const now = (await store.vms.get(vm.id)) ?? vm;
      const machine = await driver.launch(specOf(deps, now, image, await wholeDiskOf(deps, now)), signal);
      // The process does not outlive a power loss either.
      await store.vms.update(
        vm.id,
        ownerOf(vm),
        { process: machine.process, vmm: driver.name, accel: driver.accel, readyAt: null },
        { unflushed: true },
      );
      fleet.add(now, machine, { ready: false });
    },
    undo: () => endVmm(deps, vm),
  };
}

/** Ends whatever hypervisor runs this VM, known to us or not, and forgets it. Twice is as good as once. */
export async function endVmm(
  { store, driver, fleet, settings }: Pick<Deps, 'store' | 'driver' | 'fleet' | 'settings'>,
  vm: Vm,
): Promise<void> {
  const live = fleet.get(vm.id);
  fleet.drop(vm.id);
  await live?.machine.kill();
  await live?.machine.release();
  // A crash between launch and its record leaves a process no row names; its command line names the VM.
  for (const found of await driver.observe()) {
    if (found.vmId === vm.id) await driver.reap(found.process);
  }
  await driver.clear({ vmId: vm.id, folder: vmFolder(settings, vm.id) });
  const before = await store.vms.get(vm.id);
  await store.vms.update(vm.id, ownerOf(vm), { process: null, readyAt: null, memoryLayerId: null });
  await releaseLayers({ store, settings }, [before?.memoryLayerId ?? null]);
}

/** The way in by SSH. `asleep`: what is taken back then is a wake, and the port of a VM that sleeps stays open. */
export function sshStep(
  { ports }: Pick<Deps, 'ports'>,
  vm: Vm,
  network: VmNetwork,
  { asleep = false }: { readonly asleep?: boolean } = {},
): Step {
  return {
    name: 'ssh-port',
    run: () => ports.open({ vmId: vm.id, port: network.sshPort }),
    undo: async () => (asleep ? ports.hangUp(vm.id) : ports.close(vm.id)),
  };
}
