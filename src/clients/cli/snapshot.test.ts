import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { hatch, type Ran } from '../../../test/support/cli.ts';
import { fileName } from '../../model/saved-files.ts';
import { field, testApi, type TestApi } from '../../api/test-client.ts';

const SNAP = /snap-[a-z0-9]{12}/g;
const VM = /vm-[a-z0-9]{12}/g;

/** `hatch` against the API itself over a pretended Hatch, with a running VM `web`. */
async function server(t: TestContext): Promise<
  Pick<TestApi, 'hatch' | 'clock'> & {
    readonly call: (...asked: Parameters<TestApi['call']>) => ReturnType<TestApi['call']>;
    /** Ids are shown as ID: they are made. */
    readonly cli: (
      words: readonly string[],
      world?: Omit<NonNullable<Parameters<typeof hatch>[1]>, 'env'>,
    ) => Promise<Ran>;
  }
> {
  const api = await testApi();
  const url = await api.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => api.app.close());
  await api.call('POST', '/vms', { name: 'web' });
  return {
    hatch: api.hatch,
    clock: api.clock,
    call: (...asked) => api.call(...asked),
    cli: async (words, world = {}) => {
      const ran = await hatch(words, { env: { HATCH_URL: url, HATCH_API_KEY: api.key }, ...world });
      return { ...ran, out: ran.out.replaceAll(SNAP, 'snap-ID').replaceAll(VM, 'vm-ID') };
    },
  };
}

test('vm snapshot saves, says what became of the VM and the next command to type', async (t) => {
  const { cli, call } = await server(t);
  const kept = await cli(['vm', 'snapshot', 'web', '--name', 'golden', '--keep-running']);
  assert.equal(
    kept.out,
    'Snapshot golden (snap-ID) is made: 2.5G of memory and disk, local.\n' +
      'VM web goes on. Make a copy: hatch vm create --snapshot golden\n',
  );
  const slept = await cli(['vm', 'snapshot', 'web']);
  assert.equal(
    slept.out,
    'Snapshot snap-ID is made: 2.5G of memory and disk, local.\nVM web sleeps. Wake it: hatch vm start web\n',
  );
  assert.equal(field((await call('GET', '/vms/web')).body, 'state'), 'snapshotted');
  const again = await cli(['vm', 'snapshot', 'web']);
  assert.equal(again.code, 4);
  assert.match(again.err, /Allowed now: start, restore, fork, delete\./);
});

test('vm snapshot --stored waits for the durable copy, and ends with 1 when it does not come', async (t) => {
  const { cli, hatch: world } = await server(t);
  const late = await cli(['vm', 'snapshot', 'web', '--keep-running', '--stored', '--timeout', '7s']);
  assert.equal(late.code, 1);
  assert.match(late.err, /not stored within 7 s/);
  assert.equal(world.snapshotRows.size, 1, 'it is there all the same');
  const lost = await cli(['vm', 'snapshot', 'web', '--timeout', '7s']);
  assert.equal(lost.code, 2);
  assert.match(lost.err, /--timeout goes with --stored/);
  assert.equal(world.snapshotRows.size, 1);
});

