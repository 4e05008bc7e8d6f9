import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Type } from 'typebox';
import { cannedApi, refusal, type Asked, type Canned } from '../../../test/support/canned-api.ts';
import { hatch, type Ran } from '../../../test/support/cli.ts';
import { Deleted } from '../../contract/common.ts';
import { ExecResult } from '../../contract/exec.ts';
import { Image } from '../../contract/image.ts';
import { VmMetrics } from '../../contract/metrics.ts';
import { CreateVm, PatchVm, Vm } from '../../contract/vm.ts';
import { readServer } from './settings.ts';
import { Check } from 'typebox/value';

const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ0bXlrZXlieXRlc2FyZWhlcmVmb3Jyb29t me@example.com';
const vm: Vm = {
  id: 'vm-abc123def456',
  name: 'web',
  image_id: 'img-default',
  state: 'running',
  vcpu_count: 2,
  mem_mib: 2048,
  enable_network: true,
  guest_ip: '192.168.241.10',
  guest_mac: '02:fc:00:00:00:01',
  ssh_port: 2200,
  created_at: '2026-03-06T10:30:00Z',
  updated_at: '2026-03-06T10:30:00Z',
  ready: true,
};
const image: Image = {
  id: 'img-default',
  name: 'default',
  size_bytes: 2_147_483_648,
  agent: true,
  default_user: 'ubuntu',
  created_at: '2026-03-06T10:30:00Z',
};

const home = await mkdtemp(join(tmpdir(), 'hatch-cli-'));
after(() => rm(home, { recursive: true }));

/** Runs `hatch` against a server that answers as told. */
async function against(
  answer: (asked: Asked) => Canned,
  words: readonly string[],
  world: Parameters<typeof hatch>[1] = {},
): Promise<Ran & { readonly asked: readonly Asked[] }> {
  await using server = await cannedApi(answer);
  const ran = await hatch(words, { env: { HATCH_URL: server.url, HATCH_API_KEY: 'hatch_k' }, ...world });
  return { ...ran, asked: server.asked };
}

test('vm ls shows a table, what to do when it is empty, and the API’s own JSON', async () => {
  const schema = Type.Array(Vm);
  const list = await against(
    () => ({ json: [vm, { ...vm, name: undefined, ready: false }], schema }),
    ['vm', 'ls'],
  );
  assert.equal(list.code, 0);
  assert.equal(
    list.out,
    [
      'NAME   ID                STATE               CPUS   MEMORY   IP               SSH PORT   IMAGE         AGE',
      'web    vm-abc123def456   running             2      2G       192.168.241.10   2200       img-default   1h',
      '-      vm-abc123def456   running (booting)   2      2G       192.168.241.10   2200       img-default   1h',
      '',
    ].join('\n'),
  );
  const none = await against(() => ({ json: [], schema }), ['vm', 'ls']);
  assert.equal(none.out, 'No VMs yet. Make one: hatch vm create\n');
  const found = await against(() => ({ json: [], schema }), ['vm', 'ls', '--state', 'error']);
  assert.equal(found.out, 'No such VMs.\n');
  const all = await against(
    () => ({ json: [{ ...vm, account_id: 'acct-abc123def456' }], schema }),
    ['vm', 'ls', '--all'],
  );
  assert.match(all.out, /^ACCOUNT {13}NAME .*\nacct-abc123def456 +web /);
  const json = await against(
    () => ({ json: [vm], schema }),
    ['vm', 'ls', '--json', '--label', 'a=b', '--state', 'running'],
  );
  assert.deepEqual(JSON.parse(json.out), [vm]);
  assert.equal(json.asked[0]?.path, '/vms?state=running&label=a%3Db');
});

test('vm create turns every option into a field of a request the API accepts', async () => {
  await writeFile(join(home, 'key.pub'), `${KEY}\n`);
  await writeFile(join(home, 'init.yaml'), '#cloud-config\n{}\n');
  const words = ['vm', 'create', 'web', '--image', 'default', '--template', 'tpl-web', '--cpus', '2'];
  words.push('--memory', '2G', '--disk', '8G', '--ip', '192.168.241.50', '--mac', '02:fc:00:00:00:32');
  words.push('--user-data', 'init.yaml', '--ssh-key', 'key.pub', '--label', 'a=b', '--label', 'c=d');
  words.push(
    '--idle-timeout',
    '5m',
    '--idle-action',
    'stop',
    '--boot-args',
    'quiet',
    '--wait',
    '--timeout',
    '2m',
  );
  const ran = await against(() => ({ status: 201, json: vm, schema: Vm }), words, { cwd: home });
  assert.equal(ran.code, 0, ran.err);
  assert.equal(ran.asked[0]?.path, '/vms?wait=ready&timeout=120');
  assert.deepEqual(ran.asked[0].body, {
    name: 'web',
    image_id: 'img-default',
    template_id: 'tpl-web',
    vcpu_count: 2,
    mem_mib: 2048,
    disk_mib: 8192,
    guest_ip: '192.168.241.50',
    guest_mac: '02:fc:00:00:00:32',
    user_data: '#cloud-config\n{}\n',
    ssh_authorized_keys: [KEY],
    labels: { a: 'b', c: 'd' },
    idle: { timeout_seconds: 300, action: 'stop' },
    boot_args: 'quiet',
  });
  assert.ok(Check(CreateVm, ran.asked[0].body));
  assert.equal(ran.out, 'VM web (vm-abc123def456) is ready at 192.168.241.10.\nGo in: hatch vm ssh web\n');
});

