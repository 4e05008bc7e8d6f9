import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Check } from 'typebox/value';
import { ForkVm, PatchSnapshot, RestoreVm, Snapshot, SnapshotVm } from '../contract/snapshot.ts';
import { CreateVm } from '../contract/vm.ts';
import { field, fields, testApi, type TestApi } from './test-client.ts';

const SNAPSHOT = 'a snapshot’s id \\(snap-abc123def456\\) or its name';

/** An API with a running VM `web`. */
async function withVm(): Promise<TestApi & { readonly vm: string }> {
  const api = await testApi();
  const { body } = await api.call('POST', '/vms', { name: 'web', labels: { tier: 'web' } });
  return { ...api, vm: String(field(body, 'id')) };
}

/** Saves `web` while it runs; gives the snapshot's id. */
async function saved(api: TestApi, name?: string): Promise<string> {
  const { body } = await api.call('POST', '/vms/web/snapshot', {
    keep_running: true,
    ...(name === undefined ? {} : { name }),
  });
  return String(field(body, 'id'));
}

test('saving a VM answers 201 with where its snapshot is, and the VM sleeps with its addresses', async () => {
  const api = await withVm();
  const before = fields((await api.call('GET', '/vms/web')).body);
  const made = await api.call('POST', '/vms/web/snapshot');
  assert.equal(made.status, 201);
  assert.equal(made.headers['location'], `/snapshots/${String(field(made.body, 'id'))}`);
  assert.deepEqual(
    ['vm_id', 'kind', 'state', 'mem_mib', 'vmm', 'created_at'].map((name) => field(made.body, name)),
    [api.vm, 'manual', 'local', 512, 'fake 1', '2026-03-06T10:30:00Z'],
  );
  assert.ok(!Object.hasOwn(fields(made.body), 'name') && !Object.hasOwn(fields(made.body), 'stored_bytes'));
  assert.doesNotMatch(made.text, /layer|host|account|instance/, 'nothing of the host’s is told');
  const asleep = fields((await api.call('GET', '/vms/web')).body);
  assert.equal(asleep['state'], 'snapshotted');
  for (const name of ['guest_ip', 'guest_mac', 'ssh_port']) assert.equal(asleep[name], before[name]);
  assert.deepEqual((await api.call('GET', String(made.headers['location']))).body, made.body);
});

test('a VM that is saved with keep_running goes on, and each snapshot names the one before', async () => {
  const api = await withVm();
  const first = await saved(api, 'first');
  const second = await saved(api);
  assert.equal(field((await api.call('GET', '/vms/web')).body, 'state'), 'running');
  assert.equal(field((await api.call('GET', `/snapshots/${second}`)).body, 'parent_id'), first);
  assert.equal(field((await api.call('GET', '/snapshots/first')).body, 'id'), first);
});

test('what a snapshot has a value for is shown', async () => {
  const api = await withVm();
  const id = await saved(api, 'golden');
  const row = api.hatch.snapshotRows.get(id);
  assert.ok(row);
  const verifiedAt = api.clock.now() + 1500;
  api.hatch.snapshotRows.set(id, {
    ...row,
    state: 'damaged',
    storedBytes: 4096,
    verifiedAt,
    problem: 'A pack is gone.',
  });
  const shown = fields((await api.call('GET', '/snapshots/golden')).body);
  assert.deepEqual(
    ['name', 'state', 'stored_bytes', 'verified_at', 'problem'].map((name) => shown[name]),
    ['golden', 'damaged', 4096, '2026-03-06T10:30:01.500Z', 'A pack is gone.'],
  );
});

