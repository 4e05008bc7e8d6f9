import { crashTests, idOf, type CrashCase } from '../../test/support/crash-cases.ts';

const CASES: readonly CrashCase[] = [
  { verb: 'create', before: 'nothing', ask: ({ hatch, caller }) => hatch.vms.create(caller, {}) },
  {
    verb: 'create without a network',
    before: 'nothing',
    ask: ({ hatch, caller }) => hatch.vms.create(caller, { enableNetwork: false }),
  },
  { verb: 'start', before: 'stopped', ask: ({ hatch, caller }, vm) => hatch.vms.start(caller, idOf(vm)) },
  {
    verb: 'stop',
    before: 'running',
    ask: ({ hatch, caller }, vm) => hatch.vms.stop(caller, idOf(vm), { graceSeconds: 1 }),
  },
  { verb: 'reboot', before: 'running', ask: ({ hatch, caller }, vm) => hatch.vms.reboot(caller, idOf(vm)) },
  {
    verb: 'delete running',
    before: 'running',
    ask: ({ hatch, caller }, vm) => hatch.vms.delete(caller, idOf(vm)),
  },
  {
    verb: 'delete stopped',
    before: 'stopped',
    ask: ({ hatch, caller }, vm) => hatch.vms.delete(caller, idOf(vm)),
  },
];

for (const one of CASES) crashTests(one);
