import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { systemClock } from '../../src/base/clock.ts';
import { newId } from '../../src/base/ids.ts';
import { silent } from '../../src/base/logger.ts';
import { until } from '../../src/base/until.ts';
import { Failure } from '../../src/model/failure.ts';
import { migrate, migrations } from '../../src/store/db/migrate.ts';
import type { Asked } from '../../src/store/db/engine.ts';
import { openStore, storeOf } from '../../src/store/db/open.ts';
import { openPostgres } from '../../src/store/db/postgres.ts';
import { furnish, newImage, NO_LIMITS } from '../../src/store/fixtures.ts';
import { storeSuite } from '../../src/store/store-suite.ts';
import type { Store } from '../../src/store/store.ts';
import { fails, make } from '../../src/store/suite/support.ts';
import { makePostgres, PASSWORD, type Postgres } from '../support/postgres.ts';

let server: Postgres;
before(async () => {
  server = await makePostgres();
});
after(() => server.dispose());

/** Every query of the suite, once, with values it had. */
const queries = new Map<string, readonly unknown[]>();
let suiteUrl = '';

storeSuite('a store in a PostgreSQL database', async (clock) => {
  suiteUrl = await server.createDatabase('suite');
  await (await openStore(suiteUrl, { clock, log: silent })).close();
  const asked: Asked = ({ sql, parameters }) => void queries.set(sql, parameters);
  return storeOf({ ...openPostgres(suiteUrl, silent, asked), clock });
});

test('every query of the store can find its rows by an index', async () => {
  assert.ok(queries.size > 100, `only ${queries.size} queries were seen`);
  const client = new pg.Client({ connectionString: suiteUrl });
  await client.connect();
  const scans: string[] = [];
  try {
    // A small table is read whole all the same; what is left now is what it would have to do with a large one.
    await client.query('set enable_seqscan = off');
    for (const [text, parameters] of queries) {
      if (!/^(select|update|delete|with)/i.test(text)) continue;
      const { rows } = await client.query<{ 'QUERY PLAN': string }>(`explain ${text}`, [...parameters]);
      const scanned = rows.map((row) => row['QUERY PLAN'].trim()).filter((line) => line.includes('Seq Scan'));
      scans.push(...scanned.map((line) => `${line}: ${text}`));
    }
  } finally {
    await client.end();
  }
  assert.deepEqual(scans, []);
});

const open = (url: string): Promise<Store> => openStore(url, { clock: systemClock, log: silent });
const patience = (): { clock: typeof systemClock; signal: AbortSignal } => ({
  clock: systemClock,
  signal: AbortSignal.timeout(20_000),
});

/** That opening is refused in this sentence, and nothing of the failure, down to its last cause, holds the password. */
async function refused(url: string, sentence: RegExp): Promise<void> {
  const failure = await fails(open(url), 'unavailable');
  assert.match(failure.message, sentence);
  for (let error: unknown = failure; error instanceof Error; error = error.cause) {
    const shown = `${error.message} ${error.stack} ${JSON.stringify(error)}`;
    for (const secret of [PASSWORD, encodeURIComponent(PASSWORD), 'wrong-secret'])
      assert.equal(shown.includes(secret), false, shown);
  }
}

test('a server that is not there is told in a sentence, whatever way it is not there', async () => {
  const gone = /^The database server named in DATABASE_URL does not answer; look whether it runs/;
  const secret = encodeURIComponent(PASSWORD);
  const silence = createServer((socket) => socket.resume()).listen(0, '127.0.0.1');
  await once(silence, 'listening');
  const { port } = silence.address() as AddressInfo;
  await refused(`postgres://hatch:${secret}@127.0.0.1:${port}/hatch`, gone);
  silence.close();
  await once(silence, 'close');
  await refused(`postgres://hatch:${secret}@127.0.0.1:${port}/hatch`, gone);
  await refused(`postgres://hatch:${secret}@no-such-host.invalid/hatch`, gone);
  await refused(`postgres://hatch:${secret}@%2Fnonexistent/hatch`, gone);
});

