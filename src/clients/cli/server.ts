import type { Command } from 'commander';
import { join } from 'node:path';
import type { Account, OwnAccount, Quotas } from '../../contract/account.ts';
import type { Event } from '../../contract/event.ts';
import { ApiError } from '../http.ts';
import { print, type Act } from './context.ts';
import type { Io } from './io.ts';
import { formatFields, formatTable } from './table.ts';
import { age, formatMib, parseMib, parseWhole } from './words.ts';

/** `hatch status`, `hatch events`. */
export function statusCommands(program: Command, act: Act): void {
  program
    .command('status')
    .alias('health')
    .description('whether the server lives and can serve, and what the account uses')
    .action(
      act(async (context) => {
        const { client, server } = context;
        const { version } = await client.health();
        const problem = await client.ready().then(
          () => undefined,
          (error: unknown) => {
            if (error instanceof ApiError && error.code === 'unavailable') return error.message;
            throw error;
          },
        );
        const account = server.apiKey === undefined ? undefined : await client.accounts.own();
        print(context, { url: server.url, version, ready: problem === undefined, problem, account }, () =>
          formatFields({
            Server: `${server.url} (Hatch ${version})`,
            Ready: problem ?? 'yes',
            ...(account === undefined ? { Account: 'no API key' } : usage(account)),
          }),
        );
        return problem === undefined ? 0 : 1;
      }),
    );
  program
    .command('events')
    .description('what happened, the newest last')
    .option('--vm <vm>', 'only of this VM')
    .option('--kind <kind>', 'only of this kind, such as vm.error')
    .option('--limit <n>', 'the last so many', '50')
    .option('--all', 'of every account (operators)')
    .option('-f, --follow', 'as it happens from now on, until Ctrl-C; with --json an event a line')
    .action(
      act(async (context, options: EventOptions) => {
        const { vm, kind, all } = options;
        const { client, io, json } = context;
        if (options.follow === true) {
          for await (const event of client.events.follow({ vm, kind, all }))
            io.out(`${json ? JSON.stringify(event) : sayEvent(event)}\n`);
          return 0;
        }
        const limit = parseWhole('--limit', options.limit);
        const events =
          vm === undefined
            ? await client.events.list({ kind, limit, all })
            : await client.vms.events(vm, { kind, limit });
        const filtered = vm !== undefined || kind !== undefined;
        return print(context, events, (list) => showEvents(list, filtered));
      }),
    );
}

/** `hatch account [show]|ls|create|update`. */
export function accountCommands(account: Command, act: Act): void {
  account
    .command('show', { isDefault: true })
    .description('the own account, its limits and its use')
    .action(
      act(async (context) =>
        print(context, await context.client.accounts.own(), (own) =>
          formatFields({ Id: own.id, ...usage(own) }),
        ),
      ),
    );
  account
    .command('ls')
    .alias('list')
    .description('list all accounts (operators)')
    .action(
      act(async (context) =>
        print(context, await context.client.accounts.list(), (list) => showAccounts(list, context.io.now())),
      ),
    );
  withQuotas(account.command('create'))
    .description('make an account (operators)')
    .argument('<name>', 'its name')
    .action(
      act(async (context, name: string, options: QuotaOptions) => {
        const made = await context.client.accounts.create({ name, quotas: readQuotas(options) });
        return print(
          context,
          made,
          (one) => `Account ${one.id} is there. Make it a key: hatch key create admin --account ${one.id}`,
        );
      }),
    );
  withQuotas(account.command('update'))
    .description('change an account (operators)')
    .argument('<id>', 'its id')
    .option('--name <name>', 'a new name')
    .action(
      act(async (context, id: string, options: QuotaOptions & { readonly name?: string }) => {
        const { name } = options;
        const quotas = readQuotas(options);
        const changed = await context.client.accounts.update(id, {
          ...(name === undefined ? {} : { name }),
          ...(Object.keys(quotas).length === 0 ? {} : { quotas }),
        });
        return print(context, changed, (one) => showAccounts([one], context.io.now()));
      }),
    );
}