test('a wait for the durable copy is 201 or 200 once it is there, else 504, and its bytes on their way are told', async () => {
  const api = await withVm();
  const late = await api.refused('timeout', 'POST', '/vms/web/snapshot?wait=stored&timeout=7', {
    name: 'golden',
    keep_running: true,
  });
  assert.match(late.error, /7 s/);
  const row = [...api.hatch.snapshotRows.values()][0];
  assert.ok(row);
  api.hatch.transfers.set(row.id, { what: 'store', done: 5, total: 10 });
  const moving = { direction: 'store', done_bytes: 5, total_bytes: 10 };
  assert.deepEqual(field((await api.call('GET', '/snapshots/golden')).body, 'transfer'), moving);
  assert.deepEqual(field((await api.call('GET', '/snapshots')).body, 0, 'transfer'), moving);
  assert.match((await api.refused('timeout', 'GET', '/snapshots/golden?wait=stored')).error, /60 s/);
  api.hatch.transfers.clear();
  api.hatch.snapshotRows.set(row.id, { ...row, state: 'durable' });
  const there = await api.call('GET', '/snapshots/golden?wait=stored');
  assert.deepEqual([there.status, field(there.body, 'state')], [200, 'durable']);
  assert.ok(!Object.hasOwn(fields(there.body), 'transfer'));
});

test('snapshots are listed newest first, of all VMs or of one, page by page', async () => {
  const api = await withVm();
  await api.call('POST', '/vms', { name: 'db' });
  const made = [await saved(api), await saved(api), await saved(api)].toReversed();
  const other = await api.call('POST', '/vms/db/snapshot', {});
  const ids = (body: unknown): unknown[] => (Array.isArray(body) ? body.map((row) => field(row, 'id')) : []);
  assert.deepEqual(ids((await api.call('GET', '/snapshots')).body), [field(other.body, 'id'), ...made]);
  assert.deepEqual(ids((await api.call('GET', '/vms/web/snapshots')).body), made);
  const page = await api.call('GET', '/vms/web/snapshots?limit=2');
  assert.deepEqual(ids(page.body), made.slice(0, 2));
  const next = /^<([^>]+)>; rel="next"$/.exec(String(page.headers['link']))?.[1] ?? '';
  assert.match(next, /^\/vms\/web\/snapshots\?limit=2&after=snap-/);
  const last = await api.call('GET', next);
  assert.deepEqual([ids(last.body), last.headers['link']], [made.slice(2), undefined]);
  await api.call('POST', '/vms', { name: 'idle' });
  assert.deepEqual((await api.call('GET', '/vms/idle/snapshots')).body, []);
});

test('a name is given, changed and taken away, and no two snapshots have one', async () => {
  const api = await withVm();
  const id = await saved(api);
  await saved(api, 'taken');
  assert.equal(
    field((await api.call('PATCH', `/snapshots/${id}`, { name: 'golden' })).body, 'name'),
    'golden',
  );
  const { details } = await api.refused('already_exists', 'PATCH', '/snapshots/golden', { name: 'taken' });
  assert.deepEqual(details, { field: 'name', value: 'taken' });
  await api.refused('already_exists', 'POST', '/vms/web/snapshot', { name: 'taken' });
  const same = await api.call('PATCH', '/snapshots/golden', { name: 'golden' });
  assert.equal(same.status, 200);
  assert.equal(field((await api.call('PATCH', '/snapshots/golden', {})).body, 'name'), 'golden');
  const bare = await api.call('PATCH', '/snapshots/golden', { name: null });
  assert.ok(!Object.hasOwn(fields(bare.body), 'name'));
  await api.refused('not_found', 'GET', '/snapshots/golden');
});

test('a sleeping VM wakes, and its snapshot can be deleted only then', async () => {
  const api = await withVm();
  const made = await api.call('POST', '/vms/web/snapshot', { name: 'asleep' });
  const { details } = await api.refused('in_use', 'DELETE', '/snapshots/asleep');
  assert.deepEqual(details, { snapshot: field(made.body, 'id'), vms: [api.vm] });
  const awake = await api.call('POST', '/vms/web/restore');
  assert.deepEqual([awake.status, field(awake.body, 'state')], [200, 'running']);
  assert.deepEqual((await api.call('DELETE', '/snapshots/asleep')).body, { status: 'deleted' });
  await api.refused('not_found', 'DELETE', '/snapshots/asleep');
  await api.refused('not_found', 'GET', `/snapshots/${String(field(made.body, 'id'))}`);
});

