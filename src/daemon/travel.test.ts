import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';
import { systemClock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { until } from '../base/until.ts';
import { HatchClient } from '../clients/http.ts';

/** Two daemons at a time that share nothing, the second of which encrypts what it stores. */
let hosts: readonly [FakeHost, FakeHost];
let first: FakeDaemon;
let second: FakeDaemon;
const clients: HatchClient[] = [];
const logged: unknown[] = [];

before(async () => {
  hosts = [await makeFakeHost(), await makeFakeHost()];
  const keyFile = join(hosts[1].folder, 'key');
  await writeFile(keyFile, randomBytes(32).toString('hex'), { mode: 0o600 });
  const log = { child: () => log } as unknown as Logger;
  for (const level of ['debug', 'info', 'warn', 'error'])
    Reflect.set(log, level, (...line: unknown[]) => logged.push(...line));
  first = await hosts[0].start({}, { log });
  second = await hosts[1].start({ HATCH_SNAPSHOT_KEY_FILE: keyFile }, { log });
  clients.push(
    ...[first, second].map(({ daemon, key }) => new HatchClient({ url: daemon.url, apiKey: key })),
  );
});
after(async () => {
  for (const client of clients) await client.close();
  for (const host of hosts) await host.end();
});

test('a snapshot flows from one daemon into another, as it comes, and wakes there', async () => {
  const [from, to] = clients;
  assert.ok(from && to);
  const key = randomBytes(32).toString('base64');
  await from.vms.create({ name: 'web' }, { wait: 'ready' });
  await from.vms.snapshot('web', { name: 'golden' });
  const made = await to.snapshots.import(from.snapshots.export('golden', { key }), { name: 'far', key });
  assert.deepEqual([made.name, made.kind, made.differences], ['far', 'manual', []]);
  const awake = await to.vms.start(made.vm_id, { wait: 'ready' });
  assert.deepEqual([awake.name, awake.state], ['web', 'running']);
  const stored = await to.snapshots.get('far', { wait: 'stored', timeout: 30 });
  assert.equal(stored.state, 'durable');
  assert.ok(logged.length > 0);
  assert.ok(!JSON.stringify(logged).includes(key), 'the key is in no log');
  await assert.rejects(async () => {
    for await (const piece of to.snapshots.export('far')) assert.fail(`${piece.length} bytes in the clear`);
  }, /Snapshots are encrypted here/);
});

test('of an upload whose sender hangs up nothing is left', async () => {
  const [from, to] = clients;
  assert.ok(from && to);
  const before = [await to.vms.list(), await to.snapshots.list()];
  const spool = join(hosts[1].data, 'spool');
  const arrived = async (): Promise<boolean> =>
    (await readdir(spool)).some((name) => name.startsWith('import-'));
  const hangUp = new AbortController();
  async function* half(): AsyncGenerator<Uint8Array> {
    for await (const piece of clients[0]?.snapshots.export('golden') ?? []) {
      yield piece.subarray(0, 2000);
      await until({ clock: systemClock, signal: AbortSignal.timeout(10_000) }, async () =>
        (await arrived()) ? true : undefined,
      );
      hangUp.abort(new Error('enough'));
    }
  }
  await assert.rejects(to.snapshots.import(half(), { signal: hangUp.signal }), /enough/);
  await until({ clock: systemClock, signal: AbortSignal.timeout(10_000) }, async () =>
    (await arrived()) ? undefined : true,
  );
  assert.deepEqual([await to.vms.list(), await to.snapshots.list()], before);
});