test('vm create lets the person’s own key in unless told not to, and sends nothing that was not said', async () => {
  await mkdir(join(home, '.ssh'), { recursive: true });
  await writeFile(join(home, '.ssh/id_ed25519.pub'), `${KEY}\n`);
  const bodyOf = async (words: readonly string[]): Promise<unknown> =>
    (await against(() => ({ status: 201, json: vm, schema: Vm }), ['vm', 'create', ...words], { home }))
      .asked[0]?.body;
  assert.deepEqual(await bodyOf([]), { ssh_authorized_keys: [KEY] });
  assert.deepEqual(await bodyOf(['--no-ssh-key']), {});
  assert.deepEqual(await bodyOf(['--no-network']), { enable_network: false });
});

test('wrong use ends with 2 before anything is asked of a server', async () => {
  await writeFile(join(home, 'private'), '-----BEGIN OPENSSH PRIVATE KEY-----\n');
  await writeFile(join(home, 'nobody.pub'), '# to be filled in\n');
  for (const [words, says] of [
    [['vm', 'create', '--cpus', 'two'], /--cpus must be a whole number/],
    [['vm', 'create', '--memory', 'much'], /--memory must be a size/],
    [['vm', 'create', '--ssh-key', 'private'], /is a private key; give the public one, private\.pub/],
    [['vm', 'create', '--ssh-key', 'nowhere'], /--ssh-key nowhere cannot be read/],
    [['vm', 'create', '--ssh-key', 'nobody.pub'], /--ssh-key nobody\.pub holds no key/],
    [['vm', 'create', 'a', '--name', 'b'], /Two names/],
    [['vm', 'get', ''], /A name or an id is empty/],
    [['vm', 'rm', '.'], /"\." is neither a name nor an id/],
    [['vm', 'ssh', 'root@'], /A name or an id is empty/],
    [['vm', 'create', '--idle-action', 'explode'], /--idle-action must be one of/],
    [['vm', 'ls', '--state', 'happy'], /--state must be one of/],
    [['vm', 'update', 'web'], /Say what is to change/],
    [['vm', 'frobnicate'], /unknown command/],
    [['vm', 'get'], /missing required argument/],
    [['key', 'create', 'x', '--scope', 'god'], /--scope must be one of/],
    [['vm', 'create', '--user-data', '-'], /--user-data - was given nothing on standard input/],
  ] as const) {
    const ran = await against(() => ({ json: null }), words, { cwd: home });
    assert.equal(ran.code, 2, words.join(' '));
    assert.match(ran.err, says);
    assert.equal(ran.asked.length, 0);
    assert.equal(ran.out, '');
  }
});

test('each kind of failure has its exit code, a sentence, and JSON when asked', async () => {
  for (const [status, code, exit] of [
    [400, 'invalid_request', 2],
    [401, 'unauthorized', 6],
    [403, 'forbidden', 6],
    [403, 'quota_exceeded', 1],
    [404, 'not_found', 3],
    [409, 'wrong_state', 4],
    [413, 'too_large', 2],
    [500, 'internal', 1],
  ] as const) {
    const ran = await against(() => refusal(status, code, 'It cannot be.'), ['vm', 'get', 'web']);
    assert.equal(ran.code, exit, code);
    assert.match(ran.err, /^hatch: It cannot be\./);
  }
  const json = await against(
    () => refusal(404, 'not_found', 'No.', { vm: 'web' }),
    ['vm', 'get', 'web', '--json'],
  );
  assert.deepEqual(JSON.parse(json.err), {
    error: 'No.',
    code: 'not_found',
    details: { vm: 'web' },
    request_id: 'req-test',
  });
  const gone = await hatch(['vm', 'ls'], { env: { HATCH_URL: 'http://127.0.0.1:1' } });
  assert.equal(gone.code, 5);
  assert.match(gone.err, /No Hatch server answers at http:\/\/127\.0\.0\.1:1 .*\nIs hatchd running\?/);
});