test('a stopped VM goes back to a snapshot of its own only when its disk may be lost', async () => {
  const api = await withVm();
  await saved(api, 'golden');
  await api.call('POST', '/vms', { name: 'db' });
  await api.call('POST', '/vms/db/snapshot', { name: 'of-db' });
  await api.call('POST', '/vms/web/stop');
  const asked = { snapshot_id: 'golden' };
  const { details } = await api.refused('wrong_state', 'POST', '/vms/web/restore', asked);
  assert.equal(details['field'], 'discard');
  const lost = { snapshot_id: 'of-db', discard: true };
  await api.refused('not_found', 'POST', '/vms/web/restore', lost);
  const back = await api.call('POST', '/vms/web/restore', { ...asked, discard: true });
  assert.equal(field(back.body, 'state'), 'running');
  await api.call('POST', '/vms/web/snapshot', {});
  const late = await api.refused('timeout', 'POST', '/vms/web/restore?wait=ready&timeout=7', {});
  assert.match(late.error, /7 s/);
});

test('forks are VMs of their own, numbered by name, and answer as a list', async () => {
  const api = await withVm();
  const forked = await api.call('POST', '/vms/web/fork', { count: 3, name: 'worker' });
  assert.equal(forked.status, 201);
  const made = Array.isArray(forked.body) ? forked.body.map((one: unknown) => fields(one)) : [];
  assert.deepEqual(
    made.map(({ name, state }) => [name, state]),
    ['worker-1', 'worker-2', 'worker-3'].map((name) => [name, 'running']),
  );
  for (const name of ['id', 'guest_ip', 'guest_mac', 'ssh_port'])
    assert.equal(new Set(made.map((one) => one[name])).size, 3, name);
  assert.deepEqual((await api.call('GET', '/snapshots')).body, []);
  const one = await api.call('POST', '/vms/web/fork', { name: 'solo', keep_running: false });
  assert.deepEqual([field(one.body, 'length'), field(one.body, 0, 'name')], [1, 'solo']);
  assert.equal(field((await api.call('GET', '/vms/web')).body, 'state'), 'snapshotted');
  const plain = await api.call('POST', '/vms/web/fork');
  assert.ok(!Object.hasOwn(fields(field(plain.body, 0)), 'name'), 'a sleeping VM can be copied too');
});

test('a VM is made from a snapshot, by id or name, with the name and labels of its own', async () => {
  const api = await withVm();
  const id = await saved(api, 'golden');
  for (const [snapshot, name] of [
    [id, 'a'],
    ['golden', 'b'],
  ]) {
    const made = await api.call('POST', '/vms', { snapshot_id: snapshot, name, labels: { n: '1' } });
    assert.equal(made.status, 201);
    assert.equal(made.headers['location'], `/vms/${String(field(made.body, 'id'))}`);
    assert.deepEqual(
      ['parent_snapshot_id', 'name', 'labels'].map((key) => field(made.body, key)),
      [id, name, { tier: 'web', n: '1' }],
    );
  }
});

test('what a snapshot says already cannot be said with it, each field refused by its name', async () => {
  const api = await withVm();
  await saved(api, 'golden');
  const excluded = {
    image_id: 'img-default',
    template_id: 'tpl-web',
    vcpu_count: 1,
    mem_mib: 512,
    boot_args: 'quiet',
    user_data: '#!/bin/sh',
    ssh_authorized_keys: [
      'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ0bXlrZXlieXRlc2FyZWhlcmVmb3Jyb29t me@example.com',
    ],
  };
  for (const [name, value] of Object.entries(excluded)) {
    const asked = { snapshot_id: 'golden', [name]: value };
    const { error, details } = await api.refused('invalid_request', 'POST', '/vms', asked);
    assert.equal(details['field'], name);
    assert.match(error, new RegExp(`"${name}" cannot be said with "snapshot_id"`));
  }
  assert.equal(api.hatch.vmRows.size, 1);
});

