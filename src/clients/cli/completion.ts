import tab from '@bomb.sh/tab/commander';
import type { Command } from 'commander';
import { HatchClient } from '../http.ts';
import type { Io } from './io.ts';
import { readServer } from './settings.ts';

/** Whoever presses tab does not wait longer for names, in milliseconds. */
const NAMES_MS = 1000;

/** What an argument of this name may be, from the server. */
const NAMES: Readonly<
  Record<string, (client: HatchClient, signal: AbortSignal) => Promise<readonly string[]>>
> = {
  vm: async (client, signal) =>
    (await client.vms.list({ limit: 1000, signal })).map(({ id, name }) => name ?? id),
  snapshot: async (client, signal) =>
    (await client.snapshots.list({ limit: 1000, signal })).map(({ id, name }) => name ?? id),
  image: async (client, signal) => (await client.images.list({ limit: 1000, signal })).map(({ id }) => id),
  template: async (client, signal) =>
    (await client.templates.list({ limit: 1000, signal })).map(({ id }) => id),
};

/**
 * `hatch completion zsh|bash|fish`, and `hatch complete -- WORDS`, which the script it prints asks at each tab: commands, their options, and
 * the names of what is on the server, where that answers at once. To be called when the program has all its commands.
 */
export function completionCommands(program: Command, io: Io): void {
  const names: Record<string, readonly string[]> = {};
  const root = tab(program, { completionCommandName: 'completion' });
  for (const command of root.commands.values())
    for (const { name, variadic } of command.arguments.values())
      command.argument(
        name,
        (complete) => {
          for (const one of names[kindOf(name)] ?? []) complete(one, '');
        },
        variadic,
      );
  program.commands
    .find((command) => command.name() === 'completion')
    ?.description('print what completes commands and names at the tab key: source <(hatch completion bash)');
  program.commands
    .find((command) => command.name() === 'complete')
    ?.hook('preAction', async (_program, { args }) => {
      const [group = ''] = args;
      const list = NAMES[group];
      if (!list) return;
      const client = new HatchClient(readServer(program.opts(), io));
      try {
        names[group] = await list(client, AbortSignal.timeout(NAMES_MS));
      } catch {
        // Without a server, or a key, there are commands and options all the same.
      } finally {
        await client.close();
      }
    });
}

/** What is on the server that an argument of this name names. */
function kindOf(argument: string): string {
  return argument === 'before' || argument === 'after' ? 'snapshot' : argument;
}
