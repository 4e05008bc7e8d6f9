import { errorFields, type Logger } from '../base/logger.ts';
import { leaveNoCoreDumps } from '../host/core-dumps.ts';
import { startDaemon, type Daemon } from './assemble.ts';
import type { Values } from './config.ts';
import { version } from './version.ts';

/** The daemon has to be gone this long after it was asked to, whatever hangs. */
const STOP_MS = 4500;

/**
 * Runs the daemon until SIGTERM or SIGINT, then ends it: guests run on. A second signal ends it at once. Gives the exit code.
 */
export async function serve(values: Values, log: Logger): Promise<number> {
  const signalled = new Promise<NodeJS.Signals>((resolve) => {
    for (const name of ['SIGTERM', 'SIGINT'] as const) {
      process.once(name, () => {
        process.once(name, () => process.exit(130));
        resolve(name);
      });
    }
  });
  process.on('uncaughtException', (error) => {
    log.error(
      errorFields(error),
      'a defect in hatchd: uncaught; it ends, and the next start settles what was under way',
    );
    process.exit(70);
  });
  await leaveNoCoreDumps().catch((error: unknown) =>
    log.warn(errorFields(error), 'a crash may leave a core dump, with keys in it or the memory of a guest'),
  );
  const stop = new AbortController();
  let daemon: Daemon;
  try {
    const starting = startDaemon(values, { log, version: version(), signal: stop.signal });
    const first = await Promise.race([starting, signalled]);
    if (typeof first === 'string') {
      stop.abort(new Error(`${first} came while hatchd was starting`));
      return await endInTime(log, async () => {
        const made = await starting.catch(() => undefined);
        await made?.shutdown.run(first);
      });
    }
    daemon = first;
  } catch (error) {
    log.error(
      errorFields(error),
      `hatchd could not start: ${error instanceof Error ? error.message : String(error)}`,
    );
    return 1;
  }
  if (daemon.firstKey !== undefined) {
    process.stderr.write(
      `\nFirst start: the admin key, also in ${daemon.data.adminKey}, is\n\n  ${daemon.firstKey}\n\n`,
    );
  }
  const why = await signalled;
  return endInTime(log, () => daemon.shutdown.run(why));
}

/** Ends the daemon; the process too, where a part hangs, or leaves something that keeps it. */
async function endInTime(log: Logger, end: () => Promise<void>): Promise<number> {
  const late = setTimeout(() => {
    log.error({ ms: STOP_MS }, 'not all parts closed in time; leaving');
    process.exit(1);
  }, STOP_MS);
  await end();
  late.unref();
  return 0;
}
