import assert from 'node:assert/strict';
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { DatabaseSync } from 'node:sqlite';
import type { Readable } from 'node:stream';
import { after, before, test } from 'node:test';
import { sql } from 'kysely';
import { systemClock } from '../../base/clock.ts';
import { newId } from '../../base/ids.ts';
import { silent } from '../../base/logger.ts';
import { furnish, NO_LIMITS } from '../fixtures.ts';
import type { Store } from '../store.ts';
import { fails, make, ownerOf } from '../suite/support.ts';
import { migrate, migrations } from './migrate.ts';
import { openStore } from './open.ts';
import { openSqlite } from './sqlite.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-sqlite-'));
});
after(() => rm(folder, { recursive: true, force: true }));

const open = (path: string): Promise<Store> =>
  openStore(`sqlite:${path}`, { clock: systemClock, log: silent });

test('the file is for its owner alone', async () => {
  const path = join(folder, 'modes.db');
  const engine = await openSqlite(path);
  await migrate(engine, migrations('sqlite'));
  const setting = async (name: string): Promise<unknown> =>
    Object.values((await sql<object>`pragma ${sql.raw(name)}`.execute(engine.db)).rows[0] ?? {})[0];
  assert.equal(await setting('journal_mode'), 'wal');
  // Flushed before it is moved into the file; the log itself by the driver.
  assert.equal(await setting('synchronous'), 1);
  assert.equal(await setting('foreign_keys'), 1);
  for (const file of [path, `${path}-wal`, `${path}-shm`]) {
    assert.equal((await stat(file)).mode & 0o777, 0o600, file);
  }
  await engine.db.destroy();
});

test('what was written is there when the store is opened again, and numbers go on', async () => {
  const path = join(folder, 'again.db');
  const first = await open(path);
  const { account, newVm } = await furnish(first);
  const vm = await make(first, newVm({ name: 'kept', labels: { a: 'b' }, userData: '#!/bin/sh' }));
  const [event] = await first.events.list({ vmId: vm.id }, { limit: 1 });
  await first.events.prune(systemClock.now() + 1000);
  await first.close();
  const second = await open(path);
  assert.deepEqual(await second.vms.get(vm.id), vm);
  assert.equal(await second.vms.userData(vm.id), '#!/bin/sh');
  const next = await second.events.add({ accountId: account.id, vmId: null, kind: 'test', message: '' });
  assert.ok(event && next.seq > event.seq);
  await second.close();
});

test('rows of a database from before routes and rests survive, their VMs can have routes, and rest since they changed', async () => {
  const path = join(folder, 'before-routes.db');
  const first = await open(path);
  const { account, newVm } = await furnish(first);
  const made = await make(first, newVm({ name: 'kept', labels: { a: 'b' }, userData: '#!/bin/sh' }));
  const vm = await first.vms.update(made.id, ownerOf(made), { state: 'snapshotted' });
  assert.ok(vm);
  const events = await first.events.list({ vmId: vm.id }, { limit: 10 });
  await first.close();
  const database = new DatabaseSync(path);
  database.exec(
    `drop table routes; drop table vm_rests; drop table vm_uses; alter table vms drop column leased_until;
     drop table idempotency_keys; drop index operations_unfinished_of_host;
     delete from hatch_migrations where name in ('004-routes', '005-idle', '006-idempotency', '007-unfinished')`,
  );
  database.close();
  const second = await open(path);
  assert.deepEqual(await second.vms.get(vm.id), vm);
  assert.deepEqual(await second.accounts.get(account.id), account);
  assert.deepEqual(await second.events.list({ vmId: vm.id }, { limit: 10 }), events);
  assert.deepEqual(await second.history.rests(vm.id), [
    { vmId: vm.id, how: 'snapshot', memMib: 512, from: vm.updatedAt, until: null },
  ]);
  const route = await second.routes.create(
    {
      id: newId('rt'),
      accountId: account.id,
      vmId: vm.id,
      subdomain: 'kept',
      domain: null,
      targetPort: 80,
      autoWake: true,
      wake: null,
    },
    { accountId: account.id, vmId: vm.id, kind: 'route.created', message: '' },
  );
  assert.deepEqual(await second.routes.byName({ subdomain: 'kept', domain: null }), route);
  await second.close();
});

