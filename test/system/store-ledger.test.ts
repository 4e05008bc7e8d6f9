import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { systemClock } from '../../src/base/clock.ts';
import { silent } from '../../src/base/logger.ts';
import { until } from '../../src/base/until.ts';
import { openStore } from '../../src/store/db/open.ts';
import type { BlobId } from '../../src/store/ledger.ts';
import type { Store } from '../../src/store/store.ts';
import { sleeper, type Sleeper } from '../../src/store/suite/stored.ts';
import { makePostgres, type Postgres } from '../support/postgres.ts';

/**
 * Who builds on a pack and who condemns it, at the same moment, in two sessions of PostgreSQL. A trigger stops the one in the
 * middle of its transaction until the test lets it go on.
 */
const GATE = 4711;
const WAITING = `select count(*)::int as count from pg_stat_activity
  where datname = current_database() and wait_event_type = 'Lock'`;

let server: Postgres;
before(async () => {
  server = await makePostgres();
});
after(() => server.dispose());

interface Bench {
  readonly store: Store;
  /** Sessions of the test's own. */
  readonly client: pg.Client;
  readonly other: pg.Client;
  readonly one: Sleeper;
  /** A pack nobody names. */
  readonly orphan: BlobId;
}

async function bench(name: string, body: (bench: Bench) => Promise<void>): Promise<void> {
  const url = await server.createDatabase(name);
  const store = await openStore(url, { clock: systemClock, log: silent });
  const client = new pg.Client({ connectionString: url });
  const other = new pg.Client({ connectionString: url });
  await Promise.all([client.connect(), other.connect()]);
  try {
    const one = await sleeper(store);
    const { snapshot, packs } = await one.durable(1);
    await store.snapshots.remove(snapshot.id);
    assert.ok(packs[0]);
    await body({ store, client, other, one, orphan: packs[0] });
  } finally {
    await Promise.all([client.end(), other.end()]);
    await store.close();
  }
}

/** Makes whoever does this to a table wait for the test. */
async function stopAt(client: pg.Client, table: string, event: string): Promise<void> {
  await client.query(`create function wait_at_gate() returns trigger language plpgsql as
    $$ begin perform pg_advisory_xact_lock(${GATE}); return null; end $$`);
  await client.query(
    `create trigger gate after ${event} on ${table} for each statement execute function wait_at_gate()`,
  );
  await client.query('select pg_advisory_lock($1)', [GATE]);
}

async function waiting(client: pg.Client, count: number): Promise<void> {
  const patience = { clock: systemClock, signal: AbortSignal.timeout(20_000) };
  await until(patience, async () => {
    const { rows } = await client.query<{ count: number }>(WAITING);
    return rows[0]?.count === count ? true : undefined;
  });
}

const openGate = (client: pg.Client): Promise<unknown> =>
  client.query('select pg_advisory_unlock($1)', [GATE]);

test('a pack that is being built on is waited for by the collector, and then stays', () =>
  bench('pin_first', async ({ store, client, one, orphan }) => {
    const lease = await one.begin(await one.save());
    await stopAt(client, 'lease_blobs', 'insert');
    const reusing = store.ledger.reuse(lease.id, [orphan]);
    await waiting(client, 1);
    const collecting = one.collect();
    await waiting(client, 2);
    await openGate(client);
    assert.deepEqual(await reusing, [orphan]);
    assert.equal((await collecting).has(orphan), false);
    assert.deepEqual(await one.states([orphan]), ['live']);
  }));

test('a pack that is being condemned is waited for by who would build on it, and is not given', () =>
  bench('condemn_first', async ({ store, client, one, orphan }) => {
    const lease = await one.begin(await one.save());
    await stopAt(client, 'blobs', 'update');
    const collecting = one.collect(3_600_000);
    await waiting(client, 1);
    const reusing = store.ledger.reuse(lease.id, [orphan]);
    await waiting(client, 2);
    await openGate(client);
    await collecting;
    assert.deepEqual(await reusing, []);
    assert.deepEqual(await one.states([orphan]), ['condemned']);
  }));

