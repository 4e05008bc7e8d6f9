import { createHash } from 'node:crypto';
import { BlobError, damaged } from './blob-error.ts';
import { ByteReader, ByteWriter } from './byte-stream.ts';
import { compress, decompress } from './codec.ts';
import { FORMAT_VERSION, idBytes, MANIFEST_MAX, manifestIdOf, type ManifestId } from './format.ts';
import type { AccountKeys } from './keys.ts';
import type { Layout } from './layout.ts';
import { readLayout, writeLayout } from './layout-bytes.ts';
import { MANIFEST_NONCE, NO_KEY_ID, objectKey, seal, sealKeyFor, TAG, unseal } from './seal.ts';

/** One snapshot, self-contained: what it is, and where every chunk of its images lies. */
export interface Manifest extends Layout {
  readonly id: ManifestId;
  /** Whose snapshot it is; its packs may be another's (a base image's). */
  readonly account: string;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
  /** What the caller of `save` gave. */
  readonly identity: unknown;
}

const MAGIC = Buffer.from('HATCHMAN');
const HEADER = 40;
const SEALED = 1;
const LONGEST_IDENTITY = 1024 * 1024;
const LONGEST_ACCOUNT = 128;

/**
 * The manifest as it is stored, sealed when the account's keys can. The same manifest gives the same bytes, so its id,
 * like a pack's, stands for one sequence of bytes. Throws BlobError (`refused`) when it is too large.
 */
export function encodeManifest(manifest: Manifest, keys: AccountKeys): { bytes: Buffer; sha256: string } {
  const body = new ByteWriter();
  body.text(manifest.account);
  body.varint(manifest.createdAt);
  body.text(JSON.stringify(manifest.identity ?? null));
  writeLayout(body, manifest);
  const plain = body.bytes();
  if (plain.length > MANIFEST_MAX)
    throw new BlobError('refused', `the manifest is larger than ${MANIFEST_MAX} bytes`);
  const header = Buffer.alloc(HEADER);
  MAGIC.copy(header);
  header.writeUInt16BE(FORMAT_VERSION, 8);
  header.writeUInt16BE(keys.seal ? SEALED : 0, 10);
  header.writeUInt32BE(plain.length, 12);
  idBytes(manifest.id).copy(header, 16);
  header.set(keys.seal?.id ?? NO_KEY_ID, 32);
  const packed = compress(plain);
  const stored = keys.seal
    ? seal(objectKey(keys.seal, idBytes(manifest.id)), MANIFEST_NONCE, header, packed)
    : packed;
  const bytes = Buffer.concat([header, stored]);
  return { bytes, sha256: createHash('sha256').update(bytes).digest('hex') };
}

/**
 * Reads a manifest. `sha256` is what was kept of it elsewhere; with it, only those very bytes are taken. Whatever the
 * bytes are, this gives a whole manifest or throws BlobError: `damaged` with a sentence saying what is wrong with them, or
 * `wrong_key`.
 */
export function decodeManifest(bytes: Uint8Array, keys: AccountKeys, sha256?: string): Manifest {
  if (sha256 !== undefined && createHash('sha256').update(bytes).digest('hex') !== sha256)
    throw damaged('the manifest is not the one that was stored: its SHA-256 is another');
  const header = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, HEADER));
  if (header.length < HEADER || !header.subarray(0, 8).equals(MAGIC)) throw damaged('this is no manifest');
  const version = header.readUInt16BE(8);
  if (version !== FORMAT_VERSION)
    throw damaged(`the manifest is of version ${version}, and this program reads version ${FORMAT_VERSION}`);
  const flags = header.readUInt16BE(10);
  if (flags > SEALED) throw damaged(`the manifest has flags that are not known (${flags})`);
  const length = header.readUInt32BE(12);
  if (length > MANIFEST_MAX) throw damaged(`the manifest claims to be ${length} bytes long`);
  const id = header.subarray(16, 32);
  const stored = bytes.subarray(HEADER);
  const packed = flags === SEALED ? open(stored, header, id, keys) : stored;
  const body = new ByteReader(decompress(packed, length, 'the manifest'), 'the manifest');
  const account = body.text(LONGEST_ACCOUNT);
  if (account !== keys.account) throw damaged(`the manifest is one of ${account}, not of ${keys.account}`);
  const createdAt = body.varint();
  const identity = parseIdentity(body.text(LONGEST_IDENTITY));
  const layout = readLayout(body);
  body.end();
  return { id: manifestIdOf(id), account, createdAt, identity, ...layout };
}

function open(stored: Uint8Array, header: Buffer, id: Uint8Array, keys: AccountKeys): Buffer {
  if (stored.length < TAG) throw damaged('the manifest ends too early');
  const key = sealKeyFor(keys, header.subarray(32, 40), 'the manifest');
  const packed = unseal(objectKey(key, id), MANIFEST_NONCE, header, stored);
  if (!packed) throw damaged('the manifest was changed: it does not open with the key it was sealed with');
  return packed;
}

function parseIdentity(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw damaged('the manifest does not say what it is a snapshot of', error);
  }
}