test('the admin key of this machine is found, and never sent to another', async () => {
  await mkdir(join(home, 'data'), { recursive: true });
  await writeFile(join(home, 'data/admin-key'), 'hatch_local\n');
  await using server = await cannedApi(() => ({ json: [], schema: Type.Array(Vm) }));
  const keyFor = async (url: string, env: Record<string, string> = {}): Promise<string | undefined> => {
    await hatch(['vm', 'ls', '--url', url], { cwd: home, env });
    return server.asked.at(-1)?.headers.authorization;
  };
  assert.equal(await keyFor(server.url), 'Bearer hatch_local');
  assert.equal(await keyFor(server.url, { HATCH_API_KEY: 'hatch_mine' }), 'Bearer hatch_mine');
  assert.equal(await keyFor(server.url, { HATCH_DATA_DIR: '/nonexistent' }), undefined);
  const world = { cwd: home, home: '/nonexistent', root: '/nonexistent', env: {} };
  assert.equal(readServer({}, world).apiKey, 'hatch_local');
  assert.equal(readServer({ url: 'http://localhost:1' }, world).apiKey, 'hatch_local');
  assert.equal(readServer({ url: 'https://hatch.example.com' }, world).apiKey, undefined);
  assert.equal(readServer({ url: 'http://127.0.0.1.example.com' }, world).apiKey, undefined);
});

test('vm rm asks a person, removes several, and goes on past one that fails', async () => {
  const answer = ({ path }: Asked): Canned =>
    path === '/vms/b' ? refusal(404, 'not_found', 'No b.') : { json: { status: 'deleted' }, schema: Deleted };
  const no = await against(answer, ['vm', 'rm', 'a'], { answer: 'n' });
  assert.equal(no.asked.length, 0);
  assert.notEqual(no.code, 0);
  const yes = await against(answer, ['vm', 'rm', 'a'], { answer: 'y' });
  assert.deepEqual([yes.code, yes.asked.length], [0, 1]);
  const forced = await against(answer, ['vm', 'rm', '-f', 'a'], { answer: 'n' });
  assert.deepEqual([forced.code, forced.out], [0, 'Removed a.\n']);
  const three = await against(answer, ['vm', 'rm', 'a', 'b', 'c']);
  assert.equal(three.code, 3);
  assert.deepEqual(
    three.asked.map(({ method, path }) => `${method} ${path}`),
    ['DELETE /vms/a', 'DELETE /vms/b', 'DELETE /vms/c'],
  );
});

test('vm exec hands on input and output and ends as the guest’s command did', async () => {
  const result: ExecResult = {
    exit_code: 42,
    stdout: 'out\n',
    stderr: 'err\n',
    truncated: false,
    timed_out: false,
  };
  const ran = await against(
    () => ({ json: result, schema: ExecResult }),
    ['vm', 'exec', 'web', '-i', '-e', 'A=b', '--cwd', '/tmp', '--timeout', '5m', '--', 'ls', '-l'],
    { stdin: 'in' },
  );
  assert.deepEqual([ran.code, ran.out, ran.err], [42, 'out\n', 'err\n']);
  assert.deepEqual(ran.asked[0]?.body, {
    command: ['ls', '-l'],
    env: { A: 'b' },
    cwd: '/tmp',
    timeout_seconds: 300,
    stdin: 'in',
  });
  assert.equal(ran.asked[0]?.path, '/vms/web/exec');
  const woken = await against(
    () => ({ json: result, schema: ExecResult }),
    ['vm', 'exec', 'web', '--wake', 'ls'],
  );
  assert.equal(woken.asked[0]?.path, '/vms/web/exec?wake=true');
  const late = await against(
    () => ({ json: { ...result, exit_code: null, timed_out: true }, schema: ExecResult }),
    ['vm', 'exec', 'web', 'sleep'],
  );
  assert.equal(late.code, 124);
  assert.match(late.err, /took too long/);
});

