import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { remove } from '../../host/files.ts';
import type { Run } from '../../host/run.ts';
import { Failure } from '../../model/failure.ts';
import { LZ4_LEGACY_MAGIC, unpackLz4Legacy } from './lz4.ts';

/** What an uncompressed kernel says of itself. */
export interface Vmlinux {
  readonly image: Buffer;
  /** The physical address it is entered at, from the ELF header. */
  readonly entry: bigint;
}

/**
 * Takes the ELF that Firecracker (and QEMU by PVH) boots out of a Linux bzImage, by its setup header (Linux,
 * Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length). Throws Failure invalid_request when it
 * is no kernel for x86-64, or a damaged one.
 */
export async function extractVmlinux(
  { run, workFolder }: { readonly run: Run; readonly workFolder: string },
  kernel: Uint8Array,
  signal: AbortSignal,
): Promise<Vmlinux> {
  if (isElf(kernel)) return checkElf(Buffer.from(kernel));
  const payload = findPayload(kernel);
  return checkElf(await unpack({ run, workFolder }, payload, signal));
}

/** The compressed kernel within a bzImage. */
export function findPayload(kernel: Uint8Array): Uint8Array {
  if (kernel.length < 0x250) throw damaged('it is too short');
  const header = new DataView(kernel.buffer, kernel.byteOffset, kernel.byteLength);
  if (header.getUint16(0x1fe, true) !== 0xaa55 || header.getUint32(0x202, true) !== 0x53726448)
    throw damaged('it has no setup header');
  if (header.getUint16(0x206, true) < 0x0208) throw damaged('its boot protocol is older than 2.08');
  // Zero stands for four, for very old loaders' sake.
  const setupSectors = header.getUint8(0x1f1) || 4;
  const start = (setupSectors + 1) * 512 + header.getUint32(0x248, true);
  const length = header.getUint32(0x24c, true);
  if (length < 16 || start + length > kernel.length) throw damaged('its payload lies outside the file');
  return kernel.subarray(start, start + length);
}

/** Formats the kernel's build can compress with, by their first bytes. All but gzip have the size in 4 bytes after them. */
async function unpack(
  tools: { readonly run: Run; readonly workFolder: string },
  payload: Uint8Array,
  signal: AbortSignal,
): Promise<Buffer> {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const size = view.getUint32(payload.length - 4, true);
  const compressed = payload.subarray(0, -4);
  const magic = view.getUint32(0, true);
  if (size > 1 << 30) throw damaged('it claims to be larger than a GiB');
  let image: Buffer;
  if ((magic & 0xffff) === 0x8b1f) image = inProcess(() => gunzipSync(payload, { maxOutputLength: size }));
  else if (magic === 0xfd2fb528)
    image = inProcess(() => zstdDecompressSync(compressed, { maxOutputLength: size }));
  else if (magic === LZ4_LEGACY_MAGIC) image = inProcess(() => unpackLz4Legacy(compressed, size));
  else if (magic === 0x587a37fd) image = await byTool(tools, ['xz', '-d'], compressed, 'xz', signal);
  else if ((magic & 0xffffff) === 0x00005d)
    image = await byTool(tools, ['xz', '--format=lzma', '-d'], compressed, 'lzma', signal);
  else if ((magic & 0xffffff) === 0x685a42)
    image = await byTool(tools, ['bzip2', '-d'], compressed, 'bz2', signal);
  else throw damaged('its compression is none that is known here');
  if (image.length !== size) throw damaged(`it unpacks to ${image.length} bytes and not to ${size}`);
  return image;
}

function inProcess(work: () => Buffer): Buffer {
  try {
    return work();
  } catch (error) {
    throw damaged('it cannot be unpacked', error);
  }
}

async function byTool(
  { run, workFolder }: { readonly run: Run; readonly workFolder: string },
  argv: readonly [string, ...string[]],
  compressed: Uint8Array,
  suffix: string,
  signal: AbortSignal,
): Promise<Buffer> {
  const folder = await mkdtemp(join(workFolder, 'kernel-'));
  try {
    await writeFile(join(folder, `vmlinux.${suffix}`), compressed);
    await run([...argv, join(folder, `vmlinux.${suffix}`)], { timeoutMs: 120_000, signal });
    return await readFile(join(folder, 'vmlinux'));
  } finally {
    await remove(folder);
  }
}

function isElf(data: Uint8Array): boolean {
  return data[0] === 0x7f && data[1] === 0x45 && data[2] === 0x4c && data[3] === 0x46;
}

/** Reads the ELF header (System V ABI, figure 4-3) and checks that the entry lies in what is loaded. */
function checkElf(image: Buffer): Vmlinux {
  if (!isElf(image) || image.length < 64) throw damaged('what is in it is no ELF file');
  if (image[4] !== 2 || image[5] !== 1 || image.readUInt16LE(18) !== 62)
    throw damaged('it is not for x86-64');
  const entry = image.readBigUInt64LE(24);
  const [table, size, count] = [
    Number(image.readBigUInt64LE(32)),
    image.readUInt16LE(54),
    image.readUInt16LE(56),
  ];
  if (size < 56 || count === 0 || table + size * count > image.length)
    throw damaged('its program headers lie outside the file');
  for (let at = table; at < table + size * count; at += size) {
    const [loaded, physical, length] = [
      image.readUInt32LE(at) === 1,
      image.readBigUInt64LE(at + 24),
      image.readBigUInt64LE(at + 40),
    ];
    if (loaded && entry >= physical && entry < physical + length) return { image, entry };
  }
  throw damaged('its entry lies in no loaded segment');
}

function damaged(why: string, cause?: unknown): Failure {
  return new Failure('invalid_request', `The kernel cannot be used: ${why}.`, { cause });
}
