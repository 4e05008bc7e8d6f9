import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { sql, type Kysely } from 'kysely';
import { Failure } from '../../model/failure.ts';
import { transact } from './engine.ts';
import { WalFlush } from './sqlite-driver.ts';
import { openSqlite } from './sqlite.ts';
import type { Tables } from './tables.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-driver-'));
});
after(() => rm(folder, { recursive: true, force: true }));

const HOSTS = sql`create table if not exists hosts (id text primary key, boot_id text, seen_at integer)`;
const add = (db: Kysely<Tables>, id: string): Promise<unknown> =>
  db.insertInto('hosts').values({ id, boot_id: '', seen_at: 0 }).execute();
const ids = async (db: Kysely<Tables>): Promise<readonly string[]> =>
  (await db.selectFrom('hosts').select('id').orderBy('id').execute()).map(({ id }) => id);

/** An engine whose flushes end when they are told to. */
async function held(name: string) {
  const flushes: PromiseWithResolvers<void>[] = [];
  const engine = await openSqlite(join(folder, name), {
    flush: () => {
      const one = Promise.withResolvers<void>();
      flushes.push(one);
      return one.promise;
    },
  });
  const made = HOSTS.execute(engine.db);
  await until(() => flushes.length === 1);
  flushes.shift()?.resolve();
  await made;
  return { engine, flushes };
}

async function until(is: () => boolean): Promise<void> {
  for (let turns = 0; !is(); turns++) {
    assert.ok(turns < 1000, 'it does not come');
    await turn();
  }
}

test('who wrote is told so when it was flushed, and holds up nobody meanwhile', async () => {
  const { engine, flushes } = await held('told.db');
  const told: string[] = [];
  const first = add(engine.db, 'a').then(() => told.push('a'));
  await until(() => flushes.length === 1);
  const second = transact(engine, (trx) => add(trx, 'b')).then(() => told.push('b'));
  await until(() => flushes.length === 2);
  assert.deepEqual(await ids(engine.db), ['a', 'b']);
  assert.deepEqual(told, []);
  flushes[1]?.resolve();
  await second;
  assert.deepEqual(told, ['b']);
  flushes[0]?.resolve();
  await first;
  await engine.db.destroy();
});

test('what reads, was rolled back or is unflushed asks for no flush', async () => {
  const { engine, flushes } = await held('none.db');
  await ids(engine.db);
  await assert.rejects(
    transact(engine, async (trx) => {
      await add(trx, 'gone');
      throw new Error('no');
    }),
    /no/,
  );
  await engine.unflushed((db) => add(db, 'lax'));
  await engine.unflushed((db) => transact({ db }, (trx) => add(trx, 'lax too')));
  assert.deepEqual(await ids(engine.db), ['lax', 'lax too']);
  assert.equal(flushes.length, 0);
  await engine.db.destroy();
});

test('a transaction has the connection for itself, whoever asks', async () => {
  const { engine } = await held('alone.db');
  const go = Promise.withResolvers<void>();
  const first = engine.unflushed((db) =>
    transact({ db }, async (trx) => {
      await add(trx, 'a');
      await go.promise;
      await add(trx, 'b');
    }),
  );
  await turn();
  const seen = ids(engine.db);
  await turn();
  go.resolve();
  await first;
  assert.deepEqual(await seen, ['a', 'b']);
  await engine.db.destroy();
});

test('a flush that fails is told to who wrote', async () => {
  const { engine, flushes } = await held('fails.db');
  const written = add(engine.db, 'a');
  await until(() => flushes.length === 1);
  flushes[0]?.reject(new Failure('unavailable', 'The disk is broken.'));
  await assert.rejects(written, /The disk is broken/);
  // The connection was given back all the same.
  assert.deepEqual(await ids(engine.db), ['a']);
  await engine.db.destroy();
});

test('the log of a database is flushed, by those who ask at once together; a log that cannot be is a failure', async () => {
  const path = join(folder, 'log.db');
  const engine = await openSqlite(path);
  await HOSTS.execute(engine.db);
  const log = new WalFlush(path);
  await Promise.all(Array.from({ length: 20 }, () => log.all()));
  assert.ok(log.rounds <= 2, `${log.rounds} rounds`);
  await log.close();
  const none = new WalFlush(join(folder, 'nothing.db'));
  await assert.rejects(none.all(), (error) => error instanceof Failure && error.code === 'unavailable');
  await none.close();
  await engine.db.destroy();
});