test('snapshot ls shows names, sizes and ages, of all VMs or of one, or ids, or the API’s own JSON', async (t) => {
  const { cli, call, hatch: world } = await server(t);
  await call('POST', '/vms', { name: 'db' });
  await call('POST', '/vms/db/snapshot', {});
  const made = await call('POST', '/vms/web/snapshot', { name: 'golden', keep_running: true });
  const row = world.snapshotRows.get(String(field(made.body, 'id')));
  assert.ok(row);
  world.snapshotRows.set(row.id, { ...row, state: 'uploading', storedBytes: 3 * 1024 * 1024 });
  world.transfers.set(row.id, { what: 'store', done: 3, total: 4 });
  const list = await cli(['snapshot', 'ls']);
  assert.deepEqual(
    list.out.split('\n').map((line) => line.split(/ {2,}/)),
    [
      ['NAME', 'ID', 'VM', 'KIND', 'STATE', 'MEMORY', 'SIZE', 'STORED', 'AGE'],
      ['golden', 'snap-ID', 'vm-ID', 'manual', 'uploading (75 %)', '512M', '2.5G', '3M', '1h'],
      ['-', 'snap-ID', 'vm-ID', 'manual', 'local', '512M', '2.5G', '-', '1h'],
      [''],
    ],
  );
  assert.match((await cli(['snapshot', 'ls', '--vm', 'db', '-q'])).out, /^snap-ID\n$/);
  assert.match((await cli(['snapshot', 'ls', '--limit', '1'])).out, /golden[^\n]*\n$/);
  const json: unknown = JSON.parse((await cli(['snapshot', 'ls', '--json'])).out);
  assert.deepEqual([field(json, 'length'), field(json, 0, 'transfer', 'done_bytes')], [2, 3]);
  const both = await cli(['snapshot', 'ls', '--vm', 'db', '--all']);
  assert.deepEqual([both.code, both.out], [2, '']);
});

test('where there are no snapshots, the command that makes one is told', async (t) => {
  const { cli } = await server(t);
  assert.equal(
    (await cli(['snapshot', 'ls'])).out,
    'No snapshots yet. Save a running VM: hatch vm snapshot <vm>\n',
  );
  assert.equal(
    (await cli(['snapshot', 'ls', '--vm', 'web'])).out,
    'VM web has no snapshots yet. Save it while it runs: hatch vm snapshot web\n',
  );
  assert.equal((await cli(['snapshot', 'ls', '-q'])).out, '');
  assert.equal((await cli(['snapshot', 'ls', '--json'])).out, '[]\n');
  assert.equal((await cli(['snapshot', 'ls', '--vm', 'none'])).code, 3);
});

test('snapshot get shows all that is known, and how far its bytes are', async (t) => {
  const { cli, call, clock, hatch: world } = await server(t);
  const made = await call('POST', '/vms/web/snapshot', { name: 'golden' });
  const row = world.snapshotRows.get(String(field(made.body, 'id')));
  assert.ok(row);
  world.snapshotRows.set(row.id, {
    ...row,
    verifiedAt: clock.now(),
    problem: 'The store is full.\u001b[2J',
  });
  world.transfers.set(row.id, { what: 'fetch', done: 1024, total: 2048 });
  assert.deepEqual(
    (await cli(['snapshot', 'get', 'golden'])).out.split('\n').map((line) => line.split(/ {2,}/)),
    [
      ['Name', 'golden'],
      ['Id', 'snap-ID'],
      ['VM', 'vm-ID'],
      ['Kind', 'manual'],
      ['State', 'local'],
      ['Problem', 'The store is full. [2J'],
      ['Transfer', '1K of 2K from the store'],
      ['Memory', '512M'],
      ['Size', '2.5G of memory and disk'],
      ['Made by', 'fake 1'],
      ['Made', '1h ago'],
      ['Verified', '1h ago'],
      [''],
    ],
  );
  assert.equal((await cli(['snapshot', 'get', 'none'])).code, 3);
});

test('snapshot rename names a snapshot, and an empty name takes it away', async (t) => {
  const { cli, call } = await server(t);
  await call('POST', '/vms/web/snapshot', { name: 'a' });
  assert.equal((await cli(['snapshot', 'rename', 'a', 'b'])).out, 'Snapshot snap-ID is named b now.\n');
  assert.equal((await cli(['snapshot', 'rename', 'b', ''])).out, 'Snapshot snap-ID has no name now.\n');
  const wrong = await cli(['snapshot', 'rename', 'none', 'Upper']);
  assert.equal(wrong.code, 2);
});

