import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync, type SQLInputValue } from 'node:sqlite';
import { after, before, test } from 'node:test';
import { silent } from '../base/logger.ts';
import type { Asked } from './db/engine.ts';
import { openStore, storeOf } from './db/open.ts';
import { openSqlite } from './db/sqlite.ts';
import { storeSuite } from './store-suite.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-store-'));
});
after(() => rm(folder, { recursive: true, force: true }));

/** Every query of the suite, once, with values it had. */
const queries = new Map<string, readonly unknown[]>();

storeSuite('a store in a SQLite file', async (clock) => {
  const path = join(folder, 'hatch.db');
  await (await openStore(`sqlite:${path}`, { clock, log: silent })).close();
  const asked: Asked = ({ sql, parameters }) => void queries.set(sql, parameters);
  return storeOf({ ...(await openSqlite(path, { asked })), clock });
});

test('every query of the store finds its rows by an index', async () => {
  assert.ok(queries.size > 100, `only ${queries.size} queries were seen`);
  const database = new DatabaseSync(join(folder, 'hatch.db'));
  const scans = [...queries].flatMap(([sql, parameters]) => {
    if (!/^(select|update|delete|with)/i.test(sql)) return [];
    const plan = database.prepare(`explain query plan ${sql}`).all(...(parameters as SQLInputValue[]));
    // What walks along an index, or the table in the order of its keys, reads only as far as it is asked to (sqlite.org/eqp.html);
    // what was found before is no table.
    const walks = /order by "seq"( desc)? limit \?$/.test(sql);
    const scanned = plan
      .map(({ detail }) => String(detail))
      .filter((detail) => /^SCAN (?!CONSTANT ROW|\(subquery|counted$)/.test(detail) && !walks)
      .filter((detail) => !/USING (COVERING )?INDEX|VIRTUAL TABLE/.test(detail));
    return scanned.map((detail) => `${detail}: ${sql}`);
  });
  database.close();
  assert.deepEqual(scans, []);
});
