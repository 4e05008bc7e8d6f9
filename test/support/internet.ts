import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { spawnDetached } from '../../src/host/process.ts';
import { run } from '../../src/host/run.ts';
import { makeNetns, type Netns } from './netns.ts';

const HOST = '203.0.113.2';
const INTERNET = '203.0.113.1';

/** The internet of the namespace we are in: a second one, with a name server and a web server in it. */
export interface Internet {
  /** Its name server, and its web server. */
  readonly address: string;
  /** What its name server was asked, and what its web server answered. */
  readonly log: { readonly dns: () => Promise<string>; readonly web: () => Promise<string> };
  dispose(): Promise<void>;
}

/**
 * Makes an internet behind the namespace we are in: the default route leads there, and it has none back to guests' own
 * addresses. dnsmasq says that `names` are there, nginx serves the folder `site` under all of them.
 */
export async function makeInternet({
  folder,
  site,
  names,
}: {
  readonly folder: string;
  readonly site: string;
  readonly names: readonly string[];
}): Promise<Internet> {
  const netns = await makeNetns('hinet');
  try {
    await run(['ip', 'link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'down0', 'netns', netns.name]);
    await run(['ip', 'address', 'add', `${HOST}/24`, 'dev', 'up0']);
    await run(['ip', 'link', 'set', 'dev', 'up0', 'up']);
    await run(['ip', 'route', 'add', 'default', 'via', INTERNET]);
    await netns.run(['ip', 'address', 'add', `${INTERNET}/24`, 'dev', 'down0']);
    await netns.run(['ip', 'link', 'set', 'dev', 'down0', 'up']);
    const log = { dns: join(folder, 'dnsmasq.log'), web: join(folder, 'access.log') };
    await serveNames(netns, folder, log.dns, names);
    await serveSite(netns, folder, log.web, site);
    return {
      address: INTERNET,
      log: { dns: () => readFile(log.dns, 'utf8'), web: () => readFile(log.web, 'utf8') },
      // The other end of the wire goes with it.
      dispose: () => netns.dispose(),
    };
  } catch (error) {
    await netns.dispose();
    throw error;
  }
}

async function serveNames(
  netns: Netns,
  folder: string,
  log: string,
  names: readonly string[],
): Promise<void> {
  await spawnDetached(
    netns.enter([
      ...['dnsmasq', '--keep-in-foreground', '--conf-file=/dev/null', '--pid-file='],
      ...['--no-resolv', '--no-hosts', '--bind-interfaces', `--listen-address=${INTERNET}`],
      ...['--log-queries', '--log-facility=-', ...names.map((name) => `--address=/${name}/${INTERNET}`)],
    ]),
    { cwd: folder, log },
  );
  await until({ clock: systemClock, signal: AbortSignal.timeout(10_000) }, async () =>
    (await readFile(log, 'utf8')).includes('started') ? true : undefined,
  );
}

async function serveSite(netns: Netns, folder: string, log: string, site: string): Promise<void> {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
  const configuration = `user root;
worker_processes 1;
daemon off;
pid ${folder}/nginx.pid;
error_log ${folder}/error.log;
events {}
http {
${temporary.map((name) => `  ${name}_temp_path ${folder}/${name};`).join('\n')}
  access_log ${log};
  server {
    listen ${INTERNET}:80;
    root ${site};
  }
}
`;
  await writeFile(join(folder, 'nginx.conf'), configuration);
  await spawnDetached(
    netns.enter(['nginx', '-c', `${folder}/nginx.conf`, '-e', `${folder}/error.log`, '-p', folder]),
    { cwd: folder, log: join(folder, 'nginx.log') },
  );
  const probe = { method: 'HEAD', signal: AbortSignal.timeout(10_000) };
  await until({ clock: systemClock, signal: probe.signal }, () =>
    fetch(`http://${INTERNET}/`, probe).then(
      () => true,
      () => undefined,
    ),
  );
}
