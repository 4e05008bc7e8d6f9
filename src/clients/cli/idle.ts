import type { Command } from 'commander';
import { print, type Act } from './context.ts';
import { showLease, showSimulation, showWhy } from './show-idle.ts';
import { parseSeconds } from './words.ts';

/** `hatch vm why|lease`: whether and why a VM is awake. */
export function awakeCommands(vm: Command, act: Act): void {
  vm.command('why')
    .description('why a VM is awake or asleep, what woke it, how long that took, and what its sleep saved')
    .argument('<vm>', 'its name or id')
    .action(
      act(async (context, name: string) =>
        print(context, await context.client.idle.why(name), (why) => showWhy(why, context.io.now())),
      ),
    );

  vm.command('lease')
    .description('keep a running VM awake for a while, up to an hour at once; 0 ends that')
    .argument('<vm>', 'its name or id')
    .argument('<duration>', 'for how long: 10m, 1h')
    .action(
      act(async (context, name: string, duration: string) => {
        const seconds = parseSeconds('<duration>', duration);
        return print(context, await context.client.idle.lease(name, { seconds }), showLease);
      }),
    );
}

/** `hatch idle simulate`: what another timeout would do. */
export function idleCommands(idle: Command, act: Act): void {
  idle
    .command('simulate')
    .description('how your VMs would have slept in the last 30 days with another timeout; changes nothing')
    .requiredOption('--timeout <duration>', 'how long nobody may have used a VM before it sleeps')
    .option('--vm <vm>', 'only this one, by its name or id')
    .action(
      act(async (context, { timeout, vm }: { timeout: string; vm?: string }) => {
        const request = {
          timeout_seconds: parseSeconds('--timeout', timeout),
          ...(vm === undefined ? {} : { vm_id: vm }),
        };
        return print(context, await context.client.idle.simulate(request), showSimulation);
      }),
    );
}
