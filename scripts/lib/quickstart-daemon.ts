import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiError, HatchClient, Unreachable } from '../../src/clients/http.ts';
import { isAlive, spawnDetached, type Detached } from '../../src/host/process.ts';
import { Stop } from './say.mjs';

export interface Daemon {
  readonly url: string;
  readonly client: HatchClient;
  /** Whether it was started here, or ran already. */
  readonly started: boolean;
  readonly log: string;
}

interface Place {
  readonly root: string;
  readonly data: string;
  readonly port: number;
}

const START_MS = 60_000;

/** Finds hatchd at work on this data folder, or starts it there. Throws a Stop when it cannot be, saying what to do. */
export async function findOrStartDaemon(
  place: Place,
  progress: (text: string) => void,
  signal: AbortSignal,
): Promise<Daemon> {
  const url = `http://127.0.0.1:${place.port}`;
  const log = join(place.data, 'hatchd.log');
  const found = await whoListens(url, signal);
  if (found === 'nobody') {
    progress('starting');
    const daemon = await spawnDetached([join(place.root, 'bin/hatchd')], {
      cwd: place.root,
      log,
      env: { ...settings(), HATCH_DATA_DIR: place.data, HATCH_HTTP_ADDR: `127.0.0.1:${place.port}` },
    });
    await untilReady({ url, log, daemon }, progress, signal);
  } else if (found === 'other') {
    throw new Stop(`Something that is not Hatch listens on port ${place.port}. Choose another: --port 8081.`);
  }
  const client = new HatchClient({ url, apiKey: await readAdminKey(place.data) });
  if (found !== 'nobody') await mustBeOurs(client, place, signal);
  return { url, client, started: found === 'nobody', log };
}

/** The key that the first start made. Throws a Stop when it is not there. */
async function readAdminKey(data: string): Promise<string> {
  try {
    return (await readFile(join(data, 'admin-key'), 'utf8')).trim();
  } catch (cause) {
    throw new Stop(
      `There is no admin key in ${data}; was it removed? A new data folder gets a new one: --data DIR.`,
      {
        cause,
      },
    );
  }
}

async function whoListens(url: string, signal: AbortSignal): Promise<'hatch' | 'other' | 'nobody'> {
  const client = new HatchClient({ url });
  try {
    const { status } = await client.health({ signal: AbortSignal.any([signal, AbortSignal.timeout(5000)]) });
    return status === 'ok' ? 'hatch' : 'other';
  } catch (error) {
    if (signal.aborted) throw error;
    return error instanceof Unreachable && /refused/.test(error.message) ? 'nobody' : 'other';
  } finally {
    await client.close();
  }
}

async function mustBeOurs(client: HatchClient, { port, data }: Place, signal: AbortSignal): Promise<void> {
  try {
    await client.accounts.own({ signal });
  } catch (error) {
    if (!(error instanceof ApiError) || error.code !== 'unauthorized') throw error;
    throw new Stop(
      `The hatchd on port ${port} does not work on ${data}: it does not know the key there. Choose another port (--port 8081) or its data folder (--data DIR).`,
    );
  }
}

/** Waits until it can serve; what is missing is shown meanwhile. Throws a Stop with the end of its log. */
async function untilReady(
  { url, log, daemon }: { readonly url: string; readonly log: string; readonly daemon: Detached },
  progress: (text: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const client = new HatchClient({ url });
  const deadline = Date.now() + START_MS;
  let missing = 'it does not answer';
  try {
    while (Date.now() < deadline) {
      try {
        await client.ready({ signal });
        return;
      } catch (error) {
        if (signal.aborted) throw error;
        if (error instanceof ApiError) missing = error.message;
        progress(missing);
      }
      if (!(await isAlive(daemon.identity)))
        throw new Stop(`hatchd ended instead of serving. The end of ${log}:\n${await lastLines(log)}`);
      await sleep(200, undefined, { signal });
    }
  } finally {
    await client.close();
  }
  throw new Stop(
    `hatchd runs but is not ready after ${START_MS / 1000} s: ${missing}\nbin/hatchd doctor says what this machine lacks. The end of ${log}:\n${await lastLines(log)}`,
  );
}

async function lastLines(log: string): Promise<string> {
  const text = await readFile(log, 'utf8').catch(() => '');
  return text
    .trimEnd()
    .split('\n')
    .slice(-8)
    .map((line) => `    ${line}`)
    .join('\n');
}

/** The person's own settings of hatchd; the rest of the environment is not its business. */
function settings(): Record<string, string> {
  return Object.fromEntries(
    Object.entries(process.env).filter(
      (entry): entry is [string, string] =>
        entry[1] !== undefined && (entry[0] === 'DATABASE_URL' || entry[0].startsWith('HATCH_')),
    ),
  );
}
