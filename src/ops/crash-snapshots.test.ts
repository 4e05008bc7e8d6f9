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
    verb: 'restore',
    before: 'sleeping',
    ask: ({ hatch, caller }, vm) => hatch.vms.restore(caller, idOf(vm), {}),
  },
  {
    verb: 'delete sleeping',
    before: 'sleeping',
    ask: ({ hatch, caller }, vm) => hatch.vms.delete(caller, idOf(vm)),
  },
];

for (const one of CASES) crashTests(one);
