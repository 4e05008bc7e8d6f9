import type { HatchEvent } from '../model/records.ts';
import type { Vm } from '../model/vm.ts';
import type { Caller, Hatch } from '../ops/hatch.ts';
import { pageOf } from './fake-page.ts';

/** Events that stand in a list; those that are followed are what is in it already. */
export function fakeEvents(
  events: readonly HatchEvent[],
  own: (caller: Caller, vm: string) => Vm,
): Hatch['events'] {
  const those = (
    caller: Caller,
    { vm, kind, everyone }: Parameters<Hatch['events']['list']>[1],
  ): HatchEvent[] => {
    const id = vm === undefined ? undefined : own(caller, vm).id;
    return events.filter(
      (event) =>
        (everyone === true || event.accountId === caller.accountId) &&
        (id === undefined || event.vmId === id) &&
        (kind === undefined || event.kind === kind),
    );
  };
  return {
    list: async (caller, asked, page) => pageOf(those(caller, asked), page),
    async follow(caller, asked) {
      const found = those(caller, asked);
      return (async function* () {
        yield* found;
      })();
    },
  };
}
