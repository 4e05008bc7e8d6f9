import assert from 'node:assert/strict';
import { forgetLocal } from './archive/evict.ts';
import { sleepVm } from './snapshot-vm.ts';
import { crashTests, idOf, type CrashCase } from '../../test/support/crash-cases.ts';

const CASES: readonly CrashCase[] = [
  {
    verb: 'snapshot',
    before: 'running',
    ask: ({ hatch, caller }, vm) => hatch.vms.snapshot(caller, idOf(vm), { keepRunning: false }),
  },
  {
    verb: 'snapshot of one that goes on',
    before: 'running',
    ask: ({ hatch, caller }, vm) => hatch.vms.snapshot(caller, idOf(vm), { keepRunning: true }),
  },
  {
    verb: 'snapshot of one that goes on over an overlay',
    before: 'running',
    qcow2: true,
    ask: ({ hatch, caller }, vm) => hatch.vms.snapshot(caller, idOf(vm), { keepRunning: true }),
  },
  {
    verb: 'restore',
    before: 'sleeping',
    ask: ({ hatch, caller }, vm) => hatch.vms.restore(caller, idOf(vm), {}),
  },
  {
    verb: 'restore in place',
    before: 'idle',
    ask: ({ hatch, caller }, vm) => hatch.vms.restore(caller, idOf(vm), {}),
  },
  {
    verb: 'restore by download',
    before: 'sleeping',
    ask: async ({ world, hatch, caller }, vm) => {
      const [snapshot] = await world.store.snapshots.ofVm(idOf(vm));
      assert.ok(snapshot);
      await hatch.snapshots.get(caller, snapshot.id, 30_000);
      assert.ok(await forgetLocal(world, snapshot));
      return hatch.vms.restore(caller, idOf(vm), {});
    },
  },
  {
    verb: 'sleep because nobody uses it',
    before: 'running',
    ask: ({ world }, vm) => sleepVm(world, { id: idOf(vm) }),
  },
  {
    verb: 'delete sleeping',
    before: 'sleeping',
    ask: ({ hatch, caller }, vm) => hatch.vms.delete(caller, idOf(vm)),
  },
];

for (const one of CASES) crashTests(one);
