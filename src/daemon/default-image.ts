import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { parseImageId, type ImageId } from '../base/ids.ts';
import { findBuiltImage } from '../guest/image/build-image.ts';
import { imageSize } from '../guest/disk.ts';
import { exists, writeFileAtomic } from '../host/files.ts';
import { run } from '../host/run.ts';
import type { Image } from '../model/records.ts';
import type { World } from '../ops/world.ts';
import type { Driver } from '../vmm/driver.ts';
import type { Values } from './config.ts';
import type { DataFolder } from './data-folder.ts';

/**
 * Makes `img-default` what the configuration says, or what `hatchd image build` made. Where there is none, VMs need another
 * image. Throws an Error in a sentence when the configuration names no files.
 */
export async function putDefaultImage(
  { store, settings }: Pick<World, 'store' | 'settings'>,
  values: Values,
  data: DataFolder,
  driver: Driver,
): Promise<void> {
  const image =
    driver.name === 'fake'
      ? await pretended(data)
      : values.HATCH_DEFAULT_KERNEL_PATH === undefined
        ? await built(data)
        : await configuredImage(values);
  if (image) await store.images.put({ ...image, accountId: settings.sharedAccountId, id: defaultId() });
}

type Found = Omit<Image, 'accountId' | 'id' | 'createdAt'>;

/** The id of the default image. */
export function defaultId(): ImageId {
  const id = parseImageId('img-default');
  if (!id) throw new Error('img-default is no image id');
  return id;
}

async function built(data: DataFolder): Promise<Found | undefined> {
  const found = await findBuiltImage(data.images);
  if (!found) return undefined;
  const { manifest } = found;
  return {
    kernelPath: found.vmlinuz,
    vmlinuxPath: found.vmlinux,
    initrdPath: found.initrd,
    rootfsPath: found.rootfs,
    rootfsFormat: 'raw',
    bootArgs: null,
    defaultUser: manifest.default_user,
    agent: manifest.agent,
    sizeBytes: (await stat(found.rootfs)).size,
    sha256: manifest.sha256.rootfs,
  };
}

/** The default image the configuration names. Throws an Error in a sentence when its files will not do. */
export async function configuredImage(values: Values): Promise<Found> {
  const kernelPath = await file('HATCH_DEFAULT_KERNEL_PATH', values.HATCH_DEFAULT_KERNEL_PATH);
  const rootfsPath = await file('HATCH_DEFAULT_ROOTFS_PATH', values.HATCH_DEFAULT_ROOTFS_PATH);
  const initrdPath =
    values.HATCH_DEFAULT_INITRD_PATH === undefined
      ? null
      : await file('HATCH_DEFAULT_INITRD_PATH', values.HATCH_DEFAULT_INITRD_PATH);
  const size = await imageSize({ run }, rootfsPath, AbortSignal.timeout(30_000)).catch((error: unknown) => {
    // It speaks of the field an image is registered with.
    const why = error instanceof Error ? error.message : String(error);
    throw new Error(why.replaceAll('"rootfs_path"', `HATCH_DEFAULT_ROOTFS_PATH ${rootfsPath}`), {
      cause: error,
    });
  });
  return {
    kernelPath,
    vmlinuxPath: null,
    initrdPath,
    rootfsPath,
    rootfsFormat: size.format,
    bootArgs: null,
    defaultUser: 'root',
    agent: null,
    sizeBytes: size.virtualSizeBytes,
    sha256: null,
  };
}

async function file(name: string, path: string | undefined): Promise<string> {
  if (path === undefined || !(await exists(path)) || !(await stat(path)).isFile())
    throw new Error(`${name} ${path ?? ''} is not a file.`);
  return path;
}

/** With the fake hypervisor, an image of a few bytes. */
async function pretended(data: DataFolder): Promise<Found> {
  const [kernelPath, rootfsPath] = [join(data.images, 'fake-kernel'), join(data.images, 'fake-rootfs')];
  await writeFileAtomic(kernelPath, 'a kernel for guests that are pretended\n');
  await writeFileAtomic(rootfsPath, 'a root file system for guests that are pretended\n');
  return {
    kernelPath,
    vmlinuxPath: null,
    initrdPath: null,
    rootfsPath,
    rootfsFormat: 'raw',
    bootArgs: null,
    defaultUser: 'debian',
    agent: true,
    sizeBytes: 2 * 1024 ** 3,
    sha256: null,
  };
}
