import { randomBytes } from 'node:crypto';

/** The numbers and names of the snapshot format, version 1. docs/snapshot-format.md is the text. */
export const FORMAT_VERSION = 1;
/** Identity is by chunk. Every chunk is this long; the last of an image is filled up with zeros. */
export const CHUNK = 16 * 1024;
/** New chunks are compressed together, up to this many (256 KiB). */
export const FRAME_CHUNKS = 16;
export const FRAME = CHUNK * FRAME_CHUNKS;
/** A pack is closed once it holds so many bytes... */
export const PACK_TARGET = 16 * 1024 * 1024;
/** ...and is never larger than this. */
export const PACK_MAX = 32 * 1024 * 1024;
/** HMAC-SHA256, whole. */
export const CHUNK_ID = 32;
/** The first bytes of the SHA-256 of a frame as it is stored. */
export const FRAME_CHECK = 16;
/** A manifest, unpacked, is never larger than this: about 16 million runs. */
export const MANIFEST_MAX = 64 * 1024 * 1024;

declare const brand: unique symbol;
/** A UUID of version 7, written with dashes. One id, one sequence of bytes, for ever. */
export type PackId = string & { readonly [brand]: 'pack' };
/** A UUID of version 7, written with dashes. */
export type ManifestId = string & { readonly [brand]: 'manifest' };

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** A pack, by what a manifest says of it. */
export interface PackRef {
  /** Whose it is: the account's id. It names the pack's place and the key. */
  readonly account: string;
  readonly id: PackId;
  readonly bytes: number;
  /** Whether its frames are encrypted under the account's key. */
  readonly sealed: boolean;
}

/** One frame: up to 16 chunks compressed together, and all that is needed to fetch and check it without its pack's trailer. */
export interface FrameRef {
  readonly pack: PackRef;
  /** Counted from 0 within the pack. */
  readonly number: number;
  /** Where it begins in the pack. */
  readonly offset: number;
  /** How many bytes it takes there. */
  readonly stored: number;
  /** How many chunks it holds. */
  readonly chunks: number;
  readonly codec: FrameCodec;
  /** FRAME_CHECK bytes: the beginning of the SHA-256 of its stored bytes. */
  readonly check: Uint8Array;
}

export type FrameCodec = 'raw' | 'zstd';

/** Where a chunk is: the `slot`-th of its frame. */
export interface ChunkPlace {
  readonly frame: FrameRef;
  readonly slot: number;
}

/** The name of a pack in a home. */
export function packName(pack: Pick<PackRef, 'account' | 'id'>): string {
  return `a/${pack.account}/p/${pack.id}`;
}

/** The name of a manifest in a home. */
export function manifestName(account: string, id: ManifestId): string {
  return `a/${account}/m/${id}`;
}

/** What all blobs of an account begin with. */
export function accountPrefix(account: string): string {
  return `a/${account}/`;
}

/** A fresh pack id; `now` (milliseconds since 1970) orders ids by age and decides nothing. */
export function newPackId(now: number): PackId {
  return uuid7(now) as PackId;
}

/** A fresh manifest id. */
export function newManifestId(now: number): ManifestId {
  return uuid7(now) as ManifestId;
}

/** Reads a pack id from outside; undefined when it is not one. */
export function parsePackId(text: string): PackId | undefined {
  return UUID.test(text) ? (text as PackId) : undefined;
}

/** Reads a manifest id from outside; undefined when it is not one. */
export function parseManifestId(text: string): ManifestId | undefined {
  return UUID.test(text) ? (text as ManifestId) : undefined;
}

/** The 16 bytes of an id. */
export function idBytes(id: PackId | ManifestId): Buffer {
  return Buffer.from(id.replaceAll('-', ''), 'hex');
}

/** The pack id of 16 bytes. */
export function packIdOf(bytes: Uint8Array): PackId {
  return uuidOf(bytes) as PackId;
}

/** The manifest id of 16 bytes. */
export function manifestIdOf(bytes: Uint8Array): ManifestId {
  return uuidOf(bytes) as ManifestId;
}

function uuid7(now: number): string {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(now, 0, 6);
  bytes[6] = 0x70 | ((bytes[6] ?? 0) & 0x0f);
  bytes[8] = 0x80 | ((bytes[8] ?? 0) & 0x3f);
  return uuidOf(bytes);
}

function uuidOf(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, 16).toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}