test('a call that cannot be in this state says what can', async () => {
  const api = await withVm();
  const awake = await api.refused('wrong_state', 'POST', '/vms/web/restore', {});
  assert.deepEqual(awake.details['allowed'], ['stop', 'reboot', 'snapshot', 'fork', 'delete']);
  await api.call('POST', '/vms/web/snapshot');
  const asleep = await api.refused('wrong_state', 'POST', '/vms/web/snapshot', {});
  assert.deepEqual(asleep.details, { state: 'snapshotted', allowed: ['start', 'restore', 'fork', 'delete'] });
  await api.call('POST', '/vms/web/restore');
  await api.call('POST', '/vms/web/stop');
  const stopped = await api.refused('wrong_state', 'POST', '/vms/web/fork', {});
  assert.match(stopped.error, /Allowed now: start, restore, delete\./);
});

test('every wrong field is refused with its name and its limit, and nothing is made', async () => {
  const api = await withVm();
  const id = await saved(api, 'golden');
  const cases: readonly [
    method: 'POST' | 'PATCH',
    url: string,
    body: unknown,
    named: string,
    says: RegExp,
  ][] = [
    ['POST', '/vms/web/snapshot', { name: 'A' }, 'name', /1 to 63 lower-case letters/],
    ['POST', '/vms/web/snapshot', { name: 'snap-x' }, 'name', /does not begin like an id/],
    ['POST', '/vms/web/snapshot', { name: 'a'.repeat(64) }, 'name', /1 to 63/],
    ['POST', '/vms/web/snapshot', { name: null }, 'name', /it is null/],
    ['POST', '/vms/web/snapshot', { keep_running: 'yes' }, 'keep_running', /true or false/],
    ['POST', '/vms/web/snapshot', { keep: true }, 'keep', /Did you mean "keep_running"\?/],
    ['POST', '/vms/web/snapshot', [], '', /must be an object/],
    ['POST', '/vms/web/restore', { snapshot_id: '../x' }, 'snapshot_id', new RegExp(SNAPSHOT)],
    ['POST', '/vms/web/restore', { snapshot_id: 5 }, 'snapshot_id', /it is 5/],
    ['POST', '/vms/web/restore', { discard: 1 }, 'discard', /true or false; it is 1/],
    ['POST', '/vms/web/restore', { snapshot: 'x' }, 'snapshot', /Did you mean "snapshot_id"\?/],
    ['POST', '/vms/web/restore?wait=soon', {}, 'wait', /one of ready, running/],
    ['POST', '/vms/web/restore?timeout=5', {}, 'timeout', /goes with "wait=ready"/],
    ['POST', '/vms/web/fork', { count: 0 }, 'count', /from 1 to 100; it is 0/],
    ['POST', '/vms/web/fork', { count: 101 }, 'count', /from 1 to 100; it is 101/],
    ['POST', '/vms/web/fork', { count: 1.5 }, 'count', /whole number.*it is 1\.5/],
    ['POST', '/vms/web/fork', { count: '2' }, 'count', /it is the string "2"/],
    ['POST', '/vms/web/fork', { name: '' }, 'name', /must be a name/],
    ['POST', '/vms/web/fork', { keep_running: 0 }, 'keep_running', /true or false/],
    ['POST', '/vms/web/fork?wait=ready&timeout=601', {}, 'timeout', /from 1 to 600/],
    ['PATCH', `/snapshots/${id}`, { name: 'vm-x' }, 'name', /begin like an id/],
    ['PATCH', `/snapshots/${id}`, { name: 5 }, 'name', /or null/],
    ['PATCH', `/snapshots/${id}`, { state: 'durable' }, 'state', /Unknown field/],
    ['PATCH', '/snapshots/Golden', {}, 'id', new RegExp(`"id" in the path must be ${SNAPSHOT}`)],
    ['POST', '/vms/Web/snapshot', {}, 'id', /must be a VM’s id/],
    ['POST', '/vms/Web/fork', {}, 'id', /must be a VM’s id/],
  ];
  for (const [method, url, body, named, says] of cases) {
    const { error, details } = await api.refused('invalid_request', method, url, body);
    assert.equal(details['field'], named, error);
    assert.match(error, says);
  }
  const queries: readonly [url: string, named: string, says: RegExp][] = [
    ['/snapshots?limit=0', 'limit', /from 1 to 1000; it is 0/],
    ['/snapshots?after=x', 'after', /the id of the last one of the page before/],
    ['/snapshots?after=snap-abc123def456', 'after', /no "snap-abc123def456" to go on after/],
    ['/snapshots?all=yes', 'all', /true or false/],
    ['/snapshots?vm=web', 'vm', /Unknown query parameter "vm"/],
    ['/vms/web/snapshots?limit=1001', 'limit', /from 1 to 1000/],
    ['/vms/web/snapshots?all=true', 'all', /Unknown query parameter/],
    ['/snapshots/golden?wait=ready', 'wait', /must be one of stored|must be stored/],
    ['/snapshots/golden?timeout=5', 'timeout', /goes with "wait=stored"/],
    ['/snapshots/golden?wait=stored&timeout=0', 'timeout', /from 1 to 600/],
    ['/snapshots/..%2fx', 'id', new RegExp(SNAPSHOT)],
  ];
  for (const [url, named, says] of queries) {
    const { error, details } = await api.refused('invalid_request', 'GET', url);
    assert.equal(details['field'], named, error);
    assert.match(error, says);
  }
  assert.deepEqual([api.hatch.vmRows.size, api.hatch.snapshotRows.size], [1, 1]);
  assert.equal(field((await api.call('GET', '/vms/web')).body, 'state'), 'running');
});

