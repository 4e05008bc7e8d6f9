import type { Command } from 'commander';
import { isSubdomain, type CreateRoute, type PatchRoute, type Route } from '../../contract/route.ts';
import { ApiError } from '../http.ts';
import { print, type Act, type Context } from './context.ts';
import { removeAll, type RemoveOptions } from './remove.ts';
import { showRoute, showRoutes } from './show-route.ts';
import { several } from './vm.ts';
import { parseWhole, UsageError } from './words.ts';

/** The port a guest is opened at where nobody says another. */
const WEB_PORT = 80;

interface WakeOptions {
  readonly autoWake?: boolean;
  readonly wakeMethods?: string;
  readonly wakePath?: readonly string[];
  readonly wakeCidrs?: string;
  readonly wakeBudget?: string;
}
interface AddOptions extends WakeOptions {
  readonly port: string;
  readonly subdomain?: string;
  readonly domain?: string;
}
interface SetOptions extends WakeOptions {
  readonly port?: string;
  readonly wakeAny?: true;
}
interface ListFlags {
  readonly limit?: string;
  readonly all?: true;
  readonly quiet?: true;
}

/** `hatch route add|ls|get|set|rm`. */
export function routeCommands(route: Command, act: Act): void {
  withWake(route.command('add'))
    .description('lead a host name to a port of a VM, in whatever state it is')
    .argument('<vm>', 'its name or id')
    .requiredOption('-p, --port <n>', "the guest's port")
    .option('--subdomain <name>', "the name under the server's domain (the VM's name)")
    .option('--domain <name>', 'a host name of your own in place of it')
    .option('--no-auto-wake', 'let no request wake the VM')
    .action(act(addRoute));

  route
    .command('ls')
    .alias('list')
    .description('list routes, newest first')
    .argument('[vm]', 'only those of this VM')
    .option('--limit <n>', 'at most so many')
    .option('--all', 'of every account (operators)')
    .option('-q, --quiet', 'only ids')
    .action(
      act(async (context, vm: string | undefined, { all, quiet, ...options }: ListFlags) => {
        if (vm !== undefined && all) throw new UsageError('A VM and --all do not go together.');
        const { routes } = context.client;
        const limit = options.limit === undefined ? undefined : parseWhole('--limit', options.limit);
        const found = await (vm === undefined ? routes.list({ all, limit }) : routes.ofVm(vm, { limit }));
        if (quiet && !context.json) {
          for (const { id } of found) context.io.out(`${id}\n`);
          return undefined;
        }
        return print(context, found, (list) => showRoutes(list, context.io.now(), vm));
      }),
    );

  route
    .command('get')
    .description('show one route')
    .argument('<route>', 'its id')
    .action(
      act(async (context, id: string) =>
        print(context, await context.client.routes.get(id), (one) => showRoute(one, context.io.now())),
      ),
    );

  withWake(route.command('set'))
    .description('change a route; rules that are given replace all it had')
    .argument('<route>', 'its id')
    .option('-p, --port <n>', "the guest's port")
    .option('--auto-wake', 'let requests wake the VM')
    .option('--no-auto-wake', 'let no request wake it')
    .option('--wake-any', 'take all rules away: any request wakes it')
    .action(
      act(async (context, id: string, options: SetOptions) => {
        const changed = await context.client.routes.update(id, readSet(options));
        return print(context, changed, (one) => showRoute(one, context.io.now()));
      }),
    );

  route
    .command('rm')
    .alias('delete')
    .description('remove routes; their VMs stay')
    .argument('<route...>', 'ids')
    .option('-y, --yes', 'do not ask')
    .option('-f, --force', 'the same')
    .action(
      act((context, ids: readonly string[], options: RemoveOptions) =>
        removeAll(context, ids, options, {
          question: `Remove ${ids.join(', ')}? Anyone may have the name then.`,
          remove: (id) => context.client.routes.delete(id),
        }),
      ),
    );
}

/** `hatch vm open`. */
export function openCommand(vm: Command, act: Act): void {
  vm.command('open')
    .description('the URL of a port of a VM; a route is made when none leads there')
    .argument('<vm>', 'its name or id')
    .option('-p, --port <n>', "the guest's port (that of its newest route, else 80)")
    .option('--browser', 'open it in a browser (xdg-open)')
    .action(
      act(async (context, name: string, options: { port?: string; browser?: true }) => {
        const route = await routeTo(context, name, options.port);
        print(context, route, ({ url }) => url);
        if (options.browser) context.io.become('xdg-open', [route.url]);
        return undefined;
      }),
    );
}

