import { systemClock } from '../base/clock.ts';
import { deadline } from '../base/deadline.ts';
import { until } from '../base/until.ts';
import { isAlive, signalProcess } from '../host/process.ts';
import { run } from '../host/run.ts';
import { recover } from '../ops/recover.ts';
import { takeDown } from '../ops/take-down.ts';
import { openWorld } from './assemble.ts';
import type { Values } from './config.ts';
import { whole } from './config-values.ts';
import { claimant, dataFolder } from './data-folder.ts';
import { exists } from '../host/files.ts';
import { chooseDriver } from './driver.ts';
import { openLogger } from './logger.ts';
import { Shutdown } from './shutdown.ts';

/**
 * Ends a running hatchd, stops every guest of the data folder in order, and removes all that was made on the host: bridge,
 * taps, rules, DHCP server. Rows and disks stay. Gives the exit code.
 */
export async function downCommand(values: Values, grace: string): Promise<number> {
  let graceSeconds: number;
  try {
    graceSeconds = whole(0, 600)(grace);
  } catch (error) {
    throw new Error(`--grace ${error instanceof Error ? error.message : ''}`, { cause: error });
  }
  const data = dataFolder(values.HATCH_DATA_DIR);
  if (!(await exists(data.root))) {
    process.stdout.write(`There is nothing at ${data.root}.\n`);
    return 0;
  }
  const daemon = await claimant(data);
  if (daemon && (await signalProcess(daemon, 'SIGTERM'))) {
    process.stdout.write(`Stopping hatchd (pid ${daemon.pid}).\n`);
    await deadline('hatchd', 15_000, (signal) =>
      until({ clock: systemClock, signal }, async () => ((await isAlive(daemon)) ? undefined : true)),
    );
  }
  const log = openLogger('warn', process.stderr.isTTY);
  const shutdown = new Shutdown(log);
  try {
    const { world, late } = await openWorld(values, { log }, shutdown);
    late.driver = await chooseDriver(values, { run, log, data });
    await recover(world, AbortSignal.timeout(60_000));
    world.flights.open();
    const stopped = await takeDown(
      world,
      graceSeconds,
      (vm) => void process.stdout.write(`Stopping ${vm.name ?? vm.id}.\n`),
    );
    await world.net.down();
    process.stdout.write(
      `Down: ${stopped} guest${stopped === 1 ? '' : 's'} stopped, the network removed. Disks and rows are in ${data.root}.\n`,
    );
    return 0;
  } finally {
    await shutdown.run('down');
  }
}
