import { createRequire } from 'node:module';
import { Command, CommanderError } from 'commander';
import { completionCommands } from './completion.ts';
import { acting } from './context.ts';
import { describeFailure, EXIT, exitCodeOf, failureJson } from './failure.ts';
import type { Io } from './io.ts';
import { awakeCommands, idleCommands } from './idle.ts';
import { imageCommands, keyCommands, templateCommands } from './resources.ts';
import { openCommand, routeCommands } from './route.ts';
import { loginCommands } from './login-commands.ts';
import { accountCommands, hatchdCommands, statusCommands } from './server.ts';
import { DEFAULT_URL } from './settings.ts';
import { savingCommands, snapshotCommands } from './snapshot.ts';
import { insideCommands } from './vm-inside.ts';
import { vmCommands } from './vm.ts';

const { version: VERSION } = createRequire(import.meta.url)('../../../package.json') as {
  readonly version: string;
};

const EPILOGUE = `
Exit codes: 0 done, 1 failed, 2 wrong use or a field refused, 3 not found, 4 conflict or wrong state,
5 no server answers, 6 no key or not allowed. "vm exec" ends with the guest command's own.

The server is --url, else HATCH_URL, else ${DEFAULT_URL}. The key is --api-key, else HATCH_API_KEY,
else, for a server on this machine, the admin key in HATCH_DATA_DIR or ./data.`;

/** Runs \`hatch\` with these words (without the program's own name) and gives the exit code. */
export async function runCli(words: readonly string[], io: Io): Promise<number> {
  let exitCode = 0;
  const program = build(io, (code) => {
    exitCode = code;
  });
  try {
    await program.parseAsync([...words], { from: 'user' });
    return exitCode;
  } catch (error) {
    // commander has said by then what is wrong, or has shown the help that was asked for.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT.usage;
    const json = program.opts<{ json?: true }>().json === true;
    io.err(json ? `${failureJson(error)}\n` : `hatch: ${describeFailure(error)}\n`);
    return exitCodeOf(error);
  }
}

function build(io: Io, end: (code: number) => void): Command {
  const program = new Command('hatch')
    .description('Make and use microVMs on a Hatch server.')
    .version(VERSION, '--version', 'the version of this command')
    .option('--url <url>', 'the server')
    .option('--api-key <key>', 'the key to use')
    .option('--json', "print the API's own JSON")
    .addHelpText('after', EPILOGUE)
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({ writeOut: io.out, writeErr: io.err })
    .showHelpAfterError('("hatch --help" and "hatch <command> --help" say more)')
    .exitOverride();
  const act = acting(program, io, end);
  const group = (name: string, description: string): Command =>
    program.command(name).description(description).exitOverride();

  const vm = group('vm', 'VMs: make, see, start, stop, enter, save, copy, remove');
  vmCommands(vm, act);
  insideCommands(vm, act);
  savingCommands(vm, act);
  awakeCommands(vm, act);
  openCommand(vm, act);
  snapshotCommands(group('snapshot', 'saved VMs: see, name, prove, look inside, compare, remove'), act);
  routeCommands(group('route', 'host names that lead to ports of guests: add, see, change, remove'), act);
  idleCommands(group('idle', 'how VMs sleep that nobody uses'), act);
  const image = group('image', 'images VMs boot from');
  imageCommands(image, act);
  templateCommands(group('template', 'settings for VMs made from them'), act);
  keyCommands(group('key', 'API keys'), act);
  accountCommands(group('account', 'accounts and their limits'), act);
  loginCommands(program, act);
  statusCommands(program, act);
  hatchdCommands(program, image, io, () => program.opts<{ json?: true }>().json === true);
  completionCommands(program, io);
  return program;
}
