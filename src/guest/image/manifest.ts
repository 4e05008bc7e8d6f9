import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../../base/errno.ts';

/** The names of an image's files within its folder. */
export const IMAGE_FILES = {
  rootfs: 'rootfs.ext4',
  vmlinuz: 'vmlinuz',
  vmlinux: 'vmlinux',
  initrd: 'initrd.img',
} as const;

export type ImagePart = keyof typeof IMAGE_FILES;

const PARTS = ['rootfs', 'vmlinuz', 'vmlinux', 'initrd'] as const satisfies readonly ImagePart[];

/** What a built image says of itself, in manifest.json. */
export interface Manifest {
  readonly name: string;
  /** The recipe's. */
  readonly hash: string;
  /** ISO 8601. */
  readonly built_at: string;
  readonly suite: string;
  readonly architecture: string;
  readonly kernel_version: string;
  /** Where the uncompressed kernel is entered, as 0x... */
  readonly kernel_entry: string;
  readonly default_user: string;
  readonly boot_args: string;
  /** Whether the guest agent is in it. */
  readonly agent: boolean;
  readonly sizes: Readonly<Record<ImagePart, number>>;
  readonly sha256: Readonly<Record<ImagePart, string>>;
  /** Debian packages and their versions. */
  readonly packages: Readonly<Record<string, string>>;
}

/** A built image: absolute paths of its files, and its manifest. */
export interface BuiltImage {
  readonly hash: string;
  readonly dir: string;
  readonly rootfs: string;
  readonly vmlinuz: string;
  readonly vmlinux: string;
  readonly initrd: string;
  readonly manifest: Manifest;
}

/** The image in a folder; undefined when there is none, or it is not whole (a file missing or of another size). */
export async function readImage(dir: string): Promise<BuiltImage | undefined> {
  const manifest = await readManifest(dir);
  if (!manifest) return undefined;
  for (const part of PARTS) {
    if ((await sizeOf(join(dir, IMAGE_FILES[part]))) !== manifest.sizes[part]) return undefined;
  }
  return {
    hash: manifest.hash,
    dir,
    rootfs: join(dir, IMAGE_FILES.rootfs),
    vmlinuz: join(dir, IMAGE_FILES.vmlinuz),
    vmlinux: join(dir, IMAGE_FILES.vmlinux),
    initrd: join(dir, IMAGE_FILES.initrd),
    manifest,
  };
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    const found = await stat(path);
    return found.isFile() ? found.size : undefined;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/** What the image in a folder says of itself; undefined when there is none. */
export async function readManifest(dir: string): Promise<Manifest | undefined> {
  try {
    return parseManifest(await readFile(join(dir, 'manifest.json'), 'utf8'));
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR')) return undefined;
    throw error;
  }
}

/** Reads a manifest's text; undefined when it is none. */
export function parseManifest(text: string): Manifest | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  return isManifest(value) ? value : undefined;
}

const TEXTS = [
  'name',
  'hash',
  'built_at',
  'suite',
  'architecture',
  'kernel_version',
  'kernel_entry',
  'default_user',
  'boot_args',
] as const;

function isManifest(value: unknown): value is Manifest {
  if (!isRecord(value)) return false;
  const { sizes, sha256, packages } = value;
  return (
    TEXTS.every((key) => typeof value[key] === 'string') &&
    typeof value['agent'] === 'boolean' &&
    isRecord(sizes) &&
    isRecord(sha256) &&
    isRecord(packages) &&
    PARTS.every((part) => Number.isSafeInteger(sizes[part]) && typeof sha256[part] === 'string')
  );
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
