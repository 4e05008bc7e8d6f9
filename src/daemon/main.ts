import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { nearest } from '../api/nearest.ts';
import { BadConfig, readConfig, type Values } from './config.ts';
import { whole } from './config-values.ts';
import { readSettingsFile } from './settings-file.ts';
import { startCompiled } from './start-compiled.ts';
import { version } from './version.ts';

/**
 * hatchd: the daemon, and the commands that must work when it does not. Each command imports what it needs when it is asked for: all
 * that serving needs takes a second to load, and `--version` needs none of it.
 */
const program = new Command('hatchd')
  .description(
    'Hatch: boots, keeps and deletes microVMs on this machine. Without a command it serves, in the foreground.',
  )
  .version(version())
  // Not --env-file: Node takes that for its own, wherever it stands.
  .option('--settings <path>', 'read settings from a file, NAME=value a line; those in the environment win')
  .exitOverride()
  .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'hatchd: ')) })
  .showHelpAfterError('`hatchd --help` lists the commands.')
  .configureHelp({ showGlobalOptions: true })
  .addHelpText(
    'after',
    '\nConfiguration is by environment or --settings: `hatchd config` lists all names, values and defaults.',
  );

program
  .command('serve', { isDefault: true })
  .description('serve the API and run the guests; SIGTERM ends it and leaves the guests running')
  // A word that is no command comes here, since this one may be left out.
  .allowExcessArguments()
  .action((_options: unknown, { args: [stranger] }: Command) => {
    if (stranger !== undefined) refuseCommand(stranger);
    return finish(async () => {
      const values = configured();
      await startCompiled();
      const [{ openLogger }, { serve }] = await Promise.all([import('./logger.ts'), import('./serve.ts')]);
      return serve(values, openLogger(values.HATCH_LOG_LEVEL, process.stderr.isTTY));
    });
  });

program
  .command('config')
  .description('print every setting, its value, where it comes from and what it means; secrets hidden')
  .option('--json', 'as JSON')
  .action((options: { json?: true }) =>
    finish(async () => {
      const { configCommand } = await import('./config-command.ts');
      return configCommand(environment(), options.json === true, fromFile());
    }),
  );

program
  .command('doctor')
  .description(
    'look at everything this machine needs to run guests, and say what to do about what is missing',
  )
  .option('--json', 'as JSON')
  .action((options: { json?: true }) =>
    finish(async () => {
      const { doctorCommand } = await import('./doctor.ts');
      return doctorCommand(environment(), options.json === true);
    }),
  );

program
  .command('down')
  .description(
    'stop all guests of this data folder and remove bridge, taps, rules and DHCP server; disks stay',
  )
  .option('--grace <seconds>', 'how long guests may take to power off', graceSeconds, 30)
  .option('--all', 'those of every data folder, also where its hatchd does not run any more')
  .action((options: { grace: number; all?: true }) =>
    finish(async () => {
      const values = configured();
      if (options.all) return (await import('./down-all.ts')).downAllCommand(values, options.grace);
      return (await import('./down.ts')).downCommand(values, options.grace);
    }),
  );

program
  .command('image')
  .description('the default image')
  .command('build')
  .description("build the default image from this machine's own package sources; cached by its recipe's hash")
  .option('--json', 'progress and result as JSON lines')
  .action((options: { json?: true }) =>
    finish(async () => {
      const values = configured();
      const { imageBuildCommand } = await import('./image-build.ts');
      return imageBuildCommand(values, options.json === true);
    }),
  );

function refuseCommand(word: string): void {
  const near = nearest(
    word,
    program.commands.map((command) => command.name()),
  );
  program.error(`error: there is no command "${word}".${near === undefined ? '' : ` Did you mean ${near}?`}`);
}

function graceSeconds(text: string): number {
  try {
    return whole(0, 600)(text);
  } catch (error) {
    throw new InvalidArgumentError(`It ${error instanceof Error ? error.message : String(error)}`);
  }
}

function configured(): Values {
  return readConfig(environment()).values;
}

/** The settings of --settings; none without it. */
function fromFile(): Readonly<Record<string, string>> {
  const { settings } = program.opts<{ settings?: string }>();
  return settings === undefined ? {} : readSettingsFile(settings);
}

function environment(): Readonly<Record<string, string | undefined>> {
  return { ...fromFile(), ...process.env };
}

async function finish(work: () => Promise<number>): Promise<void> {
  try {
    process.exitCode = await work();
  } catch (error) {
    process.exitCode = error instanceof BadConfig ? 2 : 1;
    const lines =
      error instanceof BadConfig ? error.problems : [error instanceof Error ? error.message : String(error)];
    for (const line of lines) process.stderr.write(`hatchd: ${line}\n`);
  }
}

// Whoever reads us may have read enough: `hatchd config | head`.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(0);
});

try {
  await program.parseAsync(process.argv);
} catch (error) {
  if (!(error instanceof CommanderError)) throw error;
  // It has been said what is wrong; help and version are no failure.
  process.exitCode = error.exitCode === 0 ? 0 : 2;
}