/** Begins to merge the only pack of a stored snapshot into another one; `end` publishes that. */
async function merging({ store, one }: Pick<Bench, 'store' | 'one'>) {
  const { snapshot, packs, manifest: before } = await one.durable(1);
  const [old] = packs;
  const lease = await store.ledger.beginRewriting(snapshot.id, 'elsewhere', 3_600_000);
  assert.ok(old && lease);
  const [merged, manifest] = [one.pack(), one.manifest()];
  await one.put(lease, merged, manifest);
  const end = () => store.ledger.publish(lease.id, null, one.publication(manifest, [merged.id]));
  return { old, before, merged: merged.id, end };
}

test('a pack that is merged away while an upload pins it is waited for by the collector, and then stays', () =>
  bench('merge_pinned', async ({ store, client, one }) => {
    const { old, before, end } = await merging({ store, one });
    const lease = await one.begin(await one.save());
    await stopAt(client, 'lease_blobs', 'insert');
    const reusing = store.ledger.reuse(lease.id, [old]);
    await waiting(client, 1);
    assert.equal((await end())?.state, 'durable', 'merging waits for nobody');
    const collecting = one.collect();
    await waiting(client, 2);
    await openGate(client);
    assert.deepEqual(await reusing, [old]);
    const removed = await collecting;
    assert.deepEqual([removed.has(old), removed.has(before)], [false, true]);
    assert.deepEqual(await one.states([old]), ['live']);
  }));

test('a pack that an upload pins while it is being merged away is given, and the collector leaves it', () =>
  bench('pin_merging', async ({ store, client, one }) => {
    const { old, merged, end } = await merging({ store, one });
    const lease = await one.begin(await one.save());
    await stopAt(client, 'snapshot_blobs', 'delete');
    const ending = end();
    await waiting(client, 1);
    assert.deepEqual(await store.ledger.reuse(lease.id, [old]), [old]);
    assert.equal((await one.collect()).has(old), false, 'it is named still');
    await openGate(client);
    assert.equal((await ending)?.state, 'durable');
    assert.equal((await one.collect()).has(old), false);
    assert.deepEqual(await one.states([old, merged]), ['live', 'live']);
    await store.ledger.release(lease.id);
    assert.equal((await one.collect()).has(old), true);
  }));

test('a pack that is found bad while a snapshot over it is published damages that snapshot', () =>
  bench('spoiled', async ({ store, client, one }) => {
    const first = await one.durable(1);
    const [pack] = first.packs;
    assert.ok(pack);
    const lease = await one.begin(await one.save());
    const manifest = one.manifest();
    await one.put(lease, manifest);
    await store.ledger.reuse(lease.id, [pack]);
    await stopAt(client, 'snapshot_blobs', 'insert');
    const publishing = store.ledger.publish(lease.id, one.owner, one.publication(manifest, [pack]));
    await waiting(client, 1);
    const spoiling = store.ledger.spoiled(pack, 'a byte fell over');
    await waiting(client, 2);
    await openGate(client);
    assert.equal((await publishing)?.state, 'durable');
    assert.deepEqual(new Set(await spoiling), new Set([first.snapshot.id, lease.snapshotId]));
    assert.equal((await store.snapshots.get(lease.snapshotId))?.state, 'damaged');
  }));

test('one statement that looks and condemns would take a pack that is being built on: that is why there are two', () =>
  bench('trap', async ({ store, client, other, one, orphan }) => {
    const lease = await one.begin(await one.save());
    await stopAt(client, 'lease_blobs', 'insert');
    const reusing = store.ledger.reuse(lease.id, [orphan]);
    await waiting(client, 1);
    const condemning = other.query(
      `update blobs set state = 'condemned' where id = $1
         and not exists (select 1 from lease_blobs where blob_id = blobs.id)`,
      [orphan],
    );
    await waiting(client, 2);
    await openGate(client);
    assert.deepEqual(await reusing, [orphan]);
    await condemning;
    assert.deepEqual(await one.states([orphan]), ['condemned']);
  }));
