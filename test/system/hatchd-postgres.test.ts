import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { field } from '../../src/api/test-client.ts';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { reconcile } from '../../src/ops/reconcile.ts';
import { makeFakeHost } from '../support/fake-daemon.ts';
import { hatchd, serveHatchd } from '../support/hatchd-process.ts';
import { makePostgres, PASSWORD, type Postgres } from '../support/postgres.ts';

/** hatchd with its rows in a PostgreSQL server; guests are pretended, the server is not. */
let server: Postgres;
let folder = '';
before(async () => {
  server = await makePostgres();
  folder = await mkdtemp(join(tmpdir(), 'hp-'));
});
after(async () => {
  await rm(folder, { recursive: true, force: true });
  await server.dispose();
});

const withoutSecret = (text: string): string => {
  for (const secret of [PASSWORD, encodeURIComponent(PASSWORD)])
    assert.equal(text.includes(secret), false, 'the password was told');
  return text;
};

test('killed and started again it finds its guests; doctor and config tell of the database without its password', async () => {
  const env = {
    HATCH_VMM: 'fake',
    HATCH_DATA_DIR: join(folder, 'life'),
    HATCH_HTTP_ADDR: '127.0.0.1:0',
    HATCH_PROXY_ADDR: '127.0.0.1:0',
    DATABASE_URL: await server.createDatabase('life'),
  };
  const first = serveHatchd(env);
  const key = (await first.line(/^ {2}hatch_/)).trim();
  const before = await first.client(key);
  const vm = await before.vms.create({ name: 'web' }, { wait: 'ready' });
  await before.close();
  first.kill('SIGKILL');
  await first.ended;
  const second = serveHatchd(env);
  const client = await second.client(key);
  await second.line(/"msg":"ready"/);
  assert.deepEqual(
    (await client.vms.list()).map(({ id, state, ssh_port }) => [id, state, ssh_port]),
    [[vm.id, 'running', vm.ssh_port]],
  );
  await client.close();

  const doctor = await hatchd(['doctor'], env);
  assert.equal(doctor.exitCode, 0, doctor.stdout);
  assert.match(
    withoutSecret(doctor.stdout),
    /^ ok {3}database {4}postgres:\/\/hatch:\*\*\*@%2F\S+\/life answers$/m,
  );
  assert.match(
    withoutSecret((await hatchd(['config'], env)).stdout),
    /DATABASE_URL +postgres:\/\/hatch:\*\*\*@/,
  );
  const down = await hatchd(['down', '--grace', '5'], env);
  assert.match(down.stdout, /^Stopping web\.\nDown: 1 guest stopped/m);
  assert.equal((await second.ended).code, 0);
  withoutSecret(first.said() + second.said() + down.stdout + down.stderr);
});

test('a database that cannot be reached when it starts is told in a sentence, and ends it with 1', async () => {
  await server.createDatabase('refused');
  const cases: readonly [url: string, says: RegExp][] = [
    [
      server.url('refused').replace('pg-', 'gone-'),
      /hatchd could not start: The database server named in DA/,
    ],
    [
      server.url('refused', 'wrong-secret'),
      /hatchd could not start: The database server refuses the user or/,
    ],
    [
      server.url('missing'),
      /hatchd could not start: The database named in DATABASE_URL does not exist on its/,
    ],
  ];
  for (const [url, says] of cases) {
    const env = {
      HATCH_DATA_DIR: join(folder, 'refused'),
      HATCH_HTTP_ADDR: '127.0.0.1:0',
      HATCH_PROXY_ADDR: '127.0.0.1:0',
      DATABASE_URL: url,
    };
    const refused = serveHatchd(env);
    assert.deepEqual(await refused.ended, { code: 1, signal: null });
    assert.match(withoutSecret(refused.said()), says);
    assert.equal(refused.said().includes('wrong-secret'), false);
  }
});

test('while the database is away requests are told so and readyz names it; when it is back all goes on and nothing is left', async () => {
  const host = await makeFakeHost();
  try {
    const hatch = await host.start({ DATABASE_URL: await server.createDatabase('away') });
    await hatch.makeVm({ name: 'steady' });
    // Creates under way when it crashes: whatever becomes of each, its caller is told.
    const cut = Array.from({ length: 8 }, (_, i) => hatch.call('POST', '/vms', { name: `cut${i}` }));
    await server.stop('immediate');
    for (const { status, body } of await Promise.all(cut))
      assert.ok(status === 201 || field(body, 'code') === 'unavailable', JSON.stringify(body));

    const says = /^The database server named in DATABASE_URL does not answer; look whether it runs/;
    for (const [method, path] of [
      ['POST', '/vms'],
      ['GET', '/vms'],
      ['POST', '/vms/steady/stop'],
    ] as const)
      assert.match((await hatch.refused('unavailable', method, path)).error, says);
    const ready = await hatch.refused('unavailable', 'GET', '/readyz', undefined, { key: null });
    assert.equal(field(ready.details['missing'], 0, 'part'), 'store');
    assert.equal((await hatch.call('GET', '/healthz', undefined, { key: null })).status, 200);

    await server.start();
    await until({ clock: systemClock, signal: AbortSignal.timeout(20_000) }, async () =>
      (await hatch.call('GET', '/readyz')).status === 200 ? true : undefined,
    );
    // What the loop does every minute.
    await reconcile(hatch.daemon.world);
    await hatch.assertNothingLeft();
    const names = (await hatch.call('GET', '/vms')).body as { name: string; state: string }[];
    assert.equal(names.find(({ name }) => name === 'steady')?.state, 'running');
    for (const { name } of names)
      assert.equal((await hatch.call('DELETE', `/vms/${name}`)).status, 200, name);
    assert.equal((await hatch.makeVm({}))['state'], 'running');
  } finally {
    await host.end();
  }
});

test('a database that hangs and says nothing keeps no one waiting for readyz', async () => {
  const host = await makeFakeHost();
  try {
    const hatch = await host.start({ DATABASE_URL: await server.createDatabase('silent') });
    await server.signal('SIGSTOP');
    const from = performance.now();
    try {
      const { error } = await hatch.refused('unavailable', 'GET', '/readyz');
      assert.equal(error, 'Not ready: The database has not answered within 3 s.');
      assert.ok(performance.now() - from < 6000);
    } finally {
      await server.signal('SIGCONT');
    }
    assert.equal((await hatch.call('GET', '/readyz')).status, 200);
  } finally {
    await host.end();
  }
});
