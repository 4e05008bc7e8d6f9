import { Command } from 'commander';
import { BadConfig, readConfig, type Values } from './config.ts';
import { configCommand } from './config-command.ts';
import { doctorCommand } from './doctor.ts';
import { downCommand } from './down.ts';
import { imageBuildCommand } from './image-build.ts';
import { openLogger } from './logger.ts';
import { serve, version } from './serve.ts';

/** hatchd: the daemon, and the commands that must work when it does not. */
const program = new Command('hatchd')
  .description(
    'Hatch: boots, keeps and deletes microVMs on this machine. Without a command it serves, in the foreground.',
  )
  .version(version())
  .exitOverride()
  .configureHelp({ showGlobalOptions: true })
  .addHelpText(
    'after',
    '\nConfiguration is by environment: `hatchd config` lists all names, values and defaults.',
  );

program
  .command('serve', { isDefault: true })
  .description('serve the API and run the guests; SIGTERM ends it and leaves the guests running')
  .action(() =>
    finish(async () => serve(configured(), openLogger(configured().HATCH_LOG_LEVEL, process.stderr.isTTY))),
  );

program
  .command('config')
  .description('print every setting, its value, where it comes from and what it means; secrets hidden')
  .option('--json', 'as JSON')
  .action((options: { json?: true }) => finish(() => configCommand(process.env, options.json === true)));

program
  .command('doctor')
  .description(
    'look at everything this machine needs to run guests, and say what to do about what is missing',
  )
  .option('--json', 'as JSON')
  .action((options: { json?: true }) => finish(() => doctorCommand(configured(), options.json === true)));

program
  .command('down')
  .description(
    'stop all guests of this data folder and remove bridge, taps, rules and DHCP server; disks stay',
  )
  .option('--grace <seconds>', 'how long guests may take to power off', '30')
  .action((options: { grace: string }) => finish(() => downCommand(configured(), options.grace)));

program
  .command('image')
  .description('the default image')
  .command('build')
  .description("build the default image from this machine's own package sources; cached by its recipe's hash")
  .option('--json', 'progress and result as JSON lines')
  .action((options: { json?: true }) => finish(() => imageBuildCommand(configured(), options.json === true)));

function configured(): Values {
  return readConfig(process.env).values;
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

try {
  await program.parseAsync(process.argv);
} catch (error) {
  // commander has said what is wrong; help and version are no failure.
  const code =
    error instanceof Error && 'exitCode' in error && typeof error.exitCode === 'number' ? error.exitCode : 1;
  process.exitCode = code === 0 ? 0 : 2;
}
