import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { extract, type Header, type Pack } from 'tar-stream';
import { BlobError, damaged, fromErrno } from './blob-error.ts';
import type { SpooledManifest, SpooledPack } from './chunk-store.ts';
import { MANIFEST_MAX, PACK_MAX, packName, parsePackId, type PackId } from './format.ts';
import { accountKeys, type AccountKeys, type MasterKey } from './keys.ts';
import { decodeManifest, type Manifest } from './manifest.ts';

/** One snapshot as one file: a tar of packs and a manifest. docs/snapshot-format.md is the text. */
export const FILE_VERSION = 1;
/** Whose the packs in such a file are: nobody's of any installation. */
export const FILE_ACCOUNT = 'travel';

const FORMAT = 'hatch-snapshot';
const BEGIN = 'begin.json';
const PACKS = 'packs/';
const MANIFEST = 'manifest';
const END = 'end.json';
const BEGIN_MAX = 4096;
/** About 100 bytes for each pack, of which a terabyte has 65,536. */
const END_MAX = 16 * 1024 * 1024;

/** What the tar reader gives: bytes, once its header was read. */
type Entry = AsyncIterable<unknown> & { readonly header: Header };

interface Listed {
  readonly id: PackId;
  readonly bytes: number;
  readonly sha256: string;
}

/** Writes the entries of a file into a tar, one after the other, no faster than it is read. */
export class FileWriter {
  readonly #tar: Pack;
  readonly #secret: string;
  readonly #packs: Listed[] = [];

  /** `secret`: that of FILE_ACCOUNT, as the file is to have it. */
  constructor(tar: Pack, secret: string) {
    this.#tar = tar;
    this.#secret = secret;
  }

  /** Comes first. */
  begin(): Promise<void> {
    return this.#json(BEGIN, this.#begin());
  }

  async pack({ pack, file, bytes, sha256 }: SpooledPack): Promise<void> {
    await this.#entry(PACKS + pack.id, bytes, createReadStream(file));
    this.#packs.push({ id: pack.id, bytes, sha256 });
  }

  /** Comes after all packs; the file is whole then. */
  async end({ file, bytes, sha256 }: SpooledManifest): Promise<void> {
    await this.#entry(MANIFEST, bytes, createReadStream(file));
    const begin = createHash('sha256').update(asJson(this.#begin())).digest('hex');
    await this.#json(END, { begin: { sha256: begin }, packs: this.#packs, manifest: { bytes, sha256 } });
    this.#tar.finalize();
  }

  #begin(): unknown {
    return { format: FORMAT, version: FILE_VERSION, secret: this.#secret };
  }

  async #json(name: string, value: unknown): Promise<void> {
    const bytes = asJson(value);
    await this.#entry(name, bytes.length, [bytes]);
  }

  async #entry(
    name: string,
    size: number,
    content: AsyncIterable<Uint8Array> | readonly Uint8Array[],
  ): Promise<void> {
    const { promise: written, resolve, reject } = Promise.withResolvers<void>();
    written.catch(() => undefined);
    const header = { name, size, mode: 0o600, mtime: new Date(0) };
    const sink = this.#tar.entry(header, (error) => (error ? reject(error) : resolve()));
    // One who hung up reads no more: nothing drains then.
    sink.on('error', reject);
    sink.once('close', () => reject(new Error('the reader of the file is gone')));
    for await (const piece of content)
      if (!sink.write(piece)) await Promise.race([once(sink, 'drain'), written]);
    sink.end(null);
    await written;
  }
}

function asJson(value: unknown): Buffer {
  return Buffer.from(`${JSON.stringify(value)}\n`);
}

/** What was read from a file: its packs lie in `folder` under their names, for a folder home. */
export interface ReadFile {
  readonly manifest: Manifest;
  readonly keys: AccountKeys;
}

export interface ReadOrder {
  readonly source: AsyncIterable<Uint8Array>;
  /** An empty folder. */
  readonly folder: string;
  readonly master: MasterKey | undefined;
  /** Called with the size of each pack before it is written; throws where there is no room for it. */
  readonly room: (bytes: number) => Promise<void>;
}

