import { crashTests, idOf, type CrashCase } from '../../test/support/crash-cases.ts';

const CASES: readonly CrashCase[] = [
  {
    verb: 'fork',
    before: 'running',
    ask: ({ hatch, caller }, vm) => hatch.vms.fork(caller, idOf(vm), { count: 2, keepRunning: true }),
  },
  {
    verb: 'fork over an overlay',
    before: 'running',
    qcow2: true,
    ask: ({ hatch, caller }, vm) => hatch.vms.fork(caller, idOf(vm), { count: 1, keepRunning: true }),
  },
  {
    verb: 'fork a sleeping one',
    before: 'sleeping',
    ask: ({ hatch, caller }, vm) => hatch.vms.fork(caller, idOf(vm), { count: 1, keepRunning: true }),
  },
];

for (const one of CASES) crashTests(one);