async function addRoute(context: Context, vm: string, options: AddOptions): Promise<undefined> {
  const { client, io, json } = context;
  const { subdomain, domain } = options;
  if (subdomain !== undefined && domain !== undefined)
    throw new UsageError('--subdomain and --domain do not go together: each name is a route of its own.');
  const wake = readWake(options);
  const request = {
    target_port: readPort(options.port),
    ...(subdomain === undefined ? {} : { subdomain }),
    ...(domain === undefined ? {} : { domain }),
    ...(options.autoWake === false ? { auto_wake: false } : {}),
    ...(wake === undefined ? {} : { wake }),
  };
  if (subdomain !== undefined || domain !== undefined)
    return print(context, await client.routes.create(vm, request), (one) => showAdded(one, vm));
  const own = await nameOf(context, vm);
  if (own === undefined)
    return print(
      context,
      await client.routes.create(vm, request),
      (one) =>
        `${showAdded(one, vm)}\nThe name was made, as the VM has none that would do; --subdomain gives one.`,
    );
  try {
    const made = await client.routes.create(vm, { ...request, subdomain: own });
    return print(
      context,
      made,
      (one) =>
        `${showAdded(one, vm)}\nIt is called as the VM is; --subdomain or --domain gives another name.`,
    );
  } catch (error) {
    if (isTaken(error) && !json) io.err("The VM's own name was tried; choose another with --subdomain.\n");
    throw error;
  }
}

/** The VM's newest route to the port, made when there is none: with the VM's name, or one like it when that is taken. */
async function routeTo(context: Context, vm: string, portText: string | undefined): Promise<Route> {
  const { routes } = context.client;
  const asked = portText === undefined ? undefined : readPort(portText);
  const found = await routes.ofVm(vm);
  const there = found.find((one) => asked === undefined || one.target_port === asked);
  if (there) return there;
  const port = asked ?? WEB_PORT;
  const own = await nameOf(context, vm);
  const names = own === undefined ? [] : [own, `${own}-${port}`].filter(isSubdomain);
  for (const subdomain of names) {
    try {
      return told(context, await routes.create(vm, { subdomain, target_port: port }));
    } catch (error) {
      if (!isTaken(error)) throw error;
    }
  }
  return told(context, await routes.create(vm, { target_port: port }));
}

/** Says on stderr that a route was made: on stdout is the URL alone. */
function told({ io, json }: Context, route: Route): Route {
  if (!json) io.err(`Made route ${route.id} to port ${route.target_port}.\n`);
  return route;
}

/** The VM's name where a route can be called so. */
async function nameOf({ client }: Context, vm: string): Promise<string | undefined> {
  const { name } = await client.vms.get(vm);
  return name !== undefined && isSubdomain(name) ? name : undefined;
}

function isTaken(error: unknown): boolean {
  return error instanceof ApiError && error.code === 'already_exists';
}

function showAdded(one: Route, vm: string): string {
  return `Route ${one.id} leads ${one.url} to port ${one.target_port} of ${vm}.`;
}

function withWake(command: Command): Command {
  return command
    .option('--wake-methods <list>', 'only these HTTP methods wake it: GET,POST')
    .option('--wake-path <pattern>', 'only such paths do: /api/*; may be given again', several)
    .option('--wake-cidrs <list>', 'only clients in these networks do: 10.0.0.0/8,2001:db8::/32')
    .option('--wake-budget <n>', 'at most so many wakes a day');
}

/** The rules that were given; undefined when none was. */
function readWake(options: WakeOptions): CreateRoute['wake'] {
  const { wakeMethods, wakePath, wakeCidrs, wakeBudget } = options;
  const wake = {
    ...(wakeMethods === undefined ? {} : { methods: words(wakeMethods).map((one) => one.toUpperCase()) }),
    ...(wakePath === undefined ? {} : { paths: [...wakePath] }),
    ...(wakeCidrs === undefined ? {} : { cidrs: words(wakeCidrs) }),
    ...(wakeBudget === undefined ? {} : { daily_budget: parseWhole('--wake-budget', wakeBudget) }),
  };
  return Object.keys(wake).length === 0 ? undefined : wake;
}

function readSet(options: SetOptions): PatchRoute {
  const { port, autoWake, wakeAny } = options;
  const wake = readWake(options);
  if (wake !== undefined && wakeAny) throw new UsageError('--wake-any takes all rules away; give it alone.');
  const patch: PatchRoute = {
    ...(port === undefined ? {} : { target_port: readPort(port) }),
    ...(autoWake === undefined ? {} : { auto_wake: autoWake }),
    ...(wake === undefined ? {} : { wake }),
    ...(wakeAny ? { wake: null } : {}),
  };
  if (Object.keys(patch).length === 0)
    throw new UsageError('Say what is to change: --port, --no-auto-wake, --wake-methods...');
  return patch;
}

function readPort(text: string): number {
  const port = parseWhole('--port', text);
  if (port < 1 || port > 65535) throw new UsageError(`--port must be from 1 to 65535; it is ${port}.`);
  return port;
}

function words(list: string): string[] {
  return list
    .split(',')
    .map((one) => one.trim())
    .filter((one) => one !== '');
}
