import assert from 'node:assert/strict';
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, test } from 'node:test';
import type { Migration } from 'kysely/migration';
import { systemClock } from '../../base/clock.ts';
import { silent, type Logger } from '../../base/logger.ts';
import { fails } from '../suite/support.ts';
import { migrate, migrations } from './migrate.ts';
import { openStore } from './open.ts';
import { openSqlite } from './sqlite.ts';
import { upgradeSqlite } from './upgrade-sqlite.ts';

const NOW = Date.UTC(2026, 2, 6, 10, 30, 0);
const KNOWN = migrations('sqlite');
const NAMES = Object.keys(KNOWN);

let folder = '';
let path = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-upgrade-'));
  path = join(folder, 'hatch.db');
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** A database as the Hatch that knew the first `count` migrations left it, with an account in it. */
async function madeByOlder(count: number): Promise<void> {
  const engine = await openSqlite(path);
  await migrate(engine, Object.fromEntries(Object.entries(KNOWN).slice(0, count)));
  await engine.db.destroy();
  const database = new DatabaseSync(path);
  database.exec(`insert into accounts (id, name, quotas, created_at) values ('acc-1', 'kept', '{}', 1)`);
  database.close();
}

interface Seen {
  readonly accounts: readonly string[];
  readonly migrations: readonly string[];
  readonly tables: readonly string[];
}

function look(file: string): Seen {
  const database = new DatabaseSync(file, { readOnly: true });
  const all = (text: string): string[] =>
    database
      .prepare(text)
      .all()
      .map((row) => String(Object.values(row)[0]));
  const seen = {
    accounts: all('select name from accounts'),
    migrations: all('select name from hatch_migrations order by name'),
    tables: all(`select name from sqlite_master where type = 'table'`),
  };
  database.close();
  return seen;
}

const filesOf = async (): Promise<readonly string[]> => (await readdir(folder)).sort();

for (let count = 1; count < NAMES.length; count++) {
  test(`rows of a database with ${count} of ${NAMES.length} migrations are in the new one and in the back-up`, async () => {
    await madeByOlder(count);
    const upgraded = await upgradeSqlite(path, KNOWN, NOW);
    assert.deepEqual(upgraded, {
      backup: `${path}.2026-03-06T10-30-00Z.before-${NAMES[count]}`,
      migrations: NAMES.slice(count),
    });
    assert.deepEqual(await filesOf(), ['hatch.db', basename(upgraded.backup)]);
    for (const file of [path, upgraded.backup]) assert.equal((await stat(file)).mode & 0o777, 0o600);
    const [now, then] = [look(path), look(upgraded.backup)];
    assert.deepEqual(now.migrations, NAMES);
    assert.deepEqual(now.accounts, ['kept']);
    assert.deepEqual(then.migrations, NAMES.slice(0, count));
    assert.deepEqual(then.accounts, ['kept']);
  });
}

test('nothing is done for a file that is current, not there, or still empty', async () => {
  assert.equal(await upgradeSqlite(path, KNOWN, NOW), undefined);
  assert.deepEqual(await filesOf(), []);
  await writeFile(path, '');
  assert.equal(await upgradeSqlite(path, KNOWN, NOW), undefined);
  await madeByOlder(NAMES.length);
  const { ino } = await stat(path);
  assert.equal(await upgradeSqlite(path, KNOWN, NOW), undefined);
  assert.equal((await stat(path)).ino, ino);
  assert.deepEqual(await filesOf(), ['hatch.db']);
});

test('a store says where what was there is, and its tables are those of one made new', async () => {
  await madeByOlder(1);
  const said: object[] = [];
  const log: Logger = { ...silent, info: (fields) => void said.push(fields) };
  await (await openStore(`sqlite:${path}`, { clock: systemClock, log })).close();
  const [told] = said as [{ backup?: string }?];
  assert.ok(told?.backup !== undefined && (await filesOf()).includes(basename(told.backup)));
  const fresh = join(folder, 'fresh.db');
  await (await openStore(`sqlite:${fresh}`, { clock: systemClock, log: silent })).close();
  assert.deepEqual(look(path).tables.toSorted(), look(fresh).tables.toSorted());
});

const failing = (work: Migration['up']): Record<string, Migration> => ({
  ...KNOWN,
  '999-fails': { up: work },
});

test('a migration that fails leaves the file as it was, byte for byte, and nothing beside it', async () => {
  await madeByOlder(NAMES.length);
  const before = await readFile(path);
  const known = failing(async (db) => {
    await db.schema.dropTable('routes').execute();
    throw new Error('there is no such column');
  });
  const failure = await fails(upgradeSqlite(path, known, NOW), 'unavailable');
  assert.equal(
    failure.message,
    `The database ${path} could not be brought up to date, and is as it was: there is no such column.`,
  );
  assert.ok(before.equals(await readFile(path)));
  assert.deepEqual(await filesOf(), ['hatch.db']);
});

test('one after which a row names another that is gone is not taken', async () => {
  await madeByOlder(NAMES.length);
  const database = new DatabaseSync(path, { enableForeignKeyConstraints: false });
  database.exec(`insert into routes (id, account_id, vm_id, subdomain, target_port, auto_wake, created_at, updated_at)
    values ('rt-1', 'acc-1', 'vm-gone', 'a', 80, 1, 0, 0)`);
  database.close();
  const failure = await fails(
    upgradeSqlite(
      path,
      failing(async () => undefined),
      NOW,
    ),
    'unavailable',
  );
  assert.match(failure.message, /it is not whole afterwards: a row of routes names one that is not there\.$/);
  assert.deepEqual(await filesOf(), ['hatch.db']);
});

test("it waits for nobody who holds the file, and says so; what a killed upgrade left is in nobody's way", async () => {
  await madeByOlder(2);
  const reader = new DatabaseSync(path);
  reader.prepare('select count(*) from accounts').all();
  const failure = await fails(upgradeSqlite(path, KNOWN, NOW), 'unavailable');
  assert.match(failure.message, /Another process holds the database .*hatch\.db/);
  reader.close();
  for (const end of ['', '-wal', '-shm']) await writeFile(`${path}.upgrade${end}`, 'half of something');
  assert.ok(await upgradeSqlite(path, KNOWN, NOW));
  assert.equal((await filesOf()).length, 2);
  assert.deepEqual(look(path).accounts, ['kept']);
});
