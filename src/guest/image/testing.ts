/** Kernels and compressed data made by hand, for this folder's tests. */
import { gzipSync } from 'node:zlib';
import { LZ4_LEGACY_MAGIC } from './lz4.ts';

const u32 = (value: number): Buffer => {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32LE(value >>> 0);
  return buffer;
};

/** Compressed data with the size it unpacks to behind it, as the kernel's build appends it. */
export function sized(compressed: Uint8Array, size: number): Buffer {
  return Buffer.concat([compressed, u32(size)]);
}

/** A frame of LZ4 blocks. */
export function lz4Frame(blocks: readonly Uint8Array[]): Buffer {
  return Buffer.concat([u32(LZ4_LEGACY_MAGIC), ...blocks.flatMap((block) => [u32(block.length), block])]);
}

/** A block that holds its data as it is. */
export function lz4Literals(data: Uint8Array): Buffer {
  if (data.length < 15) return Buffer.concat([Buffer.from([data.length << 4]), data]);
  const rest = data.length - 15;
  const more = [...new Array<number>(Math.floor(rest / 255)).fill(255), rest % 255];
  return Buffer.concat([Buffer.from([0xf0, ...more]), data]);
}

/** An ELF file for x86-64 with one loaded segment at 16 MiB, entered at its start. */
export function elf({
  machine = 62,
  entry = 0x1000000n,
}: { readonly machine?: number; readonly entry?: bigint } = {}): Buffer {
  const file = Buffer.alloc(512);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  file.writeUInt16LE(2, 16);
  file.writeUInt16LE(machine, 18);
  file.writeBigUInt64LE(entry, 24);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(1, 56);
  file.writeUInt32LE(1, 64);
  file.writeBigUInt64LE(0x1000000n, 64 + 24);
  file.writeBigUInt64LE(4096n, 64 + 40);
  return file;
}

/** A bzImage around a compressed kernel. */
export function bzImage(payload: Uint8Array): Buffer {
  const setup = Buffer.alloc(2 * 512);
  setup[0x1f1] = 1;
  setup.writeUInt16LE(0xaa55, 0x1fe);
  setup.write('HdrS', 0x202, 'latin1');
  setup.writeUInt16LE(0x020f, 0x206);
  setup.writeUInt32LE(32, 0x248);
  setup.writeUInt32LE(payload.length, 0x24c);
  return Buffer.concat([setup, Buffer.alloc(32), payload, Buffer.alloc(64)]);
}

/** A whole kernel, as small as can be. */
export function tinyKernel(): Buffer {
  return bzImage(gzipSync(elf()));
}