test('a route is looked up by an index of its name, and has one name', async () => {
  const engine = await openSqlite(join(folder, 'names.db'));
  await migrate(engine, migrations('sqlite'));
  for (const name of ['subdomain', 'domain']) {
    const plan = await sql<{
      detail: string;
    }>`explain query plan select * from routes where ${sql.ref(name)} = ${'x'}`.execute(engine.db);
    assert.match(plan.rows[0]?.detail ?? '', new RegExp(`USING INDEX routes_${name}\\b`));
  }
  await sql`pragma foreign_keys = off`.execute(engine.db);
  const row = (id: string, subdomain: string | null, domain: string | null): Promise<unknown> =>
    sql`insert into routes (id, account_id, vm_id, subdomain, domain, target_port, auto_wake, created_at, updated_at)
      values (${id}, 'a', 'v', ${subdomain}, ${domain}, 80, 1, 0, 0)`.execute(engine.db);
  await row('one', 'a', null);
  await assert.rejects(row('none', null, null), /CHECK/i);
  await assert.rejects(row('both', 'b', 'b.example.com'), /CHECK/i);
  await engine.db.destroy();
});

test('a path that will not do is told in a sentence that says what to do', async () => {
  await writeFile(join(folder, 'plain'), 'x');
  await mkdir(join(folder, 'dir'));
  await writeFile(
    join(folder, 'garbage.db'),
    'This is no database, but it is long enough to be read as one.\n',
  );
  const cases: [string, RegExp][] = [
    ['missing/hatch.db', /^The folder .*\/missing of the database does not exist; make it first\.$/],
    ['plain/hatch.db', /\/plain, which is to hold the database, is not a folder\.$/],
    ['dir', /\/dir is a folder; DATABASE_URL must name a file: sqlite:.*\/dir\/hatch\.db\.$/],
    ['garbage.db', /^The file of the database .*\/garbage\.db is damaged, or no SQLite database; restore it/],
  ];
  for (const [path, sentence] of cases) {
    const failure = await fails(open(join(folder, path)), 'unavailable');
    assert.match(failure.message, sentence);
  }
  const device = await fails(open('/dev/null'), 'unavailable');
  assert.match(device.message, /\/dev\/null is not a regular file/);
});

test('a URL that is none is refused without quoting it', async () => {
  const urls = [
    '',
    'mysql://root:hunter2@localhost/x',
    'sqlite:',
    'sqlite::memory:',
    'hatch.db',
    'postgres://me:hunter2@host:port/x',
    'postgres://me:hunter2/x@host/x',
  ];
  for (const url of urls) {
    const failure = await fails(openStore(url, { clock: systemClock, log: silent }), 'invalid_request');
    assert.match(failure.message, /^DATABASE_URL /);
    assert.equal(failure.message.includes('hunter2'), false);
    assert.equal(String(failure.cause).includes('hunter2'), false);
  }
});

test('a database of a newer version is refused, and stays as it is', async () => {
  const path = join(folder, 'newer.db');
  await (await open(path)).close();
  const database = new DatabaseSync(path);
  database.exec("insert into hatch_migrations values ('999-future', '2030-01-01T00:00:00.000Z')");
  const failure = await fails(open(path), 'unavailable');
  assert.match(failure.message, /made by a newer Hatch \(it has 999-future, which this one does not know\)/);
  database.exec("delete from hatch_migrations where name = '999-future'");
  database.close();
  await (await open(path)).close();
});

test('a migration that fails takes back all that was done with it', async () => {
  const engine = await openSqlite(join(folder, 'half.db'));
  const broken = {
    ...migrations('sqlite'),
    '999-broken': {
      up: async (db: typeof engine.db) => {
        await db.schema.createTable('half').addColumn('id', 'text').execute();
        throw new Error('it broke here');
      },
    },
  };
  await assert.rejects(migrate(engine, broken), /it broke here/);
  const tables = (await engine.db.introspection.getTables()).map((table) => table.name);
  assert.equal(tables.includes('half'), false);
  assert.equal(tables.includes('vms'), false);
  assert.deepEqual(await migrate(engine, migrations('sqlite')), Object.keys(migrations('sqlite')));
  assert.deepEqual(await migrate(engine, migrations('sqlite')), []);
  await engine.db.destroy();
});