test('a wrong password, user or database is told in a sentence that says what to do', async () => {
  await server.createDatabase('told');
  const wrong = /^The database server refuses the user or password in DATABASE_URL/;
  await refused(server.url('told', 'wrong-secret'), wrong);
  await refused(server.url('told').replace('//hatch:', '//nobody:'), wrong);
  const bare = server.url('told').replace(/:[^:@]+@/, '@');
  await refused(bare, /^The database server asks for a password, and DATABASE_URL has none/);
  await refused(`${server.url('told')}?sslmode=verify-full`, /^DATABASE_URL asks for TLS \(sslmode\)/);
  await refused(server.url('missing'), /^The database named in DATABASE_URL does not exist on its server/);
});

test('a database that may not be written is told in a sentence', async () => {
  await server.admin('create database foreigner');
  await refused(
    server.url('foreigner'),
    /^The user in DATABASE_URL may not do this in the database; make it/,
  );
  await server.createDatabase('standby');
  await server.admin('alter database standby set default_transaction_read_only = on');
  await refused(server.url('standby'), /^The database is read-only: a standby, or set so/);
});

test('a server without a connection left says so, and the store works when there is one again', async () => {
  const url = await server.createDatabase('crowded');
  await server.admin('alter database crowded connection limit 0');
  await refused(url, /^The database server has no connection left for hatchd/);
  await server.admin('alter database crowded connection limit 1');
  const store = await open(url);
  // Ten at once have to make do with one connection, as soon as there is one.
  const pings = await Promise.allSettled(Array.from({ length: 10 }, () => store.ping()));
  assert.ok(pings.some((ping) => ping.status === 'fulfilled'));
  for (const ping of pings) {
    if (ping.status === 'rejected')
      assert.ok(ping.reason instanceof Failure && ping.reason.code === 'unavailable', String(ping.reason));
  }
  await store.ping();
  await store.close();
});

test('daemons that start at once on one new database both find it ready', async () => {
  for (let round = 0; round < 5; round++) {
    const url = await server.createDatabase(`shared_${round}`);
    const stores = await Promise.all([1, 2, 3].map(() => open(url)));
    await Promise.all(stores.map((store) => furnish(store)));
    for (const store of stores) assert.equal((await store.accounts.list({ limit: 10 })).length, 3);
    await Promise.all(stores.map((store) => store.close()));
  }
});

test('an upgrade keeps the tables as they were in a schema beside them, which takes their place by its name', async () => {
  const url = await server.createDatabase('kept');
  const all = Object.entries(migrations('postgres'));
  const [last = ''] = all.at(-1) ?? [];
  const engine = { ...openPostgres(url, silent), clock: systemClock };
  await migrate(engine, Object.fromEntries(all.slice(0, -1)));
  const older = storeOf(engine);
  const { newVm } = await furnish(older);
  const { vm } = await older.vms.create(newVm(), { limits: NO_LIMITS, args: {} });
  const { seq } = await older.events.add({
    accountId: vm.accountId,
    vmId: vm.id,
    kind: 'vm.running',
    message: '',
  });
  await older.close();

  /** Keys and indexes of a schema, a line each, without its name. */
  const keys = async (schema: string): Promise<readonly string[]> =>
    (
      await server.admin(
        `select conrelid::regclass::text as of, conname as name, pg_get_constraintdef(oid) as text from pg_constraint
       where connamespace = '${schema}'::regnamespace
       union all select tablename, indexname, indexdef from pg_indexes where schemaname = '${schema}'`,
        'kept',
      )
    )
      .map((row) => JSON.stringify(row).replaceAll(`${schema}.`, ''))
      .toSorted();
  const before = await keys('public');
  await (await open(url)).close();
  const kept = `hatch_before_${last.replaceAll('-', '_')}`;
  const count = async (schema: string, table: string): Promise<unknown> =>
    (await server.admin(`select count(*)::int as n from ${schema}.${table}`, 'kept'))[0]?.['n'];
  assert.deepEqual([await count(kept, 'vms'), await count(kept, 'hatch_migrations')], [1, all.length - 1]);
  assert.deepEqual(await keys(kept), before);

  // Back to the version before, as docs/operate.md says, and forward once more.
  await server.admin(
    `alter schema public rename to hatch_newer; alter schema ${kept} rename to public`,
    'kept',
  );
  const again = await open(url);
  assert.equal((await again.vms.get(vm.id))?.id, vm.id);
  const next = await again.events.add({
    accountId: vm.accountId,
    vmId: vm.id,
    kind: 'vm.running',
    message: '',
  });
  assert.ok(next.seq > seq, `${next.seq} after ${seq}`);
  await again.close();
  assert.equal(await count(kept, 'vms'), 1);
});

