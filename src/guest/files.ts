import type { VmId } from '../base/ids.ts';

/**
 * What a guest is booted from: its top disk and its seed volume, in the VM's own folder. The real one (guest/disk.ts,
 * guest/seed.ts) makes files a hypervisor opens; the fake one pretends them.
 */
export interface GuestFiles {
  /**
   * Makes the VM's top disk over an image; if it is there already, it stays as it is. Throws Failure no_space.
   * `sizeBytes` null: as large as the image.
   */
  makeDisk(disk: DiskRequest, signal: AbortSignal): Promise<DiskFile>;
  /**
   * Makes the VM's top disk over a frozen layer of another (or its own earlier) disk; what is there already is removed first, as
   * nothing of it is of use. Throws Failure no_space.
   */
  makeDiskOn(disk: LayerDiskRequest, signal: AbortSignal): Promise<DiskFile>;
  /**
   * Makes ready, beside a frozen layer, what `makeDiskOn` has sooner then: for a VM that sleeps and is going to wake. It goes with the
   * layer. Never throws: without it the disk is made as before.
   */
  prepareDiskOn(
    disk: Pick<LayerDiskRequest, 'folder' | 'layerPath' | 'layerFormat' | 'qcow2'>,
    signal: AbortSignal,
  ): Promise<void>;
  /**
   * Makes an overlay over a disk that a guest may still be writing to: it shows what that disk shows. Replaces what is there. Throws
   * Failure no_space.
   */
  makeOverlay(
    overlay: {
      readonly folder: string;
      /** Its name within the folder. */
      readonly path: string;
      readonly layerPath: string;
      readonly layerFormat: 'raw' | 'qcow2';
    },
    signal: AbortSignal,
  ): Promise<void>;
  /** Resolves when a disk that was made `unflushed` is on the host's disk. Throws Failure no_space. */
  flushDisk(disk: { readonly folder: string; readonly path: string }): Promise<void>;
  /** Copies a raw disk: shared blocks where the file system can, else sparsely. Throws Failure no_space. */
  copyDisk(disk: { readonly path: string; readonly to: string }, signal: AbortSignal): Promise<void>;
  /** Writes a disk whole into a raw file: what an overlay shows its guest, with all it stands on. Sparse; all of it or nothing. */
  flattenDisk(
    disk: { readonly path: string; readonly format: 'raw' | 'qcow2'; readonly to: string },
    signal: AbortSignal,
  ): Promise<void>;
  /** Grows a stopped VM's disk; no effect when it is that large already. */
  growDisk(
    disk: { readonly folder: string; readonly disk: DiskFile; readonly sizeBytes: number },
    signal: AbortSignal,
  ): Promise<void>;
  /** Makes the NoCloud volume anew. */
  makeSeed(seed: SeedRequest, signal: AbortSignal): Promise<void>;
}

export interface DiskRequest {
  /** The VM's folder, absolute. */
  readonly folder: string;
  /** The image's root file system, absolute. */
  readonly imagePath: string;
  readonly imageFormat: 'raw' | 'qcow2';
  readonly sizeBytes: number | null;
  /** Whether the hypervisor reads overlays. */
  readonly qcow2: boolean;
}

export interface LayerDiskRequest {
  /** The VM's folder, absolute. */
  readonly folder: string;
  /** The frozen disk, absolute. */
  readonly layerPath: string;
  readonly layerFormat: 'raw' | 'qcow2';
  /** null: as large as the layer. */
  readonly sizeBytes: number | null;
  /** Whether the hypervisor reads overlays. */
  readonly qcow2: boolean;
  /** true: it need not have reached the host's disk yet; `flushDisk` sees to that before a guest writes to it. */
  readonly unflushed?: boolean;
  /** The image at the bottom of the chain, for the new disk to stand on alone: what lies between is copied into it. */
  readonly flattenOnto: { readonly path: string; readonly format: 'raw' | 'qcow2' } | null;
}

export interface DiskFile {
  /** The file's name within the VM's folder. */
  readonly path: string;
  readonly format: 'raw' | 'qcow2';
}

export interface SeedRequest {
  /** Absolute path of the volume to make. */
  readonly path: string;
  readonly vmId: VmId;
  readonly hostname: string;
  /** Handed on byte for byte. */
  readonly userData: string | null;
  readonly sshAuthorizedKeys: readonly string[];
  /** The user the keys are for. */
  readonly defaultUser: string;
  /** cloud-init runs once per instance-id. */
  readonly instanceId: string;
}