test('vm ssh becomes ssh with the port, the image’s user and the command, once the guest answers', async () => {
  const answer =
    (first: Vm) =>
    ({ path }: Asked): Canned => {
      if (path.startsWith('/images/')) return { json: image, schema: Image };
      return { json: path.includes('wait=ready') ? vm : first, schema: Vm };
    };
  const ran = await against(answer({ ...vm, ready: false }), ['vm', 'ssh', 'web', '--', 'uname', '-a'], {
    home,
  });
  assert.deepEqual(ran.became, [
    'ssh',
    '-o',
    'HostKeyAlias=vm-abc123def456',
    '-o',
    'StrictHostKeyChecking=accept-new',
    '-o',
    'LogLevel=ERROR',
    '-o',
    `UserKnownHostsFile=${join(home, '.ssh/known_hosts_hatch')}`,
    '-p',
    '2200',
    '-l',
    'ubuntu',
    '127.0.0.1',
    '--',
    'uname',
    '-a',
  ]);
  assert.ok(ran.asked.some(({ path }) => path.startsWith('/vms/web?wait=ready')));
  const other = await against(answer(vm), ['vm', 'ssh', 'root@web', '-i', 'my key'], { home });
  assert.deepEqual(other.became?.slice(0, 3), ['ssh', '-i', 'my key']);
  assert.ok(other.became.includes('root'));
  const sleeping = answer({ ...vm, state: 'snapshotted', ready: false });
  const knocks = await against(sleeping, ['vm', 'ssh', 'web'], { home });
  assert.equal(knocks.became?.[0], 'ssh', 'which wakes it');
  assert.ok(knocks.asked.every(({ path }) => !path.includes('wait=')));
  const { ssh_port: _port, ...rest } = vm;
  const bare: Vm = { ...rest, enable_network: false };
  for (const [first, says] of [
    [{ ...vm, state: 'stopped' as const }, /Start it: hatch vm start web/],
    [bare, /no network/],
  ] as const) {
    const refused = await against(answer(first), ['vm', 'ssh', 'web']);
    assert.equal(refused.became, undefined);
    assert.match(refused.err, says);
    assert.notEqual(refused.code, 0);
  }
});

test('vm console prints what there is, or follows it', async () => {
  const once = await against(() => ({ text: ['boot\n'] }), ['vm', 'console', 'web', '--tail', '100']);
  assert.deepEqual([once.out, once.asked[0]?.path], ['boot\n', '/vms/web/console?tail=100']);
  const follow = await against(() => ({ text: ['a', 'b'] }), ['vm', 'console', 'web', '-f']);
  assert.deepEqual([follow.out, follow.asked[0]?.path], ['ab', '/vms/web/console?follow=true']);
});

test('vm metrics says sizes as people do, and to programs what the API said', async () => {
  const used: VmMetrics = {
    vm_id: vm.id,
    at: '2026-03-06T10:30:00Z',
    uptime_seconds: 3610.52,
    cpu_seconds: 14.2,
    memory: { mem_mib: 2048, resident_bytes: 241_172_480 },
    block: { read_bytes: 125_829_120, written_bytes: 1536 },
  };
  const net = { received_bytes: 1_258_291, received_packets: 912, sent_bytes: 700, sent_packets: 4 };
  const lines = [
    'Awake          1h',
    'CPU time       14.2 s',
    'Memory         230M on the host, for a guest of 2G',
    'Disk read      120M',
    'Disk written   1.5K',
  ];
  const told = (json: VmMetrics, words: readonly string[] = []) =>
    against(() => ({ json, schema: VmMetrics }), ['vm', 'metrics', 'web', ...words]);
  const shown = await told({ ...used, net });
  assert.equal(shown.asked[0]?.path, '/vms/web/metrics');
  const traffic = ['Received       1.2M (912 packets)', 'Sent           700B (4 packets)'];
  assert.equal(shown.out, [...lines, ...traffic, ''].join('\n'));
  assert.equal((await told(used)).out, [...lines, 'Network        none', ''].join('\n'));
  assert.deepEqual(JSON.parse((await told({ ...used, net }, ['--json'])).out), { ...used, net });
});

test('vm update sends only what changes; an empty name takes it away', async () => {
  const ran = await against(
    () => ({ json: vm, schema: Vm }),
    ['vm', 'update', 'web', '--name', '', '--memory', '1G'],
  );
  assert.deepEqual(ran.asked[0]?.body, { name: null, mem_mib: 1024 });
  assert.ok(Check(PatchVm, ran.asked[0].body));
});

test('hatch says its version, and whether a VM starts with the host', async () => {
  assert.match((await hatch(['--version'])).out, /^\d+\.\d+\.\d+\n$/);
  const answer = (): Canned => ({ json: { ...vm, autostart: true }, schema: Vm });
  assert.match((await against(answer, ['vm', 'get', 'web'])).out, /^Autostart +yes$/m);
});

test('what the API calls otherwise is told in the words of the command', async () => {
  const restore = await against(
    () => refusal(409, 'wrong_state', 'say "discard": true if it may.', { field: 'discard' }),
    ['vm', 'restore', 'web', 'golden'],
  );
  assert.match(restore.err, /\nHere: --discard\.$/m);
});

test('what must work without a server is handed to hatchd', async () => {
  const doctor = await hatch(['doctor', '--json']);
  assert.deepEqual(doctor.became, ['/nonexistent/hatch/bin/hatchd', 'doctor', '--json']);
  const build = await hatch(['image', 'build']);
  assert.deepEqual(build.became, ['/nonexistent/hatch/bin/hatchd', 'image', 'build']);
  const down = await hatch(['down', '--grace', '5']);
  assert.deepEqual(down.became, ['/nonexistent/hatch/bin/hatchd', 'down', '--grace', '5']);
});