test('a migration that fails takes back all that was done with it', async () => {
  const url = await server.createDatabase('half');
  const engine = openPostgres(url, silent);
  const broken = {
    ...migrations('postgres'),
    '999-broken': {
      up: async (db: typeof engine.db) => {
        await db.schema.createTable('half').addColumn('id', 'text').execute();
        throw new Error('it broke here');
      },
    },
  };
  await assert.rejects(migrate(engine, broken), /it broke here/);
  const tables = (await engine.db.introspection.getTables()).map((table) => table.name);
  assert.deepEqual([tables.includes('half'), tables.includes('vms')], [false, false]);
  assert.deepEqual(await migrate(engine, migrations('postgres')), Object.keys(migrations('postgres')));
  await engine.db.destroy();
  await server.admin("insert into hatch_migrations values ('999-future', '2030-01-01')", 'half');
  await refused(url, /made by a newer Hatch \(it has 999-future, which this one does not know\)/);
});

test('an image whose removal commits while a VM is made of it is told as unknown, not as a defect', async () => {
  const url = await server.createDatabase('overtaken');
  const store = await open(url);
  const { account, newVm } = await furnish(store);
  const image = await store.images.create(newImage(account, 'going'));
  const other = new pg.Client({ connectionString: url });
  await other.connect();
  await other.query('begin');
  await other.query('delete from images where id = $1', [image.id]);
  const made = fails(make(store, newVm({ imageId: image.id })), 'invalid_request');
  const waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = 'overtaken'";
  await until(patience(), async () => ((await server.admin(waiting)).length > 0 ? true : undefined));
  await other.query('commit');
  await other.end();
  assert.equal((await made).details['field'], 'image_id');
  assert.equal((await store.vms.use(account.id)).vms, 0);
  await store.close();
});

test('a server that is restarted or crashes under use costs errors with a code, and no row that was told written', async () => {
  const store = await open(await server.createDatabase('restarted'));
  const { newVm } = await furnish(store);
  const { operation } = await store.vms.create(newVm(), { limits: NO_LIMITS, args: {} });
  const told: number[] = [];
  const stop = new AbortController();
  let refusals = 0;
  const work = async (): Promise<void> => {
    while (!stop.signal.aborted) {
      try {
        told.push((await store.operations.record(operation.id, newId('layer'), 'begun')).seq);
      } catch (error) {
        assert.ok(error instanceof Failure && error.code === 'unavailable', String(error));
        refusals++;
        await systemClock.sleep(20);
      }
    }
  };
  const workers = Promise.all([work(), work(), work()]);
  for (const how of ['immediate', 'fast'] as const) {
    const before = told.length;
    await until(patience(), () => (told.length > before + 20 ? true : undefined));
    const seen = refusals;
    await server.stop(how);
    await until(patience(), () => (refusals > seen + 3 ? true : undefined));
    await server.start();
    const after = told.length;
    await until(patience(), () => (told.length > after + 20 ? true : undefined));
  }
  stop.abort();
  await workers;
  const journal = await store.operations.journal(operation.id);
  assert.deepEqual(
    journal.map((row) => row.seq),
    journal.map((_, i) => i + 1),
  );
  // A row may be there whose answer was lost, never the other way about.
  assert.ok(journal.length >= told.length);
  assert.equal(new Set(told).size, told.length);
  await store.close();
});
