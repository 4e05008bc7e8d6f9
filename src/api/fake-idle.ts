import type { Clock } from '../base/clock.ts';
import { newId } from '../base/ids.ts';
import { Failure } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import type { Caller, Hatch } from '../ops/hatch.ts';

/** The idle part of Hatch, pretended: leases are remembered, the rest is made up. */
export function fakeIdle({
  clock,
  own,
  all,
}: {
  readonly clock: Clock;
  readonly own: (caller: Caller, idOrName: string) => Vm;
  readonly all: (caller: Caller) => readonly Vm[];
}): Hatch['idle'] {
  const leases = new Map<Vm['id'], number>();
  const none = { times: 0, wakes: 0, ms: 0, gibHours: 0 };
  return {
    lease: async (caller, id, seconds) => {
      const vm = own(caller, id);
      if (vm.state !== 'running') throw new Failure('wrong_state', `The VM is ${vm.state}.`);
      const until = seconds === 0 ? null : clock.now() + seconds * 1000;
      if (until === null) leases.delete(vm.id);
      else leases.set(vm.id, until);
      return { vm, until };
    },
    why: async (caller, id) => {
      const vm = own(caller, id);
      const until = leases.get(vm.id) ?? null;
      return {
        vm,
        now: {
          is: 'awake',
          reason: until === null ? 'used' : 'leased',
          message: until === null ? 'It was last used 10 s ago.' : 'Somebody has said that it is busy.',
          until,
          signals: { idle_seconds: 10 },
        },
        events: [
          {
            id: newId('evt'),
            seq: 1,
            accountId: vm.accountId,
            vmId: vm.id,
            kind: 'vm.woken',
            message: 'Woken by http from 203.0.113.9.',
            data: { by: 'http', waiters: 3, waited_ms: 420 },
            at: clock.now() - 60_000,
          },
        ],
        asleep: { times: 2, ms: 5_400_000, gibHours: 0.75 },
        waits: { wakes: 1, visitors: 3, meanMs: 420, longestMs: 420 },
      };
    },
    simulate: async (caller, { timeoutSeconds, vm }) =>
      (vm === undefined ? all(caller) : [own(caller, vm)]).map((one) => ({
        vm: one,
        from: clock.now() - 86_400_000,
        until: clock.now(),
        was: none,
        would: { times: 4, wakes: 3, ms: 86_400_000 - timeoutSeconds * 4000, gibHours: 9.5 },
      })),
  };
}
