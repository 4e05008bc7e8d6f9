/** What `npm run service` can be told. Plain JavaScript for Node 18. */
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Stop } from './say.mjs';

export const HELP = `npm run service -- install [options]
npm run service -- uninstall [options]

install: hatchd as a service of systemd that starts with the machine, from this folder: installs
what is missing, builds the default image, and starts it. Run again, after a new version was put
into this folder, it upgrades: guests run on meanwhile.
uninstall: stops hatchd and all its guests, and removes the service, bridge, taps and rules.

  --data DIR   where images, disks and keys are kept (./data); asked for at the first install only
  --purge      uninstall: remove disks, snapshots, database, keys and settings as well
  --yes        install Debian packages, and purge, without asking
  --help       this text
`;

/** Reads the command line. Throws a Stop for what it does not know. */
export function readOptions(argv, cwd) {
  let values, positionals;
  try {
    ({ values, positionals } = parseArgs({
      args: argv,
      allowPositionals: true,
      options: {
        data: { type: 'string' },
        purge: { type: 'boolean', default: false },
        yes: { type: 'boolean', short: 'y', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }));
  } catch (error) {
    throw new Stop(`${error.message}\n\n${HELP}`);
  }
  const { purge, yes, help } = values;
  const [verb, ...more] = positionals;
  if (help) return { help };
  if (more.length > 0 || !['install', 'uninstall'].includes(verb))
    throw new Stop(`Say what to do: install or uninstall.\n\n${HELP}`);
  if (purge && verb === 'install') throw new Stop('--purge goes with uninstall.');
  const data = values.data === undefined ? undefined : path.resolve(cwd, values.data);
  return { verb, purge, yes, help, data };
}