test('snapshot verify proves one, and says that it answered', async (t) => {
  const { cli, call } = await server(t);
  await call('POST', '/vms/web/snapshot', { name: 'golden' });
  assert.doesNotMatch((await cli(['snapshot', 'get', 'golden'])).out, /Verified/);
  assert.equal(
    (await cli(['snapshot', 'verify', 'golden'])).out,
    'Snapshot snap-ID woke, and its guest answered.\n',
  );
  assert.match((await cli(['snapshot', 'get', 'golden'])).out, /\nVerified +1h ago\n/);
  assert.equal((await cli(['snapshot', 'verify', 'none'])).code, 3);
});

test('snapshot rm removes several, and goes on past one that is in use', async (t) => {
  const { cli, call, hatch: world } = await server(t);
  for (const name of ['a', 'b', 'c']) await call('POST', '/vms/web/snapshot', { name, keep_running: true });
  await call('POST', '/vms/web/snapshot', { name: 'asleep' });
  const first = await cli(['snapshot', 'rm', 'a']);
  assert.equal(first.out, 'Removed a.\n', 'where no person sits nobody is asked');
  const several = await cli(['snapshot', 'rm', '-f', 'b', 'asleep', 'c']);
  assert.equal(several.code, 4);
  assert.equal(several.out, 'Removed b.\nRemoved c.\n');
  assert.match(several.err, /^asleep: VM vm-.* sleeps as this snapshot/);
  assert.deepEqual(
    [...world.snapshotRows.values()].map(({ name }) => name),
    ['asleep'],
  );
});

test('a person who says no to snapshot rm loses nothing', async (t) => {
  const { cli, call, hatch: world } = await server(t);
  await call('POST', '/vms/web/snapshot', { name: 'a', keep_running: true });
  const no = await cli(['snapshot', 'rm', 'a'], { answer: 'n' });
  assert.equal(no.code, 2);
  assert.match(no.out, /^Remove snapshot a for good\? \[y\/N\] $/);
  assert.equal(world.snapshotRows.size, 1);
  assert.equal((await cli(['snapshot', 'rm', 'a'], { answer: 'y' })).code, 0);
  assert.equal(world.snapshotRows.size, 0);
});

test('snapshot files lists a folder, cat writes a file as it is, and diff says what changed', async (t) => {
  const { cli, call, hatch: world } = await server(t);
  for (const name of ['a', 'b']) await call('POST', '/vms/web/snapshot', { name, keep_running: true });
  const facts = {
    kind: 'file',
    sizeBytes: 6,
    mode: 0o644,
    uid: 0,
    gid: 0,
    modifiedAt: 0,
    target: null,
  } as const;
  world.disk.entries = ['motd', 'hosts'].map((name) => ({ ...facts, name: fileName(Buffer.from(name)) }));
  world.disk.contents.set('/etc/motd', Buffer.from([0x68, 0x69, 0xff, 0x0a]));
  const path = fileName(Buffer.from('/etc/new'));
  world.disk.changes = [{ path, change: 'added', differences: [], before: null, after: facts }];
  const files = await cli(['snapshot', 'files', 'a', '/etc']);
  assert.equal(files.code, 0, files.err);
  assert.deepEqual(
    files.out.split('\n').map((line) => line.split(/ {2,}/).at(-1)),
    ['NAME', 'hosts', 'motd', ''],
  );
  const listed: unknown = JSON.parse((await cli(['snapshot', 'files', 'a', '--json', '--limit', '1'])).out);
  assert.deepEqual([field(listed, 'length'), field(listed, 0, 'name')], [1, 'motd']);
  await cli(['snapshot', 'files', 'a', 'L2V0Yw==', '--base64']);
  assert.equal((await cli(['snapshot', 'cat', 'a', '/etc/motd'])).out, 'hi\u00ff\n');
  assert.equal(
    (await cli(['snapshot', 'diff', 'a', 'b', '--path', '/etc', '--limit', '9'])).out,
    '+ /etc/new\n',
  );
  assert.deepEqual(world.disk.asked, [
    { path: '/etc', limit: 100, after: undefined },
    { path: '/', limit: 1, after: undefined },
    { path: Buffer.from('/etc'), limit: 100, after: undefined },
    '/etc/motd',
    { path: '/etc', limit: 9 },
  ]);
  world.disk.entries = [];
  assert.equal((await cli(['snapshot', 'files', 'a'])).out, 'The folder is empty.\n');
  const none = await cli(['snapshot', 'cat', 'a', '/none']);
  assert.deepEqual([none.code, none.out], [3, '']);
  assert.equal((await cli(['snapshot', 'files', 'a', 'etc'])).code, 2);
});

