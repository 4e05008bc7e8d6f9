import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import type { Vm } from '../../contract/vm.ts';
import { print, waiting, type Act, type Context } from './context.ts';
import { dataFolders } from './settings.ts';
import { showMetrics } from './show-vm.ts';
import { several } from './vm.ts';
import { copyCommand } from './vm-copy.ts';
import { parsePairs, parseSeconds, parseWhole, UsageError } from './words.ts';

/** The exit code of a command that was killed at its timeout, as timeout(1) has it. */
const TIMED_OUT = 124;

const EXEC_LIMITS = `
What the command writes comes when it has ended, the first 1 MiB of each stream; standard input may have 1 MiB.
Who is interrupted leaves it running until its timeout. For more: vm ssh, and vm cp for files.`;

/** `hatch vm ssh|exec|cp|console|metrics|user-data`: ways into a guest. */
export function insideCommands(vm: Command, act: Act): void {
  vm.command('ssh')
    .description('go into a guest over SSH, or run a command there: vm ssh web -- uname -a')
    .argument('<vm>', 'its name or id, or user@name')
    .argument('[command...]', 'what to run instead of a shell; put -- before it')
    .option('-l, --user <name>', "the user (the image's default user)")
    .option('-i, --identity <file>', 'the private key (your own)')
    .action(
      act(async (context, target: string, command: readonly string[], options: SshOptions) => {
        const [user, name] = splitTarget(target);
        const found = await reachable(context, name);
        const login = options.user ?? user ?? (await context.client.images.get(found.image_id)).default_user;
        context.io.become('ssh', [...sshArguments(context, found, login, options.identity), ...command]);
        return undefined;
      }),
    );

  vm.command('exec')
    .description("run a command in a guest through its agent; ends with the command's exit code")
    .argument('<vm>', 'its name or id')
    .argument('<command...>', 'the program and its arguments; put -- before it')
    .option('-i, --stdin', 'hand on standard input')
    .option('--cwd <folder>', 'the folder it runs in')
    .option('-e, --env <key=value>', 'added to its environment; may be given again', several)
    .option('--timeout <duration>', 'when it is killed (60s)')
    .option('--wake', 'wake the VM for it when it sleeps')
    .addHelpText('after', EXEC_LIMITS)
    .action(act(execInVm));

  copyCommand(vm, act);

  vm.command('console')
    .description('what a guest wrote to its serial console')
    .argument('<vm>', 'its name or id')
    .option('-f, --follow', 'go on with what comes, until Ctrl-C')
    .option('--tail <bytes>', 'how much of the end (64 KiB)')
    .action(
      act(async ({ client, io }, name: string, options: { follow?: true; tail?: string }) => {
        const tail = options.tail === undefined ? undefined : parseWhole('--tail', options.tail);
        if (!options.follow) {
          io.out(await client.vms.console(name, { tail }));
          return undefined;
        }
        for await (const piece of client.vms.followConsole(name, { tail })) io.out(piece);
        return undefined;
      }),
    );

  vm.command('metrics')
    .description('what a running VM has used: processor, memory, disk, network')
    .argument('<vm>', 'its name or id')
    .action(
      act(async (context, name: string) =>
        print(context, await context.client.vms.metrics(name), showMetrics),
      ),
    );

  vm.command('user-data')
    .description('the user data a VM was made with, as it was given')
    .argument('<vm>', 'its name or id')
    .action(
      act(async ({ client, io }, name: string) => {
        io.out(await client.vms.userData(name));
        return undefined;
      }),
    );
}

interface SshOptions {
  readonly user?: string;
  readonly identity?: string;
}
interface ExecOptions {
  readonly stdin?: true;
  readonly cwd?: string;
  readonly env?: readonly string[];
  readonly timeout?: string;
  readonly wake?: true;
}

/** Runs a command in a guest and gives its exit code; its output is ours. */
async function execInVm(
  context: Context,
  name: string,
  command: readonly string[],
  options: ExecOptions,
): Promise<number> {
  const { io, client, json } = context;
  const request = {
    command: [...command],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.env === undefined ? {} : { env: parsePairs('--env', options.env) }),
    ...(options.timeout === undefined ? {} : { timeout_seconds: parseSeconds('--timeout', options.timeout) }),
    ...(options.stdin ? { stdin: await io.readStdin() } : {}),
  };
  const result = await waiting(
    context,
    `Running ${command[0] ?? ''} in ${name}`,
    client.vms.exec(name, request, { ...(options.wake && { wake: true }) }),
  );
  if (json) {
    print(context, result, () => '');
  } else {
    io.out(result.stdout);
    io.err(result.stderr);
    if (result.truncated)
      io.err('hatch: there was more output; only the first 1 MiB of each stream is kept\n');
    if (result.timed_out) io.err('hatch: the command took too long and was killed (see --timeout)\n');
  }
  return result.exit_code ?? TIMED_OUT;
}

/** The VM, once its guest has answered, or asleep. Throws a UsageError when it has no network or does not run. */
async function reachable(context: Context, name: string): Promise<Vm & { readonly ssh_port: number }> {
  const { client } = context;
  let vm = await client.vms.get(name);
  if (!vm.enable_network || vm.ssh_port === undefined)
    throw new UsageError(
      `${name} has no network, so there is no SSH; "hatch vm exec" goes through its agent.`,
    );
  if (vm.state === 'stopped') throw new UsageError(`${name} is stopped. Start it: hatch vm start ${name}`);
  if (vm.state === 'error')
    throw new UsageError(`${name} has failed: ${vm.state_reason?.message ?? 'no reason is known'}`);
  // One that sleeps is woken by ssh itself.
  if (!vm.ready && vm.state !== 'snapshotted') {
    const work = client.vms.get(name, { wait: 'ready', timeout: 300 });
    vm = await waiting(context, `Waiting until ${name} answers`, work);
  }
  return { ...vm, ssh_port: vm.ssh_port ?? 0 };
}

/** What ssh is called with, up to the command. Host keys are kept by the VM's id: ports are used again. */
function sshArguments(
  { io, server }: Context,
  vm: Vm & { readonly ssh_port: number },
  user: string,
  identity: string | undefined,
): readonly string[] {
  const key = identity ?? quickstartKey(io, vm);
  return [
    ...(key === undefined ? [] : ['-i', key]),
    ...['-o', `HostKeyAlias=${vm.id}`],
    ...['-o', 'StrictHostKeyChecking=accept-new'],
    // Otherwise ssh says at the first visit that it noted the host's key.
    ...['-o', 'LogLevel=ERROR'],
    ...['-o', `UserKnownHostsFile=${join(io.home, '.ssh', 'known_hosts_hatch')}`],
    ...['-p', String(vm.ssh_port)],
    ...['-l', user],
    new URL(server.url).hostname,
    '--',
  ];
}

/** The key that `npm run quickstart` made for its own VM, which its maker may not have noted. */
function quickstartKey(io: Context['io'], vm: Vm): string | undefined {
  if (vm.labels?.['quickstart-nonce'] === undefined) return undefined;
  return dataFolders(io)
    .map((folder) => join(folder, 'quickstart_ed25519'))
    .find((file) => existsSync(file));
}

function splitTarget(target: string): readonly [string | undefined, string] {
  const at = target.lastIndexOf('@');
  return at < 0 ? [undefined, target] : [target.slice(0, at), target.slice(at + 1)];
}
