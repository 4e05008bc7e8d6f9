import type { Command } from 'commander';
import { HatchClient } from '../http.ts';
import { print, type Act } from './context.ts';
import { forgetLogin, keepLogin, loginFile } from './login.ts';
import { UsageError } from './words.ts';

/** `hatch login`, `hatch logout`. */
export function loginCommands(program: Command, act: Act): void {
  program
    .command('login')
    .description('keep a server and an API key, for all commands from now on')
    .argument('[url]', "the server's address (that of --url, or of this machine)")
    .action(
      act(async (context, named: string | undefined) => {
        const { io, server } = context;
        const url = named ?? server.url;
        if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol))
          throw new UsageError(`The server's address must be a URL; it is "${url}".`);
        const key = program.opts<{ apiKey?: string }>().apiKey ?? (await askForKey(context, url));
        const client = new HatchClient({ url, apiKey: key });
        try {
          // A key that is no good is not kept.
          const account = await client.accounts.own();
          keepLogin(io, { url, apiKey: key });
          return print(
            context,
            { url, account: account.name, file: loginFile(io) },
            () => `Logged in to ${url}, account ${account.name}. The key is in ${loginFile(io)}.`,
          );
        } finally {
          await client.close();
        }
      }),
    );
  program
    .command('logout')
    .description('forget the server and the key of `hatch login`; the key stays good')
    .action(
      act(async (context) => {
        const was = forgetLogin(context.io);
        return print(context, { forgotten: was }, () => (was ? 'Logged out.' : 'Nobody was logged in.'));
      }),
    );
}

async function askForKey({ io }: Parameters<typeof print>[0], url: string): Promise<string> {
  const text = io.terminal.stdin ? await io.ask(`API key for ${url}: `) : await io.readStdin();
  const key = text.trim();
  if (!/^[\x21-\x7e]+$/.test(key))
    throw new UsageError('An API key is needed: type it, pipe it in, or give it with --api-key.');
  return key;
}
