import type { ManifestId, PackRef } from './format.ts';
import type { AccountKeys } from './keys.ts';
import type { ChunkLookup } from './lookup.ts';
import type { Manifest } from './manifest.ts';

/** One file of a snapshot: `memory`, `vmstate`, `disk.0`... Nobody may change it while it is saved. */
export interface ImageFile {
  /** 1 to 64 letters, digits, `.`, `_` and `-`, beginning with a letter. */
  readonly name: string;
  readonly path: string;
}

export interface SaveOrder {
  readonly keys: AccountKeys;
  readonly images: readonly ImageFile[];
  /** Kept in the manifest as it is, for the caller: VMM and version, machine type, CPU, kernel, image. Anything JSON can say. */
  readonly identity: unknown;
  readonly known: ChunkLookup;
  /** A folder of this save's own: packs, manifest and journal are written there. Saving into it again goes on where it was. */
  readonly spool: string;
  /** Called once for every pack that is whole and durable in the spool, also for those found there from a run before. */
  readonly onPack?: (pack: SpooledPack) => void;
  readonly onProgress?: (progress: Progress) => void;
  readonly signal?: AbortSignal;
}

/** In bytes of the images, holes counted. */
export interface Progress {
  readonly done: number;
  readonly total: number;
}

/** A whole file in the spool, to be put as it is. */
export interface SpooledFile {
  readonly file: string;
  readonly bytes: number;
  /** Hexadecimal. */
  readonly sha256: string;
}

export interface SpooledPack extends SpooledFile {
  readonly pack: PackRef;
}

export interface SpooledManifest extends SpooledFile {
  readonly id: ManifestId;
  readonly account: string;
}

export interface Saved {
  readonly manifest: SpooledManifest;
  /** Written by this save (or the runs before it that it goes on with). */
  readonly packs: readonly SpooledPack[];
  /** Packs written by others that this snapshot needs, each once. */
  readonly reused: readonly PackRef[];
  readonly sizes: {
    /** The images' sizes. */
    readonly logical: number;
    /** What of it is not zero. */
    readonly data: number;
    /** What of it was not known. */
    readonly fresh: number;
    /** What the new packs and the manifest take. */
    readonly stored: number;
  };
}

export interface LoadOrder {
  readonly manifest: Manifest;
  readonly image: string;
  /** The file that is made; it must not be there. It is whole, or gone, when the promise settles. */
  readonly to: string;
  /**
   * Whether the file must outlive a loss of power (fsync); true when it is not given. A guest that waits to be woken from
   * it does not need that, and a slow disk makes it most of the time.
   */
  readonly flush?: boolean;
  readonly onProgress?: (progress: Progress) => void;
  readonly signal?: AbortSignal;
}

/** A saved image that can be read here and there without restoring it. */
export interface ImageView {
  readonly bytes: number;
  /** Exactly `length` bytes from `offset`; throws RangeError when they go beyond the image. */
  read(offset: number, length: number, signal?: AbortSignal): Promise<Buffer>;
}

/**
 * Saves images as chunks and brings them back. It keeps worker threads for what costs time, so the event loop stays free;
 * memory is bounded whatever the images' size. Everything throws BlobError, or the signal's reason.
 */
export interface ChunkStore {
  /** Writes what is new of the images into packs in the spool, and the manifest last. Puts nothing anywhere. */
  save(order: SaveOrder): Promise<Saved>;
  /** Fetches, checks and writes one image into a sparse file. */
  load(order: LoadOrder): Promise<void>;
  /** Opens an image for reading in place. Throws `missing` when the manifest has none of this name. */
  look(manifest: Manifest, image: string): ImageView;
  /** Ends the threads; what runs is aborted. */
  close(): Promise<void>;
}