test('vm restore wakes a VM, and puts a stopped one back only with --discard', async (t) => {
  const { cli, call } = await server(t);
  await call('POST', '/vms/web/snapshot', { name: 'golden' });
  const awake = await cli(['vm', 'restore', 'web']);
  assert.equal(awake.out, 'VM web (vm-ID) is running at 192.168.241.10.\nGo in: hatch vm ssh web\n');
  await call('POST', '/vms/web/stop');
  const careful = await cli(['vm', 'restore', 'web', 'golden']);
  assert.equal(careful.code, 4);
  const back = await cli(['vm', 'restore', 'web', 'golden', '--discard']);
  assert.equal(back.code, 0, back.err);
  await call('POST', '/vms/web/snapshot', {});
  const late = await cli(['vm', 'restore', 'web', '--wait', '--timeout', '9s']);
  assert.equal(late.code, 1);
  assert.match(late.err, /9 s/);
});

test('vm fork shows its copies as a table', async (t) => {
  const { cli, call } = await server(t);
  const forked = await cli(['vm', 'fork', 'web', '--count', '2', '--name', 'copy', '--sleep']);
  assert.match(
    forked.out,
    /^NAME .*\ncopy-1 +vm-ID .*192\.168\.241\.11 .*\ncopy-2 +vm-ID .*192\.168\.241\.12 /,
  );
  assert.equal(field((await call('GET', '/vms/web')).body, 'state'), 'snapshotted');
  const one: unknown = JSON.parse((await cli(['vm', 'fork', 'web', '--json'])).out);
  assert.equal(field(one, 'length'), 1);
  assert.match((await cli(['vm', 'fork', 'web', '--count', 'two'])).err, /--count must be a whole number/);
  assert.match((await cli(['vm', 'fork', 'web', '--count', '101'])).err, /from 1 to 100/);
});

test('vm create --snapshot makes a copy, and leaves out the person’s own key, which a snapshot cannot take', async (t) => {
  const { cli, call } = await server(t);
  const home = await mkdtemp(join(tmpdir(), 'hatch-cli-'));
  t.after(() => rm(home, { recursive: true }));
  await mkdir(join(home, '.ssh'));
  const key = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ0bXlrZXlieXRlc2FyZWhlcmVmb3Jyb29t me@example.com\n';
  await writeFile(join(home, '.ssh/id_ed25519.pub'), key);
  await writeFile(join(home, 'my.pub'), key);
  await call('POST', '/vms/web/snapshot', { name: 'golden', keep_running: true });
  const words = ['vm', 'create', 'copy', '--snapshot', 'golden', '--label', 'a=b'];
  const made = await cli(words, { home, cwd: home });
  assert.equal(made.code, 0, made.err);
  const copy = (await call('GET', '/vms/copy')).body;
  assert.deepEqual([field(copy, 'labels'), field(copy, 'state')], [{ a: 'b' }, 'running']);
  assert.match((await cli(['vm', 'get', 'copy'])).out, /\nCopy of +snap-ID\n/);
  const keyed = await cli([...words.slice(0, 2), ...words.slice(3), '--ssh-key', 'my.pub'], { cwd: home });
  assert.equal(keyed.code, 2);
  assert.match(keyed.err, /"ssh_authorized_keys" cannot be said with "snapshot_id"/);
  const sized = await cli(['vm', 'create', '--snapshot', 'golden', '--memory', '1G']);
  assert.match(sized.err, /"mem_mib" cannot be said with "snapshot_id"/);
  assert.equal((await cli(['vm', 'create', '--snapshot', 'none'])).code, 2);
});
