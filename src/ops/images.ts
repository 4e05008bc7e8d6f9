import { parseImageId, type ImageId } from '../base/ids.ts';
import { errorFields } from '../base/logger.ts';
import { Failure, invalid, notFound } from '../model/failure.ts';
import type { Image } from '../model/records.ts';
import { Taken } from '../store/store.ts';
import type { Hatch } from './hatch.ts';
import type { World } from './world.ts';
import { visibleAccounts } from './settings.ts';

/** What a registered image's files turned out to be. */
export type FoundImage = Pick<
  Image,
  'kernelPath' | 'vmlinuxPath' | 'initrdPath' | 'rootfsPath' | 'rootfsFormat' | 'sizeBytes'
>;

/** Looks at image files on the host, converts what has to be, and takes converted files away again. */
export interface ImageRegistry {
  /** Throws `invalid_request` naming the field for a file that will not do. */
  register(files: {
    readonly kernelPath: string;
    readonly rootfsPath: string;
    readonly initrdPath: string | null;
  }): Promise<FoundImage>;
  /** Removes what `register` made for it; the operator's own files stay. */
  forget(image: Image): Promise<void>;
  /** The SHA-256 of a file, hex; null where nothing is to be read. */
  sha256(path: string): Promise<string | null>;
}

/** The images part of Hatch. */
export function images(
  { store, settings, log }: Pick<World, 'store' | 'settings' | 'log'>,
  registry: ImageRegistry,
): Hatch['images'] {
  const idOf = (id: string): ImageId => {
    const parsed = parseImageId(id) ?? parseImageId(`img-${id}`);
    if (!parsed) throw notFound('image', id);
    return parsed;
  };
  /** Counts an image's hash while it is already in use: gigabytes take seconds. */
  const count = async (image: Image): Promise<void> => {
    try {
      const sha256 = await registry.sha256(image.rootfsPath);
      if (sha256 !== null) await store.images.setSha256(image.accountId, image.id, sha256);
    } catch (error) {
      log.warn({ image: image.id, ...errorFields(error) }, 'could not count the hash of an image');
    }
  };
  return {
    async create(caller, { name, kernelPath, rootfsPath, initrdPath, bootArgs, defaultUser }) {
      const id = parseImageId(`img-${name}`);
      if (!id) throw invalid('name', '"name" must be lower-case letters, digits and dashes, at most 63.');
      if (id === 'img-default')
        throw invalid('name', '"default" is the server\'s own image; choose another name.');
      if (await store.images.get([caller.accountId], id)) throw exists(name);
      const found = await registry.register({ kernelPath, rootfsPath, initrdPath: initrdPath ?? null });
      try {
        const image = await store.images.create({
          sha256: null,
          ...found,
          accountId: caller.accountId,
          id,
          bootArgs: bootArgs ?? null,
          defaultUser: defaultUser ?? 'root',
          agent: null,
        });
        void count(image);
        return image;
      } catch (error) {
        await registry.forget({
          ...found,
          accountId: caller.accountId,
          id,
          bootArgs: null,
          defaultUser: '',
          agent: null,
          sha256: null,
          createdAt: 0,
        });
        throw error instanceof Taken ? exists(name) : error;
      }
    },
    async get(caller, id) {
      const found = await store.images.get(visibleAccounts(settings, caller.accountId), idOf(id));
      if (!found) throw notFound('image', id);
      return found;
    },
    list: (caller, page) => store.images.list(visibleAccounts(settings, caller.accountId), page),
    async delete(caller, id) {
      const parsed = idOf(id);
      const image = await store.images.get([caller.accountId], parsed);
      if (!image) throw notFound('image', id);
      const { removed, vms, templates } = await store.images.remove(caller.accountId, parsed);
      if (!removed) {
        throw new Failure('in_use', inUse(parsed, [...vms, ...templates]), { details: { vms, templates } });
      }
      await registry
        .forget(image)
        .catch((error: unknown) =>
          log.warn({ image: parsed, ...errorFields(error) }, 'could not remove converted files'),
        );
    },
  };
}

function inUse(id: ImageId, users: readonly string[]): string {
  // Who used it has just gone, or a disk that still stands on it has lost its VM: reconciling takes that away.
  if (users.length === 0) return `Image ${id} is just being let go of; try again in a minute.`;
  const more = users.length > 5 ? ` and ${users.length - 5} more` : '';
  return `Image ${id} is used by ${users.slice(0, 5).join(', ')}${more}.`;
}

function exists(name: string): Failure {
  return new Failure('already_exists', `There is an image "${name}" already.`, {
    details: { field: 'name', value: name },
  });
}
