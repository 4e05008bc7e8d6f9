import type { Command } from 'commander';
import { VmState } from '../../contract/vm.ts';
import { withIdle } from './idle-options.ts';
import { print, waiting, type Act } from './context.ts';
import { removeAll, type RemoveOptions } from './remove.ts';
import { showOutcome, showVm, showVms } from './show-vm.ts';
import {
  letsNobodyIn,
  readCreate,
  readUpdate,
  type CreateOptions,
  type UpdateOptions,
} from './vm-requests.ts';
import { parseSeconds, parseWhole, UsageError } from './words.ts';

/** Collects an option that may be given several times. */
export const several = (value: string, before: readonly string[] | undefined): readonly string[] => [
  ...(before ?? []),
  value,
];

export interface WaitFlags {
  readonly wait?: true;
  readonly timeout?: string;
}

/** `hatch vm create|ls|get|start|stop|reboot|rm|update`. */
export function vmCommands(vm: Command, act: Act): void {
  withIdle(withWait(vm.command('create')))
    .description('make a VM and start it')
    .argument('[name]', 'its name, unique in the account')
    .option('--name <name>', 'the same')
    .option('--image <id>', "the image it boots (the template's, else img-default)")
    .option('--template <id>', 'a template that serves where nothing is said here')
    .option('--snapshot <snapshot>', 'start as a copy of this snapshot, which says image and size')
    .option('--cpus <n>', 'virtual CPUs (1)')
    .option('--memory <size>', 'memory: 512, 512M, 2G (512M)')
    .option('--disk <size>', "size of the root disk (the image's)")
    .option('--ip <address>', 'its IPv4 address (the next free one)')
    .option('--mac <address>', 'its MAC address (made)')
    .option('--no-network', 'no address, no SSH')
    .option('--user-data <file>', 'cloud-init user data; - is standard input')
    .option('--ssh-key <file>', 'a public key to let in; may be given again (your own in ~/.ssh)', several)
    .option('--no-ssh-key', 'let no key in')
    .option('--autostart', 'start it again after the host rebooted')
    .option('--label <key=value>', 'a label; may be given again', several)
    .option('--boot-args <line>', "the kernel's command line (the image's)")
    .action(
      act(async (context, name: string | undefined, options: CreateOptions & WaitFlags) => {
        if (name !== undefined && options.name !== undefined && name !== options.name)
          throw new UsageError(`Two names were given, "${name}" and "${options.name}".`);
        const request = await readCreate({ ...options, ...(name === undefined ? {} : { name }) }, context.io);
        const work = context.client.vms.create(request, readWait(options));
        const keyless = options.sshKey !== false && letsNobodyIn(request);
        print(context, await waiting(context, 'Waiting for the VM', work), (one) =>
          showOutcome(one, { keyless }),
        );
        return undefined;
      }),
    );

  vm.command('ls')
    .alias('list')
    .description('list VMs, newest first')
    .option('--state <state>', `only those in this state: ${VmState.enum.join(', ')}`)
    .option('--label <key=value>', 'only those with this label; may be given again', several)
    .option('--limit <n>', 'at most so many')
    .option('--all', 'of every account (operators)')
    .option('-q, --quiet', 'only ids')
    .action(
      act(
        async (
          context,
          options: { state?: string; label?: readonly string[]; limit?: string; all?: true; quiet?: true },
        ) => {
          const state = VmState.enum.find((one) => one === options.state);
          if (options.state !== undefined && state === undefined)
            throw new UsageError(
              `--state must be one of ${VmState.enum.join(', ')}; it is "${options.state}".`,
            );
          const limit = options.limit === undefined ? undefined : parseWhole('--limit', options.limit);
          const vms = await context.client.vms.list({ state, label: options.label, limit, all: options.all });
          if (options.quiet && !context.json) {
            for (const { id } of vms) context.io.out(`${id}\n`);
            return undefined;
          }
          const filtered = state !== undefined || options.label !== undefined;
          return print(context, vms, (list) => showVms(list, context.io.now(), { filtered }));
        },
      ),
    );

  vm.command('get')
    .description('show one VM')
    .argument('<vm>', 'its name or id')
    .action(
      act(async (context, name: string) =>
        print(context, await context.client.vms.get(name), (one) => showVm(one, context.io.now())),
      ),
    );

  withWait(vm.command('start'))
    .description('start a stopped VM')
    .argument('<vm>', 'its name or id')
    .action(
      act(async (context, name: string, options: WaitFlags) => {
        const work = context.client.vms.start(name, readWait(options));
        return print(context, await waiting(context, `Starting ${name}`, work), showOutcome);
      }),
    );

  vm.command('stop')
    .description('ask a VM to shut down, and wait until it has')
    .argument('<vm>', 'its name or id')
    .option('--grace <duration>', 'how long it may take before it is killed (30s)')
    .action(
      act(async (context, name: string, options: { grace?: string }) => {
        const request =
          options.grace === undefined ? {} : { grace_seconds: parseSeconds('--grace', options.grace) };
        const work = context.client.vms.stop(name, request);
        return print(context, await waiting(context, `Stopping ${name}`, work), showOutcome);
      }),
    );

  withWait(vm.command('reboot'))
    .description('reboot a running VM')
    .argument('<vm>', 'its name or id')
    .action(
      act(async (context, name: string, options: WaitFlags) => {
        const work = context.client.vms.reboot(name, readWait(options));
        return print(context, await waiting(context, `Rebooting ${name}`, work), showOutcome);
      }),
    );

  withIdle(vm.command('update'))
    .description('change a VM; its size only while it is stopped')
    .argument('<vm>', 'its name or id')
    .option('--name <name>', 'a new name; "" takes it away')
    .option('--cpus <n>', 'virtual CPUs')
    .option('--memory <size>', 'memory: 512, 512M, 2G')
    .option('--disk <size>', 'size of the root disk; it can only grow')
    .option('--label <key=value>', 'a label, instead of all it had; may be given again', several)
    .option('--autostart', 'start it again after the host rebooted')
    .option('--no-autostart', 'leave it off then')
    .action(
      act(async (context, name: string, options: UpdateOptions) => {
        const changed = await context.client.vms.update(name, readUpdate(options));
        return print(context, changed, (one) => showVm(one, context.io.now()));
      }),
    );

  vm.command('rm')
    .alias('delete')
    .description('remove VMs for good, with their disks and snapshots')
    .argument('<vm...>', 'names or ids')
    .option('-y, --yes', 'do not ask')
    .option('-f, --force', 'the same')
    .action(
      act((context, names: readonly string[], options: RemoveOptions) =>
        removeAll(context, names, options, {
          question: `Remove ${names.join(', ')} for good, with all disks and snapshots?`,
          remove: (name) => context.client.vms.delete(name),
        }),
      ),
    );
}

/** Adds `--wait` and `--timeout` to a command. */
export function withWait(command: Command): Command {
  return command
    .option('--wait', 'wait until the guest has answered, not only until it runs')
    .option('--timeout <duration>', 'how long to wait at most (60s)');
}

/** What they ask for. Throws a UsageError. */
export function readWait({ wait, timeout }: WaitFlags): { wait?: 'ready' | 'running'; timeout?: number } {
  if (wait === undefined && timeout === undefined) return {};
  return {
    wait: wait ? 'ready' : 'running',
    ...(timeout === undefined ? {} : { timeout: parseSeconds('--timeout', timeout) }),
  };
}
