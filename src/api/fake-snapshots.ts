import { notFound } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import type { Caller, Hatch } from '../ops/hatch.ts';

/** The snapshots of a pretended Hatch: there are none. */
export const noSnapshots: Hatch['snapshots'] = {
  get: async (_caller, id) => {
    throw notFound('snapshot', id);
  },
  transfer: () => undefined,
  list: async () => [],
  patch: async (_caller, id) => {
    throw notFound('snapshot', id);
  },
  delete: async (_caller, id) => {
    throw notFound('snapshot', id);
  },
};

/** Nothing can be saved here; what is restored or copied is what was there. */
export function noSaving(
  own: (caller: Caller, id: string) => Vm,
): Pick<Hatch['vms'], 'snapshot' | 'restore' | 'fork'> {
  return {
    snapshot: async (caller, id) => {
      throw notFound('snapshot', own(caller, id).id);
    },
    restore: async (caller, id) => own(caller, id),
    fork: async (caller, id) => [own(caller, id)],
  };
}
