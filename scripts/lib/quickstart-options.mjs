/** What `npm run quickstart` can be told. Plain JavaScript for Node 18. */
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Stop } from './say.mjs';

export const HELP = `npm run quickstart -- [options]

From a fresh clone to a real Linux guest: installs what is missing, builds the default
image, starts hatchd, makes a VM named "quickstart" and runs a command in it over SSH.
Run again, it finds what is there.

  --yes           install missing Debian packages without asking
  --once          take everything down that was started; exit code 0 only if the guest answered
  --netns NAME    keep bridge, guests and hatchd in this network namespace (made when missing)
  --port N        where the API listens on 127.0.0.1 (8080)
  --data DIR      where images, disks and keys are kept (./data)
  --help          this text
`;

/** Reads the command line. Throws a Stop for what it does not know. */
export function readOptions(argv, cwd) {
  let values;
  try {
    ({ values } = parseArgs({
      args: argv,
      options: {
        yes: { type: 'boolean', short: 'y', default: false },
        once: { type: 'boolean', default: false },
        netns: { type: 'string' },
        port: { type: 'string', default: '8080' },
        data: { type: 'string', default: 'data' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }));
  } catch (error) {
    throw new Stop(`${error.message}\n\n${HELP}`);
  }
  const port = Number(values.port);
  if (!Number.isInteger(port) || port < 1 || port > 65535)
    throw new Stop(`--port must be a whole number from 1 to 65535; it is ${values.port}.`);
  if (values.netns !== undefined && !/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$/.test(values.netns))
    throw new Stop(
      `--netns must be a name of letters, digits, dots, dashes and underscores; it is ${JSON.stringify(values.netns)}.`,
    );
  const { yes, once, netns, help } = values;
  return { yes, once, netns, help, port, data: path.resolve(cwd, values.data) };
}
