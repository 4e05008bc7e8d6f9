import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { run } from '../host/run.ts';

const BIN = join(import.meta.dirname, '../../bin');
let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'launchers-'));
});
after(() => rm(folder, { recursive: true }));

test('to the shell and to Node a launcher starts its program with the same flags, hatchd with a bound on what is garbage soon', async () => {
  const told = join(folder, 'told.cjs');
  await writeFile(told, "process.stderr.write(process.execArgv.join(' ') + '\\n')");
  /** The flags of the last Node that was started to do this. */
  const flags = async (argv: readonly [string, ...string[]]): Promise<string | undefined> => {
    const env = { PATH: process.env['PATH'] ?? '', NODE_OPTIONS: `--require ${told}` };
    const { stderr } = await run([...argv, '--version'], { env });
    return stderr.trimEnd().split('\n').at(-1);
  };
  for (const [name, bounds] of [
    ['hatch', ''],
    ['hatchd', ' --max-semi-space-size=8'],
  ] as const) {
    const program = join(BIN, name);
    const wanted = `--disable-warning=ExperimentalWarning${bounds}`;
    assert.equal(await flags([program]), wanted, `${name} by its shell`);
    assert.equal(await flags([process.execPath, program]), wanted, `${name} by Node`);
  }
});
