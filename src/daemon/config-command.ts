import { hostname } from 'node:os';
import Table from 'cli-table3';
import { describeConfig, readConfig } from './config.ts';
import { dataFolder } from './data-folder.ts';

/**
 * Prints the configuration: a table for people, JSON for programs; `fromFile`: what of it --settings says. Gives the exit code; throws
 * BadConfig.
 */
export async function configCommand(
  env: Readonly<Record<string, string | undefined>>,
  json: boolean,
  fromFile: Readonly<Record<string, string>> = {},
): Promise<number> {
  const read = readConfig(env);
  const data = dataFolder(read.values.HATCH_DATA_DIR);
  const described = describeConfig(env, read, {
    DATABASE_URL: `sqlite:${data.database}`,
    HATCH_DATA_DIR: data.root,
    HATCH_HOST_NAME: hostname(),
    HATCH_IMAGE_DIRS: data.images,
  });
  const rows = described.map((row) => ({
    ...row,
    source: row.source === 'environment' && fromFile[row.name] === env[row.name] ? 'file' : row.source,
  }));
  if (json) {
    process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`);
    return 0;
  }
  const table = new Table({
    head: ['NAME', 'VALUE', 'SOURCE', 'MEANING'],
    chars: {
      mid: '',
      'left-mid': '',
      'mid-mid': '',
      'right-mid': '',
      top: '',
      'top-mid': '',
      'top-left': '',
      'top-right': '',
      bottom: '',
      'bottom-mid': '',
      'bottom-left': '',
      'bottom-right': '',
      left: '',
      right: '',
      middle: '  ',
    },
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
  });
  for (const { name, value, source, about } of rows) table.push([name, value ?? '-', source, about]);
  process.stdout.write(`${table.toString()}\n`);
  return 0;
}
