import { closeSync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs';
import type { Body } from './bodies.ts';
import type { DriveConfig } from './block.ts';
import { Refused } from './calls.ts';
import { osError } from './musl.ts';
import type { NetConfig } from './net.ts';

/** What a snapshot's state file holds: the machine and its devices, with the paths they were given. */
export interface SavedState {
  readonly magic: string;
  /** Of the format. */
  readonly version: string;
  readonly machine: Machine;
  readonly pci: boolean;
  readonly drives: readonly DriveConfig[];
  readonly networks: readonly NetConfig[];
  readonly pmem: readonly Body<'pmem'>[];
  readonly vsock: { readonly guest_cid: number; readonly uds_path: string } | null;
  readonly entropy: Body<'entropy'> | null;
  readonly balloon: Body<'balloon'> | null;
  readonly hotplug: (Body<'hotplug'> & { readonly requested_size_mib: number }) | null;
  readonly mmds: Body<'mmdsConfig'> | null;
  /** When it was taken by the host's clock, for clock_realtime; null where the release or the host has none. */
  readonly realtimeMs: number | null;
}

export type Machine = Body<'machine'>;

/** Not Firecracker's own (that is bitcode behind 0x0710198486640000): nobody shall take one for the other. */
export const MAGIC = 'hatch firecracker double';
const MOST_BYTES = 10_000_000;

/** Throws Refused. */
export function writeState(path: string, state: SavedState): void {
  const step = <T>(name: string, act: () => T): T => {
    try {
      return act();
    } catch (error) {
      throw new Refused(
        name === 'write'
          ? `Create snapshot error: Cannot serialize the microVM state: IO Error: ${osError(error)}`
          : `Create snapshot error: Cannot perform ${name} on the snapshot backing file: ${osError(error)}`,
      );
    }
  };
  const fd = step('open', () => openSync(path, 'w', 0o666));
  try {
    const text = Buffer.from(JSON.stringify(state));
    const trailer = Buffer.alloc(8);
    trailer.writeBigUInt64LE(crc64(text));
    step('write', () => writeSync(fd, Buffer.concat([text, trailer])));
    step('sync_all', () => fsyncSync(fd));
  } finally {
    closeSync(fd);
  }
}

/** Reads a state of this format. Throws an Error with what Firecracker says. */
export function readState(path: string, format: string): SavedState {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new Error(`Failed to open snapshot file: ${osError(error)}`, { cause: error });
  }
  const { state, problem } = examine(bytes, format);
  if (problem !== undefined || !state)
    throw new Error(`Failed to load snapshot state from file: ${problem ?? ''}`);
  return state;
}

/** The format of a state file, as --describe-snapshot prints it. Throws an Error with what Firecracker says. */
export function formatOf(path: string, format: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new Error(`Unable to open snapshot state file: ${osError(error)}`, { cause: error });
  }
  const { state, problem } = examine(bytes, format);
  if (!state) throw new Error(`Invalid data format version of snapshot file: ${problem ?? ''}`);
  return state.version;
}

function examine(bytes: Buffer, format: string): { readonly state?: SavedState; readonly problem?: string } {
  if (bytes.length > MOST_BYTES) return { problem: `Snapshot size exceeds limit of ${MOST_BYTES} bytes` };
  if (bytes.length < 8) return { problem: 'IO Error: File too short to contain CRC' };
  const [text, trailer] = [bytes.subarray(0, -8), bytes.subarray(-8)];
  let state: SavedState;
  try {
    state = JSON.parse(text.toString('utf8')) as SavedState;
    if (state.magic !== MAGIC) return { problem: 'Magic value does not match arch: 0' };
  } catch {
    return { problem: 'An error occurred during bitcode serialization: invalid packing' };
  }
  const [major, minor] = numbersOf(state.version);
  const [ourMajor, ourMinor] = numbersOf(format);
  if (major !== ourMajor || minor > ourMinor)
    return { state, problem: `Invalid data version: ${state.version}` };
  if (trailer.readBigUInt64LE() !== crc64(text)) return { state, problem: 'CRC64 validation failed' };
  return { state };
}

function numbersOf(version: string): readonly [number, number] {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return [major, minor];
}

/** CRC-64/Jones, reflected, beginning with 0: the one of the Rust crate Firecracker uses. */
export function crc64(bytes: Uint8Array): bigint {
  let crc = 0n;
  for (const byte of bytes) {
    crc ^= BigInt(byte);
    for (let bit = 0; bit < 8; bit++) crc = crc & 1n ? (crc >> 1n) ^ 0x95ac9329ac4bc9b5n : crc >> 1n;
  }
  return crc;
}
