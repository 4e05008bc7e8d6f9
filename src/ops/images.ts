import { parseImageId, type ImageId } from '../base/ids.ts';
import { errorFields } from '../base/logger.ts';
import { Failure, invalid, notFound } from '../model/failure.ts';
import type { Image } from '../model/records.ts';
import { Taken } from '../store/store.ts';
import type { Hatch } from './hatch.ts';
import { visibleAccounts, type World } from './world.ts';

/** What a registered image's files turned out to be. */
export type FoundImage = Pick<
  Image,
  'kernelPath' | 'vmlinuxPath' | 'initrdPath' | 'rootfsPath' | 'rootfsFormat' | 'sizeBytes' | 'sha256'
>;

/** Looks at image files on the host, converts what has to be, and takes converted files away again. */
export interface ImageRegistry {
  /** Throws `invalid_request` naming the field for a file that will not do. */
  register(
    id: ImageId,
    files: { readonly kernelPath: string; readonly rootfsPath: string; readonly initrdPath: string | null },
  ): Promise<FoundImage>;
  /** Removes what `register` made for it; the operator's own files stay. */
  forget(id: ImageId): Promise<void>;
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
  return {
    async create(caller, { name, kernelPath, rootfsPath, initrdPath, bootArgs, defaultUser }) {
      const id = parseImageId(`img-${name}`);
      if (!id) throw invalid('name', 'name must be lower-case letters, digits and dashes, at most 63.');
      if (id === 'img-default')
        throw invalid('name', '"default" is the server\'s own image; choose another name.');
      if (await store.images.get([caller.accountId], id)) throw exists(name);
      const found = await registry.register(id, { kernelPath, rootfsPath, initrdPath: initrdPath ?? null });
      try {
        return await store.images.create({
          ...found,
          accountId: caller.accountId,
          id,
          bootArgs: bootArgs ?? null,
          defaultUser: defaultUser ?? 'root',
          agent: null,
        });
      } catch (error) {
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
      if (!(await store.images.get([caller.accountId], parsed))) throw notFound('image', id);
      const { removed, vms, templates } = await store.images.remove(caller.accountId, parsed);
      if (!removed) {
        const users = [...vms, ...templates];
        throw new Failure(
          'in_use',
          `Image ${parsed} is used by ${users.slice(0, 5).join(', ')}${users.length > 5 ? ` and ${users.length - 5} more` : ''}.`,
          {
            details: { vms, templates },
          },
        );
      }
      await registry
        .forget(parsed)
        .catch((error: unknown) =>
          log.warn({ image: parsed, ...errorFields(error) }, 'could not remove converted files'),
        );
    },
  };
}

function exists(name: string): Failure {
  return new Failure('already_exists', `There is an image "${name}" already.`, {
    details: { field: 'name', value: name },
  });
}