/**
 * Reads a file as it comes and keeps its packs, bounded in memory whatever it holds. Throws BlobError: `damaged` with a
 * sentence for anything that is not exactly as it must be, `wrong_key` for one sealed under another key than `master`, and
 * what `source` and `room` throw. It is whole, and every byte in its entries as its writer wrote it, when this resolves.
 */
export async function readSnapshotFile(order: ReadOrder): Promise<ReadFile> {
  const tar = extract();
  const givenUp = new Error('the rest is not read');
  let broken: unknown;
  tar.on('error', (error) => (broken ??= error === givenUp ? undefined : fromTar(error)));
  const feed = async (): Promise<void> => {
    try {
      for await (const piece of order.source) {
        if (tar.destroyed) return;
        if (!tar.write(piece)) await Promise.race([once(tar, 'drain'), once(tar, 'close')]);
      }
      tar.end(null);
    } catch (error) {
      broken = error;
      tar.destroy(error instanceof Error ? error : new Error(String(error)));
    }
  };
  void feed();
  const reader = new Reader(order);
  try {
    for await (const entry of tar) await reader.entry(entry);
    return await reader.finish();
  } catch (error) {
    // An entry that is cut off knows only that it is; the tar says why, before it closes.
    if (!tar.destroyed) {
      tar.destroy(givenUp);
      await once(tar, 'close');
    }
    throw isCutOff(error) ? (broken ?? error) : fromTar(error);
  }
}

/** The entries in the order they must have: begin, packs, manifest, end. */
class Reader {
  readonly #order: ReadOrder;
  readonly #packs = new Map<PackId, Listed>();
  #begin: { readonly sha256: string; readonly keys: AccountKeys } | undefined;
  #manifest: { readonly bytes: Buffer; readonly sha256: string } | undefined;
  #end: unknown;

  constructor(order: ReadOrder) {
    this.#order = order;
  }

