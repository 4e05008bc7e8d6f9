import { copyFile, mkdir, readdir, readlink, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { allDone } from '../base/all-done.ts';
import { newId } from '../base/ids.ts';
import { exists, remove } from '../host/files.ts';
import type { Image } from '../model/records.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { Vm } from '../model/vm.ts';
import { dropFolder, kernelNames } from './host-steps.ts';
import { layerFolder, releaseLayers } from './layers.ts';
import { localFiles } from './local-snapshot.ts';
import { ownerOf } from './owner.ts';
import { vmFolder } from './settings.ts';
import type { Step } from './steps.ts';
import type { World } from './world.ts';

const MIB = 1024 * 1024;
/** Disks over more than this many frozen ones are made to stand on their image alone. */
export const LONGEST_CHAIN = 8;

/** The folder of a VM that comes from a snapshot, with the kernel it booted. `fresh`: it had none before. */
export function folderFromSnapshot(
  { store, settings }: Pick<World, 'store' | 'settings'>,
  vm: Vm,
  { stateLayerId }: Snapshot,
  fresh: boolean,
): Step {
  const folder = vmFolder(settings, vm.id);
  return {
    name: 'folder',
    async run() {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      if (stateLayerId === null) return;
      const names = await readdir(layerFolder(settings, stateLayerId));
      const place = async (name: (typeof kernelNames)[number]): Promise<void> => {
        const saved = join(layerFolder(settings, stateLayerId), name);
        if (!names.includes(name) || (await exists(join(folder, name)))) return;
        await remove(join(folder, name));
        // A link leads to the image; brought from elsewhere it is a file, which goes with the layer.
        const target = await readlink(saved).catch(() => undefined);
        if (target === undefined) await copyFile(saved, join(folder, name));
        else await symlink(target, join(folder, name));
      };
      await allDone(kernelNames.map(place));
    },
    undo: async () => (fresh ? dropFolder({ store, settings }, vm) : undefined),
  };
}

/** A disk of the VM's own over the saved one. Taken back, the VM stands on the saved one again. */
export function diskFromSnapshot(
  { store, files, driver, settings }: Pick<World, 'store' | 'files' | 'driver' | 'settings'>,
  vm: Vm,
  image: Image,
  snapshot: Snapshot,
): Step {
  const folder = vmFolder(settings, vm.id);
  const grown = vm.diskMib !== null && vm.diskMib > (snapshot.diskMib ?? 0) ? vm.diskMib * MIB : null;
  return {
    name: 'disk',
    async run(signal) {
      const { disk } = await localFiles({ store }, snapshot);
      const chain = await store.layers.chain(disk.id);
      const flat = chain.length >= LONGEST_CHAIN;
      // What was brought from elsewhere stands on no image, and the one of that name may be another by now.
      const whole = chain.find((layer) => layer.parentId === null && layer.imageId === null);
      const made = await files.makeDiskOn(
        {
          folder,
          layerPath: disk.path,
          layerFormat: disk.format,
          sizeBytes: grown,
          qcow2: driver.capabilities.qcow2,
          // While the machine is loaded.
          unflushed: true,
          flattenOnto: !flat
            ? null
            : whole
              ? { path: whole.path, format: whole.format }
              : { path: image.rootfsPath, format: image.rootfsFormat },
        },
        signal,
      );
      const top = await store.layers.create({
        id: newId('layer'),
        hostId: settings.hostId,
        kind: 'disk',
        path: join(folder, made.path),
        format: made.format,
        // A raw disk is whole.
        parentId: made.format === 'raw' ? null : flat ? (whole?.id ?? null) : disk.id,
        imageAccountId: image.accountId,
        imageId: image.id,
        frozen: false,
      });
      const before = (await store.vms.get(vm.id))?.layerId ?? null;
      await store.vms.update(vm.id, ownerOf(vm), { layerId: top.id });
      // One of its own was left by a wake that could not be taken back; its file was just replaced.
      if (before !== null && (await store.layers.get(before))?.frozen === false)
        await releaseLayers({ store, settings }, [before]);
    },
    async undo() {
      const now = await store.vms.get(vm.id);
      const top = now?.layerId ? await store.layers.get(now.layerId) : null;
      if (top && !top.frozen) {
        await store.vms.update(vm.id, ownerOf(vm), {
          layerId: vm.id === snapshot.vmId ? snapshot.diskLayerId : null,
        });
        await releaseLayers({ store, settings }, [top.id]);
      }
      for (const name of ['disk.qcow2', 'disk.raw']) await remove(join(folder, name));
    },
  };
}