test('while another process holds the file a write says so, and works again afterwards', async () => {
  const path = join(folder, 'held.db');
  const store = await open(path);
  const { account, newVm } = await furnish(store);
  const other = new DatabaseSync(path);
  other.exec('begin immediate');
  const failure = await fails(make(store, newVm()), 'unavailable');
  assert.equal(
    failure.message,
    'Another process holds the database: a second hatchd, a backup or a SQLite shell. Try again when it has let go.',
  );
  assert.equal((await store.vms.use(account.id)).vms, 0);
  other.exec('rollback');
  other.close();
  await make(store, newVm());
  assert.equal((await store.vms.use(account.id)).vms, 1);
  await store.close();
});

/** A child that opens the store at `path` and runs `body` with it. */
function child(path: string, body: string): ChildProcessByStdio<null, Readable, Readable> {
  const module = (file: string): string => JSON.stringify(new URL(file, import.meta.url).href);
  const code = `
    import { openStore } from ${module('./open.ts')};
    import { systemClock } from ${module('../../base/clock.ts')};
    import { silent } from ${module('../../base/logger.ts')};
    const store = await openStore(${JSON.stringify(`sqlite:${path}`)}, { clock: systemClock, log: silent });
    ${body}`;
  return spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'pipe'] });
}

async function ended(
  started: ReturnType<typeof child>,
): Promise<{ how: number | string | null; stderr: string }> {
  const stderr: string[] = [];
  started.stderr.setEncoding('utf8').on('data', (text: string) => stderr.push(text));
  started.stdout.resume();
  const how = await new Promise<number | string | null>((resolve, reject) => {
    started.on('error', reject);
    started.on('close', (code, signal) => resolve(signal ?? code));
  });
  return { how, stderr: stderr.join('') };
}

test('daemons that start at once on one new file both find it ready', async () => {
  const path = join(folder, 'shared.db');
  const name = 'Math.random().toString(36)';
  const body = `
    for (let i = 0; i < 20; i++) {
      await store.accounts.create({ name: ${name}, quotas: { vms: null, vcpus: null, memMib: null } });
    }
    await store.close();`;
  const results = await Promise.all([1, 2, 3].map(() => ended(child(path, body))));
  for (const { how, stderr } of results) assert.equal(how, 0, stderr);
  const store = await open(path);
  assert.equal((await store.accounts.list({ limit: 100 })).length, 60);
  await store.close();
});

test('a process killed at any moment has lost no row of a journal that it was told is written', async () => {
  for (let round = 0; round < 3; round++) {
    const path = join(folder, `killed-${round}.db`);
    const store = await open(path);
    const { newVm } = await furnish(store);
    const { vm, operation } = await store.vms.create(newVm(), { limits: NO_LIMITS, args: {} });
    await store.close();
    const writer = child(
      path,
      `for (let i = 1; ; i++) {
        const row = await store.operations.record(${JSON.stringify(operation.id)}, 'step-' + i, 'begun');
        console.log(row.seq);
      }`,
    );
    const rows = randomInt(1, 60);
    const told: number[] = [];
    const end = ended(writer);
    for await (const line of createInterface({ input: writer.stdout })) {
      told.push(Number(line));
      if (told.length === rows) writer.kill('SIGKILL');
    }
    const { how, stderr } = await end;
    assert.equal(how, 'SIGKILL', stderr);
    const again = await open(path);
    const journal = await again.operations.journal(operation.id);
    assert.ok(journal.length >= told.length && told.length >= rows);
    assert.deepEqual(
      journal.map((row) => [row.seq, row.step]),
      journal.map((_, i) => [i + 1, `step-${i + 1}`]),
    );
    assert.deepEqual((await again.operations.unfinished(ownerOf(vm).hostId)).length, 1);
    await again.close();
  }
});
