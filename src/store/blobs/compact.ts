import { fileSource } from './byte-source.ts';
import type { SpooledPack } from './chunk-store.ts';
import {
  CHUNK,
  CHUNK_ID,
  FRAME_CHUNKS,
  PACK_TARGET,
  type ChunkPlace,
  type FrameRef,
  type ManifestId,
  type PackId,
  type PackRef,
} from './format.ts';
import type { AccountKeys } from './keys.ts';
import { addImage, at, HOLE, LayoutBuilder, type Layout } from './layout.ts';
import { ChunkIndex } from './lookup.ts';
import type { Manifest } from './manifest.ts';
import type { PackIndex } from './pack-bytes.ts';
import { readPackIndex, type OpenPack } from './pack.ts';
import { PackWriter } from './pack-writer.ts';
import { Spool } from './spool.ts';

/** Which chunks of which packs some manifests use. Two bytes for each frame that is used. */
export class LiveChunks {
  readonly #packs = new Map<PackId, Map<number, number>>();

  /** Adds what a manifest (or any layout) uses. */
  add({ packs, frames, images }: Layout): void {
    for (const image of images)
      for (let run = 0; run < image.runs; run++) {
        const index = at(image.frame, run);
        const pack = index === HOLE ? undefined : packs[at(frames.pack, index)];
        if (!pack) continue;
        let used = this.#packs.get(pack.id);
        if (!used) this.#packs.set(pack.id, (used = new Map<number, number>()));
        const number = at(frames.number, index);
        const slots = ((1 << at(image.chunks, run)) - 1) << at(image.slot, run);
        used.set(number, (used.get(number) ?? 0) | slots);
      }
  }

