import { open, realpath, stat } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { kernelKind, MAGIC_BYTES } from '../guest/image-magic.ts';
import { IMAGE_FILES, readManifest } from '../guest/image/manifest.ts';
import { invalid } from '../model/failure.ts';
import type { Image } from '../model/records.ts';
import type { Driver } from '../vmm/driver.ts';

/** Which of an image's kernels a hypervisor is given: absolute path. */
export function kernelOf(driver: Pick<Driver, 'kernel'>, image: Image): string {
  return driver.kernel === 'uncompressed' ? (image.vmlinuxPath ?? image.kernelPath) : image.kernelPath;
}

/**
 * Throws `invalid_request` naming the image where its kernel, the file at `path`, is compressed and this host's hypervisor boots
 * only uncompressed ones. A file that cannot be read is left to whoever boots it.
 */
export async function mustBoot(
  driver: Pick<Driver, 'kernel' | 'name'>,
  image: Image,
  path = kernelOf(driver, image),
): Promise<void> {
  if (driver.kernel !== 'uncompressed' || kernelKind(await beginning(path)) !== 'bzImage') return;
  const remedy =
    image.id === 'img-default'
      ? 'set HATCH_DEFAULT_KERNEL_PATH to its uncompressed vmlinux, or run `hatchd image build`.'
      : 'register it again with "kernel_path" naming its uncompressed vmlinux.';
  throw invalid(
    'image_id',
    `The image "${image.id}" cannot boot here: its kernel is compressed, and ${driver.name} boots only uncompressed ones; ${remedy}`,
    { image_id: image.id },
  );
}

/**
 * SHA-256, in hexadecimal, of the kernel a file or link leads to, by the manifest of the image built beside it; null where there is
 * none, as of an image somebody else has made.
 */
export async function kernelSha256(path: string): Promise<string | null> {
  try {
    const kernel = await realpath(path);
    const manifest = await readManifest(dirname(kernel));
    const part = (['vmlinuz', 'vmlinux'] as const).find((one) => IMAGE_FILES[one] === basename(kernel));
    if (!manifest || !part || (await stat(kernel)).size !== manifest.sizes[part]) return null;
    return manifest.sha256[part];
  } catch {
    // Nothing depends on it: a snapshot is whole without.
    return null;
  }
}

async function beginning(path: string): Promise<Buffer> {
  try {
    await using file = await open(path, 'r');
    const { buffer, bytesRead } = await file.read(Buffer.alloc(MAGIC_BYTES), 0, MAGIC_BYTES, 0);
    return buffer.subarray(0, bytesRead);
  } catch {
    return Buffer.alloc(0);
  }
}
