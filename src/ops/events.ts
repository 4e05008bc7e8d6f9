import { parseId } from '../base/ids.ts';
import { invalid } from '../model/failure.ts';
import { EventFeed, type EventFilter, type EventsAsked } from './event-feed.ts';
import type { Caller, Hatch } from './hatch.ts';
import { findVm } from './vms.ts';
import type { World } from './world.ts';

/** What happened to an account's VMs, or to all: as a list, and as it happens. */
export function events(world: World): Hatch['events'] {
  const { store, clock } = world;
  const feed = new EventFeed({ store, clock });
  const filterOf = async (caller: Caller, { vm, kind, everyone }: EventsAsked): Promise<EventFilter> => {
    const vmId = vm === undefined ? undefined : (await findVm(world, caller, vm)).id;
    if (kind !== undefined && !/^[a-z_.]{1,64}$/.test(kind))
      throw invalid('kind', '"kind" must be an event kind such as "vm.running".');
    return { accountId: everyone === true ? undefined : caller.accountId, vmId, kind };
  };
  return {
    list: async (caller, asked, page) => store.events.list(await filterOf(caller, asked), page),
    async follow(caller, asked, after, signal) {
      const filter = await filterOf(caller, asked);
      const id = after === undefined ? undefined : parseId('evt', after);
      if (after !== undefined && id === undefined)
        throw invalid(
          'Last-Event-ID',
          '"Last-Event-ID" must be the id of an event, such as evt-abc123def456.',
        );
      return feed.begin(filter, id, signal);
    },
  };
}