  has(pack: PackId, frame: number, slot: number): boolean {
    return (((this.#packs.get(pack)?.get(frame) ?? 0) >> slot) & 1) === 1;
  }

  /** How much of a pack is used, from 0 to 1, by its chunks. */
  share({ pack, frames }: PackIndex): number {
    let [live, all] = [0, 0];
    for (const frame of frames) {
      all += frame.chunks;
      for (let slot = 0; slot < frame.chunks; slot++) if (this.has(pack.id, frame.number, slot)) live += 1;
    }
    return all === 0 ? 0 : live / all;
  }
}

export interface CompactOrder {
  readonly keys: AccountKeys;
  /** Packs of this account, most of which nobody uses any more. */
  readonly packs: readonly OpenPack[];
  readonly live: LiveChunks;
  /** A folder of this compaction's own, as for a save; going on in it gives the same packs. */
  readonly spool: string;
  readonly now: () => number;
  readonly signal?: AbortSignal;
}

export interface Compacted {
  /** New packs with all that is live of the old ones, each such chunk once. */
  readonly packs: readonly SpooledPack[];
  /** Where a chunk is now: the same place for one that was in none of the old packs. */
  readonly moved: (place: ChunkPlace) => ChunkPlace;
}

/** Copies what is live of some packs into new ones; the old ones are left as they are. Throws BlobError. */
export async function compact(order: CompactOrder): Promise<Compacted> {
  const { keys, packs, live, signal, now } = order;
  const what = packs.map(({ index }) => index.pack.id);
  const spool = await Spool.open(order.spool, keys.account, { account: keys.account, compact: what }, now());
  const there = new ChunkIndex();
  for (const { pack, file } of spool.packs)
    there.add(await readPackIndex(await fileSource(file, `pack ${pack.id}`), pack.id, keys, signal));
  const copy = new Copy(spool, keys, there, now);
  try {
    for (const pack of packs) {
      let from = 0;
      for (const frame of pack.index.frames) {
        const ids = pack.index.ids.subarray(from, (from += frame.chunks * CHUNK_ID));
        const slots = Array.from({ length: frame.chunks }, (_, slot) => slot).filter(
          (slot) => live.has(pack.index.pack.id, frame.number, slot) && !there.place(ids, slot * CHUNK_ID),
        );
        if (slots.length === 0) continue;
        const plain = await pack.frame(frame, signal);
        for (const slot of slots)
          await copy.add(
            plain.subarray(slot * CHUNK, (slot + 1) * CHUNK),
            ids.subarray(slot * CHUNK_ID, (slot + 1) * CHUNK_ID),
          );
      }
    }
    await copy.end();
  } catch (error) {
    await copy.drop();
    throw error;
  }
  const old = new Map(packs.map(({ index }) => [index.pack.id, startsOf(index)]));
  return {
    packs: spool.packs,
    moved: (place) => {
      const known = old.get(place.frame.pack.id);
      if (!known) return place;
      const from = (at(known.starts, place.frame.number) + place.slot) * CHUNK_ID;
      const now = there.place(known.ids, from);
      if (!now) throw new Error(`chunk ${place.slot} of frame ${place.frame.number} was not said to be live`);
      return now;
    },
  };
}

/** The same snapshot with its chunks where they are now, as a manifest of its own. */
export function relocate(
  manifest: Manifest,
  moved: (place: ChunkPlace) => ChunkPlace,
  { id, createdAt }: { readonly id: ManifestId; readonly createdAt: number },
): Manifest {
  const builder = new LayoutBuilder();
  for (const image of manifest.images) addImage(builder, manifest, image, moved);
  const { account, identity } = manifest;
  return { id, account, createdAt, identity, ...builder.finish() };
}

/** For every frame of a pack, how many chunks come before it. */
function startsOf({ frames, ids }: PackIndex): { readonly ids: Uint8Array; readonly starts: Uint32Array } {
  const starts = new Uint32Array(frames.length);
  let start = 0;
  frames.forEach((frame, number) => {
    starts[number] = start;
    start += frame.chunks;
  });
  return { ids, starts };
}

/** New packs, filled chunk by chunk. */
class Copy {
  readonly #spool: Spool;
  readonly #keys: AccountKeys;
  readonly #there: ChunkIndex;
  readonly #now: () => number;
  readonly #plain = Buffer.allocUnsafeSlow(CHUNK * FRAME_CHUNKS);
  readonly #ids = Buffer.alloc(CHUNK_ID * FRAME_CHUNKS);
  #chunks = 0;
  #open: { readonly file: Awaited<ReturnType<Spool['newPack']>>; readonly writer: PackWriter } | undefined;
  #frames: Omit<FrameRef, 'pack'>[] = [];
  #written: Uint8Array[] = [];

  constructor(spool: Spool, keys: AccountKeys, there: ChunkIndex, now: () => number) {
    this.#spool = spool;
    this.#keys = keys;
    this.#there = there;
    this.#now = now;
  }

  async add(plain: Uint8Array, id: Uint8Array): Promise<void> {
    this.#plain.set(plain, this.#chunks * CHUNK);
    this.#ids.set(id, this.#chunks * CHUNK_ID);
    this.#chunks += 1;
    if (this.#chunks === FRAME_CHUNKS) await this.#frame();
  }

  async end(): Promise<void> {
    await this.#frame();
    await this.#finish();
  }

  async drop(): Promise<void> {
    if (this.#open) await this.#spool.dropPack(this.#open.file);
  }

  async #frame(): Promise<void> {
    if (this.#chunks === 0) return;
    if (!this.#open) {
      const file = await this.#spool.newPack(this.#now());
      this.#open = { file, writer: new PackWriter(file.id, file.file.fd, this.#keys.seal) };
    }
    const ids = Uint8Array.from(this.#ids.subarray(0, this.#chunks * CHUNK_ID));
    this.#frames.push(this.#open.writer.add(this.#plain.subarray(0, this.#chunks * CHUNK), ids));
    this.#written.push(ids);
    this.#chunks = 0;
    if (this.#open.writer.bytes >= PACK_TARGET) await this.#finish();
  }

  async #finish(): Promise<void> {
    if (!this.#open) return;
    const { file, writer } = this.#open;
    const sealed = this.#keys.seal !== undefined;
    const { bytes, sha256 } = writer.finish();
    await this.#spool.keepPack(file, bytes, sha256, sealed);
    this.#open = undefined;
    const pack: PackRef = { account: this.#keys.account, id: file.id, bytes, sealed };
    this.#there.add({
      pack,
      frames: this.#frames.map((frame) => ({ ...frame, pack })),
      ids: Buffer.concat(this.#written),
    });
    this.#frames = [];
    this.#written = [];
  }
}
