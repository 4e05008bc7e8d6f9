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

test('to the shell and to Node a launcher starts its program the same way, hatchd with bounds on the memory it keeps', async () => {
  const told = join(folder, 'told.cjs');
  const tell = "[...process.execArgv, 'MALLOC_ARENA_MAX=' + process.env.MALLOC_ARENA_MAX].join(' ') + '\\n'";
  await writeFile(told, `process.stderr.write(${tell})`);
  /** The flags of the last Node that was started to do this, and its arenas. */
  const way = async (argv: readonly [string, ...string[]], arenas?: string): Promise<string | undefined> => {
    const env = {
      PATH: process.env['PATH'] ?? '',
      NODE_OPTIONS: `--require ${told}`,
      ...(arenas !== undefined && { MALLOC_ARENA_MAX: arenas }),
    };
    const { stderr } = await run([...argv, '--version'], { env });
    return stderr.trimEnd().split('\n').at(-1);
  };
  const bounds = ' --max-semi-space-size=8 --heap-growing-percent=20 MALLOC_ARENA_MAX=2';
  for (const [name, wanted] of [
    ['hatch', ' MALLOC_ARENA_MAX=undefined'],
    ['hatchd', bounds],
  ] as const) {
    const program = join(BIN, name);
    for (const argv of [[program], [process.execPath, program]] as const)
      assert.equal(await way(argv), `--disable-warning=ExperimentalWarning${wanted}`, argv.join(' '));
  }
  const program = join(BIN, 'hatchd');
  for (const argv of [[program], [process.execPath, program]] as const)
    assert.match((await way(argv, '5')) ?? '', / MALLOC_ARENA_MAX=5$/, 'an operator may know better');
});