/** `hatch doctor|config|down` and `hatch image build`: they must work without the server, so they are hatchd's own. */
export function hatchdCommands(program: Command, image: Command, io: Io, json: () => boolean): void {
  const hatchd = (parent: Command, path: readonly string[], description: string): void => {
    parent
      .command(path.at(-1) ?? '')
      .description(description)
      .helpOption(false)
      .allowUnknownOption()
      .argument('[options...]')
      .action((words: readonly string[]) =>
        io.become(join(io.root, 'bin/hatchd'), [...path, ...words, ...(json() ? ['--json'] : [])]),
      );
  };
  hatchd(program, ['doctor'], 'what this machine needs to run guests, and what it lacks (hatchd doctor)');
  hatchd(program, ['config'], "this machine's settings and where they come from (hatchd config)");
  hatchd(program, ['down'], 'stop the daemon and all guests of this machine (hatchd down)');
  hatchd(image, ['image', 'build'], 'build the default image on this machine (hatchd image build)');
}

interface QuotaOptions {
  readonly vms?: string;
  readonly cpus?: string;
  readonly memory?: string;
}

function withQuotas(command: Command): Command {
  return command
    .option('--vms <n>', 'most VMs; none: no limit of its own')
    .option('--cpus <n>', 'most virtual CPUs; none: no limit of its own')
    .option('--memory <size>', 'most memory; none: no limit of its own');
}

function readQuotas({ vms, cpus, memory }: QuotaOptions): Partial<Quotas> {
  const orNone = (text: string, read: (text: string) => number): number | null =>
    text === 'none' ? null : read(text);
  return {
    ...(vms === undefined ? {} : { vms: orNone(vms, (text) => parseWhole('--vms', text)) }),
    ...(cpus === undefined ? {} : { vcpus: orNone(cpus, (text) => parseWhole('--cpus', text)) }),
    ...(memory === undefined ? {} : { mem_mib: orNone(memory, (text) => parseMib('--memory', text)) }),
  };
}

function usage({ name, quotas, use }: OwnAccount): Record<string, string> {
  const of = (used: string | number, limit: string | number | null): string =>
    limit === null ? `${used}` : `${used} of ${limit}`;
  return {
    Account: name,
    VMs: of(use.vms, quotas.vms),
    CPUs: of(use.vcpus, quotas.vcpus),
    Memory: of(formatMib(use.mem_mib), quotas.mem_mib === null ? null : formatMib(quotas.mem_mib)),
  };
}

function showAccounts(accounts: readonly Account[], now: number): string {
  const limit = (value: number | null): string => (value === null ? 'as the server' : String(value));
  return formatTable(
    ['ID', 'NAME', 'MOST VMS', 'MOST CPUS', 'MOST MEMORY', 'AGE'],
    accounts.map(({ id, name, quotas, created_at }) => [
      id,
      name,
      limit(quotas.vms),
      limit(quotas.vcpus),
      quotas.mem_mib === null ? limit(null) : formatMib(quotas.mem_mib),
      age(created_at, now),
    ]),
  );
}

function showEvents(events: readonly Event[], filtered: boolean): string {
  if (events.length === 0)
    return filtered ? 'Nothing of that has happened yet.' : 'Nothing has happened yet.';
  return formatTable(
    ['TIME', 'KIND', 'VM', 'WHAT'],
    [...events].reverse().map(({ at, kind, vm_id, message }) => [at, kind, vm_id, message]),
  );
}

interface EventOptions {
  readonly vm?: string;
  readonly kind?: string;
  readonly limit: string;
  readonly all?: true;
  readonly follow?: true;
}

function sayEvent({ at, kind, vm_id: vm, message }: Event): string {
  return [at, kind, vm ?? '-', message].join('  ');
}
