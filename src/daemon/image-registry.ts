import { dirname, join } from 'node:path';
import { newId } from '../base/ids.ts';
import { convertImage, inspectImageFiles, sha256OfFile } from '../guest/image-files.ts';
import { makeFolder, remove } from '../host/files.ts';
import type { Run } from '../host/run.ts';
import { invalid } from '../model/failure.ts';
import type { ImageRegistry } from '../ops/images.ts';
import type { Settings } from '../ops/settings.ts';

/** A conversion copies a whole disk; longer than this and something hangs. */
const CONVERT_MS = 30 * 60_000;

/** Image files as the host has them: looked at, and converted into the images folder where that is needed. */
export function imageRegistry(
  settings: Pick<Settings, 'imagesFolder' | 'imageDirs'>,
  { run }: { readonly run: Run },
): ImageRegistry {
  const made = join(settings.imagesFolder, 'registered');
  return {
    async register(files) {
      const found = await inspectImageFiles({ run }, { ...files, allowedDirs: settings.imageDirs });
      const given = {
        kernelPath: found.kernel?.path ?? '',
        vmlinuxPath: found.kernel?.kind === 'vmlinux' ? found.kernel.path : null,
        initrdPath: found.initrdPath,
      };
      if (!found.needsConversion) {
        return { ...given, rootfsPath: found.rootfsPath, rootfsFormat: 'raw', sizeBytes: found.sizeBytes };
      }
      await makeFolder(made);
      const converted = await convertImage(
        { run },
        {
          rootfsPath: found.rootfsPath,
          rootfsFormat: found.rootfsFormat,
          folder: join(made, newId('layer')),
          takeKernel: found.kernel === null,
        },
        AbortSignal.timeout(CONVERT_MS),
      );
      const kernelPath = converted.kernelPath ?? given.kernelPath;
      if (kernelPath === '')
        throw invalid('kernel_path', '"kernel_path" is needed: the image has no kernel in it.');
      return {
        kernelPath,
        vmlinuxPath: given.vmlinuxPath,
        initrdPath: given.initrdPath ?? converted.initrdPath,
        rootfsPath: converted.rootfsPath,
        rootfsFormat: 'raw',
        sizeBytes: converted.sizeBytes,
      };
    },
    async forget({ rootfsPath }) {
      if (dirname(dirname(rootfsPath)) === made) await remove(dirname(rootfsPath));
    },
    sha256: (path) => sha256OfFile(path),
  };
}

/** With the fake hypervisor image files are taken as they are named: nothing ever opens them. */
export function pretendedRegistry(): ImageRegistry {
  return {
    register: async ({ kernelPath, rootfsPath, initrdPath }) => ({
      kernelPath,
      vmlinuxPath: null,
      initrdPath,
      rootfsPath,
      rootfsFormat: 'raw',
      sizeBytes: 2 * 1024 ** 3,
    }),
    forget: async () => undefined,
    sha256: async () => null,
  };
}