  async entry(entry: Entry): Promise<void> {
    const { name, type, size, pax } = entry.header;
    const shown = JSON.stringify(name.slice(0, 80));
    if (type !== 'file' || pax) throw damaged(`its entry ${shown} is not a plain file`);
    if (!Number.isSafeInteger(size) || size < 0) throw damaged(`its entry ${shown} has no size`);
    if (!this.#begin) {
      if (name !== BEGIN) throw damaged(`it begins with ${shown} where ${BEGIN} must be`);
      const { bytes, sha256 } = await collect(entry, BEGIN, BEGIN_MAX);
      this.#begin = { sha256, keys: this.#keys(parse(bytes, BEGIN)) };
    } else if (this.#end !== undefined) throw damaged(`it has ${shown} after its end`);
    else if (name === END && this.#manifest)
      this.#end = parse((await collect(entry, END, END_MAX)).bytes, END);
    else if (name === MANIFEST && !this.#manifest)
      this.#manifest = await collect(entry, MANIFEST, MANIFEST_MAX + 1024);
    else if (name.startsWith(PACKS) && !this.#manifest) await this.#pack(entry, name, size);
    else throw damaged(`it has ${shown}, which is unknown or not in its place`);
  }

  async #pack(entry: Entry, name: string, bytes: number): Promise<void> {
    const id = parsePackId(name.slice(PACKS.length));
    if (id === undefined) throw damaged(`${JSON.stringify(name.slice(0, 80))} is no name of a pack`);
    if (this.#packs.has(id)) throw damaged(`it has the pack ${id} twice`);
    if (bytes > PACK_MAX) throw damaged(`its pack ${id} has ${bytes} bytes, and ${PACK_MAX} are the most`);
    await this.#order.room(bytes);
    const path = join(this.#order.folder, packName({ account: FILE_ACCOUNT, id }));
    const hash = createHash('sha256');
    try {
      await mkdir(dirname(path), { recursive: true, mode: 0o700 });
      await pipeline(
        bytesOf(entry),
        async function* (pieces: AsyncIterable<Uint8Array>) {
          for await (const piece of pieces) {
            hash.update(piece);
            yield piece;
          }
        },
        createWriteStream(path, { flags: 'wx', mode: 0o600 }),
      );
    } catch (error) {
      const ofDisk = error instanceof Error && 'syscall' in error;
      throw ofDisk ? fromErrno(error, `pack ${id} could not be kept`) : error;
    }
    this.#packs.set(id, { id, bytes, sha256: hash.digest('hex') });
  }

  #keys(begin: unknown): AccountKeys {
    const { format, version, secret, ...more } = fieldsOf(begin, BEGIN);
    if (format !== FORMAT) throw damaged('it is no snapshot file of Hatch');
    if (version !== FILE_VERSION)
      throw damaged(`it is of version ${String(version)}, and this program reads version ${FILE_VERSION}`);
    if (typeof secret !== 'string' || Object.keys(more).length > 0)
      throw damaged(`its ${BEGIN} is not as it must be`);
    const { master } = this.#order;
    const sealed = !secret.startsWith('hatch-secret:1:plain:');
    if (sealed && !master)
      throw new BlobError('wrong_key', 'it is encrypted, and the key it was exported with is not given');
    if (!sealed && master)
      throw new BlobError('wrong_key', 'it is not encrypted: leave the key out if it may be taken as it is');
    try {
      return accountKeys(FILE_ACCOUNT, secret, master);
    } catch (error) {
      if (error instanceof BlobError && error.kind === 'wrong_key')
        throw new BlobError('wrong_key', 'it was exported with another key than the one given', error);
      throw damaged(`the secret in its ${BEGIN} is not one`, error);
    }
  }

  async finish(): Promise<ReadFile> {
    if (!this.#begin || !this.#manifest || this.#end === undefined)
      throw damaged('it ends too early: a part of it is missing');
    const { begin, packs, manifest, ...more } = fieldsOf(this.#end, END);
    const wanted = JSON.stringify([
      { sha256: this.#begin.sha256 },
      [...this.#packs.values()],
      { bytes: this.#manifest.bytes.length, sha256: this.#manifest.sha256 },
      {},
    ]);
    if (JSON.stringify([begin, packs, manifest, more]) !== wanted)
      throw damaged(`what it holds is not what its ${END} says: bytes of it were changed or left out`);
    const { keys } = this.#begin;
    const read = decodeManifest(this.#manifest.bytes, keys, this.#manifest.sha256);
    if (read.packs.length !== this.#packs.size) throw damaged('its manifest names other packs than it has');
    for (const { account, id, bytes, sealed } of read.packs)
      if (
        account !== FILE_ACCOUNT ||
        this.#packs.get(id)?.bytes !== bytes ||
        sealed !== (keys.seal !== undefined)
      )
        throw damaged(`its manifest names a pack ${id} that is not the one it has`);
    return { manifest: read, keys };
  }
}

async function* bytesOf(entry: Entry): AsyncGenerator<Uint8Array> {
  for await (const piece of entry) if (piece instanceof Uint8Array) yield piece;
}

async function collect(
  entry: Entry,
  name: string,
  most: number,
): Promise<{ readonly bytes: Buffer; readonly sha256: string }> {
  const { size } = entry.header;
  if (size > most) throw damaged(`its ${name} has ${size} bytes, and ${most} are the most`);
  const pieces: Uint8Array[] = [];
  for await (const piece of bytesOf(entry)) pieces.push(piece);
  const bytes = Buffer.concat(pieces);
  return { bytes, sha256: createHash('sha256').update(bytes).digest('hex') };
}

function parse(bytes: Buffer, name: string): unknown {
  try {
    return JSON.parse(bytes.toString('utf8')) as unknown;
  } catch (error) {
    throw damaged(`its ${name} is no JSON`, error);
  }
}

function fieldsOf(value: unknown, name: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw damaged(`its ${name} is not as it must be`);
  return { ...value };
}

/** Whether a stream only says that another one ended it. */
function isCutOff(error: unknown): boolean {
  return (
    error instanceof Error &&
    'code' in error &&
    (error.code === 'STREAM_DESTROYED' || error.code === 'PREMATURE_CLOSE')
  );
}

/** What the tar reader says of bytes that are no tar. */
function fromTar(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof BlobError || error.name === 'Failure') return error;
  if (/unexpected end/i.test(error.message))
    return damaged('it ends too early: a part of it is missing', error);
  if (/header/i.test(error.message)) return damaged('it is no tar, or a header in it was changed', error);
  return error;
}
