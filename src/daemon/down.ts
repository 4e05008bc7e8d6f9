import { isErrno } from '../base/errno.ts';
import { systemClock } from '../base/clock.ts';
import { deadline } from '../base/deadline.ts';
import { until } from '../base/until.ts';
import { exists } from '../host/files.ts';
import { isAlive, signalProcess, type ProcessIdentity } from '../host/process.ts';
import { run } from '../host/run.ts';
import { recover } from '../ops/recover.ts';
import { takeDown } from '../ops/take-down.ts';
import { openWorld } from './assemble.ts';
import type { Values } from './config.ts';
import { claimant, dataFolder } from './data-folder.ts';
import { chooseDriver } from './driver.ts';
import { openLogger } from './logger.ts';
import { Shutdown } from './shutdown.ts';

/**
 * Ends a running hatchd, stops every guest of the data folder in order, and removes all that was made on the host: bridge,
 * taps, rules, DHCP server. Rows and disks stay. Gives the exit code.
 */
export async function downCommand(values: Values, graceSeconds: number): Promise<number> {
  const data = dataFolder(values.HATCH_DATA_DIR);
  if (!(await exists(data.vms))) {
    process.stdout.write(`There is nothing to take down: ${data.root} is no data folder of Hatch.\n`);
    return 0;
  }
  const daemon = await claimant(data);
  if (daemon && (await askToEnd(daemon))) {
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

/** Sends SIGTERM; false when it has ended already. Throws an Error in a sentence where we may not. */
async function askToEnd(daemon: ProcessIdentity): Promise<boolean> {
  try {
    return await signalProcess(daemon, 'SIGTERM');
  } catch (error) {
    if (!isErrno(error, 'EPERM')) throw error;
    throw new Error(`hatchd (pid ${daemon.pid}) is another user's; run this as root.`, { cause: error });
  }
}
