import { parseTemplateId, type TemplateId } from '../base/ids.ts';
import { Failure, invalid, notFound } from '../model/failure.ts';
import { mergeIdle } from '../model/create-request.ts';
import type { Template } from '../model/records.ts';
import { checkUserData } from '../model/user-data.ts';
import { Taken } from '../store/store.ts';
import { imageNamed } from './create-vm.ts';
import type { Caller, Hatch, TemplateFields } from './hatch.ts';
import type { World } from './world.ts';
import { visibleAccounts } from './settings.ts';

type Deps = Pick<World, 'store' | 'settings' | 'findDefaultImage'>;
type Columns = Omit<Template, 'accountId' | 'id' | 'createdAt' | 'updatedAt'>;

/** The templates part of Hatch. */
export function templates(deps: Deps): Hatch['templates'] {
  const { store, settings } = deps;
  const idOf = (id: string): TemplateId => {
    const parsed = parseTemplateId(id) ?? parseTemplateId(`tpl-${id}`);
    if (!parsed) throw notFound('template', id);
    return parsed;
  };
  return {
    async create(caller, name, fields) {
      const id = parseTemplateId(`tpl-${name}`);
      if (!id) throw invalid('name', '"name" must be lower-case letters, digits and dashes, at most 63.');
      const empty: Columns = {
        description: null,
        imageId: null,
        vcpuCount: null,
        memMib: null,
        diskMib: null,
        userData: null,
        bootArgs: null,
        idle: null,
        labels: {},
      };
      try {
        return await store.templates.create({
          ...empty,
          ...(await columns(deps, caller, fields)),
          accountId: caller.accountId,
          id,
        });
      } catch (error) {
        if (!(error instanceof Taken)) throw error;
        throw new Failure('already_exists', `There is a template "${name}" already.`, {
          details: { field: 'name', value: name },
        });
      }
    },
    async get(caller, id) {
      const found = await store.templates.get(visibleAccounts(settings, caller.accountId), idOf(id));
      if (!found) throw notFound('template', id);
      return found;
    },
    list: (caller, page) => store.templates.list(visibleAccounts(settings, caller.accountId), page),
    async patch(caller, id, fields) {
      const patched = await store.templates.update(
        caller.accountId,
        idOf(id),
        await columns(deps, caller, fields),
      );
      if (!patched) throw notFound('template', id);
      return patched;
    },
    async delete(caller, id) {
      const parsed = idOf(id);
      if (!(await store.templates.get([caller.accountId], parsed))) throw notFound('template', id);
      const { removed, vms } = await store.templates.remove(caller.accountId, parsed);
      if (!removed) {
        throw new Failure(
          'in_use',
          `Template ${parsed} is used by ${vms.length} VM${vms.length === 1 ? '' : 's'}: ${vms.slice(0, 5).join(', ')}. It can go when they have gone.`,
          { details: { vms } },
        );
      }
    },
  };
}

async function columns(deps: Deps, caller: Caller, fields: TemplateFields): Promise<Partial<Columns>> {
  const { imageId, idle, userData, ...rest } = fields;
  if (typeof userData === 'string') checkUserData(userData);
  const given = Object.entries(rest).filter(([, value]) => value !== undefined);
  return {
    ...Object.fromEntries(given),
    ...(userData === undefined ? {} : { userData }),
    ...(idle === undefined ? {} : { idle: idle === null ? null : mergeIdle(deps.settings.idle, idle) }),
    ...(imageId === undefined
      ? {}
      : { imageId: imageId === null ? null : (await imageNamed(deps, caller, imageId, 'image_id')).id }),
  };
}
