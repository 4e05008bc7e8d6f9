import type { Run } from '../host/run.ts';
import { growDisk, makeDisk } from './disk.ts';
import { copyDisk, flattenDisk, flushDisk, makeDiskOn, makeOverlay, prepareDiskOn } from './disk-on-layer.ts';
import type { GuestFiles } from './files.ts';
import { makeSeed } from './seed.ts';

/** Disks and seed volumes a hypervisor opens. */
export function realGuestFiles(deps: { readonly run: Run }): GuestFiles {
  return {
    makeDisk: (disk, signal) => makeDisk(deps, disk, signal),
    makeDiskOn: (disk, signal) => makeDiskOn(deps, disk, signal),
    prepareDiskOn: (disk, signal) => prepareDiskOn(deps, disk, signal),
    makeOverlay: (overlay, signal) => makeOverlay(deps, overlay, signal),
    flushDisk,
    copyDisk: (disk, signal) => copyDisk(deps, disk, signal),
    flattenDisk: (disk, signal) => flattenDisk(deps, disk, signal),
    growDisk: ({ folder, disk, sizeBytes }, signal) => growDisk(deps, { ...disk, folder, sizeBytes }, signal),
    makeSeed: (seed, signal) => makeSeed(deps, seed, signal),
  };
}