test('another account’s snapshot is not there, nor its VM to be saved, and everyone’s list is the operator’s', async () => {
  const api = await withVm();
  const id = await saved(api, 'golden');
  await api.call('POST', '/accounts', { name: 'team-a' });
  const stranger = api.hatch.makeKey(['read', 'write'], api.hatch.accountRows.at(-1)?.id);
  const as = { authorization: `Bearer ${stranger}` };
  for (const name of [id, 'golden']) {
    await api.refused('not_found', 'GET', `/snapshots/${name}`, undefined, as);
    await api.refused('not_found', 'PATCH', `/snapshots/${name}`, { name: 'mine' }, as);
    await api.refused('not_found', 'DELETE', `/snapshots/${name}`, undefined, as);
    const { details } = await api.refused('invalid_request', 'POST', '/vms', { snapshot_id: name }, as);
    assert.equal(details['field'], 'snapshot_id');
  }
  for (const verb of ['snapshot', 'restore', 'fork'])
    await api.refused('not_found', 'POST', `/vms/web/${verb}`, {}, as);
  await api.refused('not_found', 'GET', '/vms/web/snapshots', undefined, as);
  assert.deepEqual((await api.call('GET', '/snapshots', undefined, as)).body, []);
  const { details } = await api.refused('forbidden', 'GET', '/snapshots?all=true', undefined, as);
  assert.equal(details['scope'], 'operator');
  assert.equal(field((await api.call('GET', '/snapshots?all=true')).body, 'length'), 1);
});

test('a VM’s snapshots go with it', async () => {
  const api = await withVm();
  await saved(api, 'golden');
  await api.call('DELETE', '/vms/web');
  assert.deepEqual((await api.call('GET', '/snapshots')).body, []);
  await api.refused('not_found', 'GET', '/vms/web/snapshots');
});

test('the description has examples of each body, and each is one the API takes', async () => {
  const api = await testApi();
  const doc = (await api.call('GET', '/openapi.json')).body;
  for (const [name, schema] of Object.entries({
    SnapshotVm,
    RestoreVm,
    ForkVm,
    PatchSnapshot,
    Snapshot,
    CreateVm,
  })) {
    const examples = field(doc, 'components', 'schemas', name, 'examples');
    assert.ok(Array.isArray(examples) && examples.length > 0, name);
    for (const example of examples) assert.ok(Check(schema, example), JSON.stringify(example));
  }
});
