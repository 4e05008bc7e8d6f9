import { BlobError } from './blob-error.ts';

/** What is put: a file of this machine that nobody changes meanwhile, or bytes. */
export type BlobSource = { readonly file: string } | { readonly bytes: Uint8Array };

export interface PutOptions {
  /** SHA-256 of the whole, in hexadecimal: checked on the way in, so that what arrived is what was meant. */
  readonly sha256: string;
  readonly signal?: AbortSignal;
}

export interface BlobInfo {
  readonly name: string;
  readonly bytes: number;
}

/**
 * Where blobs are kept: a folder or a bucket. A blob is written once and whole, and never changed: there is no moment in
 * which half of it can be seen, and putting the same again is as good as once. Nothing here relies on renames or on
 * conditional writes. Every method throws BlobError, or the signal's reason when it aborts first.
 *
 * Names are made of segments of letters, digits, `.`, `_` and `-` that begin with a letter or digit, with `/` between
 * them: `a/acct-.../p/<pack id>`, `a/acct-.../m/<manifest id>`.
 */
export interface BlobHome {
  /** Keeps the bytes under this name, durably, before it resolves. `damaged` when they are not those of the checksum. */
  put(name: string, source: BlobSource, options: PutOptions): Promise<void>;

  /** The whole blob. `refused` when it is larger than `maxBytes`, before anything is read into memory. */
  get(name: string, options: { readonly maxBytes: number; readonly signal?: AbortSignal }): Promise<Buffer>;

  /** Exactly `length` bytes from `offset`; `damaged` when the blob ends before. */
  getRange(name: string, offset: number, length: number, signal?: AbortSignal): Promise<Buffer>;

  /** Its size, or undefined when there is none of this name. */
  head(name: string, signal?: AbortSignal): Promise<BlobInfo | undefined>;

  /** All blobs whose name begins with `prefix`, in order of their names (by their bytes). Unfinished puts are not among them. */
  list(prefix: string, signal?: AbortSignal): AsyncIterable<BlobInfo>;

  /** Removes it; twice is as good as once, and none is as good as one. */
  remove(name: string, signal?: AbortSignal): Promise<void>;
}

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*(\/[A-Za-z0-9][A-Za-z0-9._-]*)*$/;
const LONGEST_NAME = 512;

/** Whether a text is a blob name. */
export function isBlobName(name: string): boolean {
  return name.length <= LONGEST_NAME && NAME.test(name);
}

/** Throws `refused` when a text is no blob name. Every home begins with it. */
export function checkBlobName(name: string): void {
  if (!isBlobName(name)) throw new BlobError('refused', `"${name.slice(0, 80)}" is not a name for a blob`);
}

/** Throws `refused` when this is not a range: whole numbers, not negative. */
export function checkRange(name: string, offset: number, length: number): void {
  if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0)
    throw new BlobError('refused', `${length} bytes from ${offset} is not a range of ${name}`);
}

/** All that `list` gives, at once: for prefixes under which there are few. */
export async function listAll(home: BlobHome, prefix: string, signal?: AbortSignal): Promise<BlobInfo[]> {
  const found: BlobInfo[] = [];
  for await (const info of home.list(prefix, signal)) found.push(info);
  return found;
}
