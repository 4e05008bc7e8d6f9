import { createHash } from 'node:crypto';
import { open, readdir, readFile, rename, rm, stat, truncate, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { makeFolder } from '../../host/files.ts';
import { BlobError, damaged, fromErrno } from './blob-error.ts';
import type { Saved, SpooledManifest, SpooledPack } from './chunk-store.ts';
import { syncFolder } from './folder-home.ts';
import { newManifestId, newPackId, type ManifestId, type PackId, type PackRef } from './format.ts';
import { parseJournal, type Line, type ManifestLine, type PackLine } from './spool-journal.ts';

const JOURNAL = 'journal';
const MANIFEST = 'manifest';

/** A pack that is being written; nobody else knows of it before it is sealed. */
export interface OpenFile {
  readonly id: PackId;
  readonly file: FileHandle;
}

/**
 * The folder a save writes into. The journal has a line for every file that is whole, written after the file was flushed;
 * a file without a line was never shown to anybody and is removed, and its id never used again. So a save that was killed
 * goes on with the files and ids that others may have seen.
 */
export class Spool {
  readonly manifestId: ManifestId;
  readonly createdAt: number;
  readonly #folder: string;
  readonly #account: string;
  readonly #packs: PackLine[];
  #manifest: ManifestLine | undefined;
  #writing: Promise<void> = Promise.resolve();

  private constructor(
    folder: string,
    account: string,
    lines: readonly Line[],
    begin: Line & { kind: 'begin' },
  ) {
    this.#folder = folder;
    this.#account = account;
    this.manifestId = begin.manifest;
    this.createdAt = begin.createdAt;
    this.#packs = lines.filter((line) => line.kind === 'pack');
    this.#manifest = lines.find((line) => line.kind === 'manifest');
  }

  /**
   * Opens a spool, or goes on with one. `order` is everything that makes one save another; when the folder holds a save of
   * something else, this throws `refused`.
   */
  static async open(folder: string, account: string, order: unknown, now: number): Promise<Spool> {
    const fingerprint = createHash('sha256').update(JSON.stringify(order)).digest('hex');
    try {
      await makeFolder(folder);
      const lines = await readJournal(join(folder, JOURNAL));
      let [begin] = lines;
      if (begin?.kind !== 'begin') {
        begin = { kind: 'begin', version: 1, fingerprint, manifest: newManifestId(now), createdAt: now };
        await appendLine(folder, begin);
      } else if (begin.fingerprint !== fingerprint) throw new OtherSave();
      const spool = new Spool(folder, account, lines, begin);
      await spool.#sweep();
      return spool;
    } catch (error) {
      throw fromErrno(error, 'the spool cannot be used');
    }
  }

  /** The packs that are whole. */
  get packs(): readonly SpooledPack[] {
    return this.#packs.map(({ pack, bytes, sha256, sealed }) => ({
      pack: { account: this.#account, id: pack, bytes, sealed },
      file: this.#packFile(pack),
      bytes,
      sha256,
    }));
  }

  /** The save's outcome, when it came to its end. */
  get outcome(): Saved | undefined {
    if (!this.#manifest) return undefined;
    const { bytes, sha256, reused, sizes } = this.#manifest;
    return { manifest: this.#manifestFile(bytes, sha256), packs: this.packs, reused, sizes };
  }

  /** Begins a pack under a fresh id. */
  async newPack(now: number): Promise<OpenFile> {
    const id = newPackId(now);
    try {
      return { id, file: await open(join(this.#folder, `${id}.part`), 'wx', 0o600) };
    } catch (error) {
      throw fromErrno(error, `pack ${id} could not be begun`);
    }
  }

  /** Makes a pack last: flushes it, gives it its name, and writes it down. Closes its file. */
  async keepPack(
    { id, file }: OpenFile,
    bytes: number,
    sha256: string,
    sealed: boolean,
  ): Promise<SpooledPack> {
    try {
      await file.sync();
      await file.close();
      await rename(join(this.#folder, `${id}.part`), this.#packFile(id));
      await syncFolder(this.#folder);
      const line: PackLine = { kind: 'pack', pack: id, bytes, sha256, sealed };
      await this.#write(line);
      this.#packs.push(line);
      const pack: PackRef = { account: this.#account, id, bytes, sealed };
      return { pack, file: this.#packFile(id), bytes, sha256 };
    } catch (error) {
      throw fromErrno(error, `pack ${id} could not be kept`);
    }
  }

  /** Removes a pack that will not be finished. */
  async dropPack({ id, file }: OpenFile): Promise<void> {
    await file.close().catch(() => undefined);
    await rm(join(this.#folder, `${id}.part`), { force: true });
  }

  /** Keeps the manifest, and with it the outcome. */
  async keepManifest(bytes: Buffer, line: Omit<ManifestLine, 'kind' | 'bytes'>): Promise<Saved> {
    try {
      const part = join(this.#folder, `${MANIFEST}.part`);
      const file = await open(part, 'w', 0o600);
      try {
        await file.writeFile(bytes);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(part, join(this.#folder, MANIFEST));
      await syncFolder(this.#folder);
      const manifest: ManifestLine = { kind: 'manifest', bytes: bytes.length, ...line };
      await this.#write(manifest);
      this.#manifest = manifest;
      const { reused, sizes } = line;
      return { manifest: this.#manifestFile(bytes.length, line.sha256), packs: this.packs, reused, sizes };
    } catch (error) {
      throw fromErrno(error, 'the manifest could not be written');
    }
  }

  #packFile(id: PackId): string {
    return join(this.#folder, `${id}.pack`);
  }

  #manifestFile(bytes: number, sha256: string): SpooledManifest {
    return { id: this.manifestId, account: this.#account, file: join(this.#folder, MANIFEST), bytes, sha256 };
  }

  /** Lines are written one after another. */
  async #write(line: Line): Promise<void> {
    const mine = this.#writing.then(() => appendLine(this.#folder, line));
    this.#writing = mine.catch(() => undefined);
    await mine;
  }

  /** Removes what has no line; a line whose file is gone or of another size means that somebody was here. */
  async #sweep(): Promise<void> {
    const whole = new Set([JOURNAL, ...this.#packs.map(({ pack }) => `${pack}.pack`)]);
    if (this.#manifest) whole.add(MANIFEST);
    for (const name of await readdir(this.#folder))
      if (!whole.has(name)) await rm(join(this.#folder, name), { recursive: true });
    const files = [...this.packs, ...(this.#manifest ? [this.#manifestFile(this.#manifest.bytes, '')] : [])];
    for (const { file, bytes } of files) {
      const there = await stat(file).catch(() => undefined);
      if (there?.size !== bytes) throw damaged('a file of the spool is not as its journal says');
    }
  }
}

/** The journal's whole lines; what was being written when the process was killed is cut off. */
async function readJournal(path: string): Promise<readonly Line[]> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
  const { lines, length } = parseJournal(text);
  if (length < Buffer.byteLength(text)) await truncate(path, length);
  return lines;
}

async function appendLine(folder: string, line: Line): Promise<void> {
  const file = await open(join(folder, JOURNAL), 'a', 0o600);
  try {
    await file.writeFile(`${JSON.stringify(line)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  if (line.kind === 'begin') await syncFolder(folder);
}

/** The folder holds the save of something else. */
export class OtherSave extends BlobError {
  constructor() {
    super('refused', 'the spool holds the save of something else; give this one a new folder');
  }
}
