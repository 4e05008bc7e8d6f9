import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { field, fields } from '../../src/api/test-client.ts';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { fetchGuestPackages } from '../support/guest-packages.ts';
import { startHatchd, untilVm, type Hatchd } from '../support/hatchd.ts';
import { imageWithFile, readInImage } from '../support/image-files.ts';
import { makeInternet, type Internet } from '../support/internet.ts';
import { makeMirror } from '../support/package-mirror.ts';
import { builtImage } from '../support/built-image.ts';
import { hypervisorOf, tracesOf } from '../support/traces.ts';

/**
 * The requests of the user's own description of Hatch, sent byte for byte as they stand there (but for host, key and ids) to a
 * real hatchd with real guests, in its order. The guest with nginx and git is made first of all and looked into last, since an
 * emulated one takes its time; the machine's other processor has the rest of the description meanwhile.
 */
let folder: string;
let internet: Internet;
/** The names of the servers in the guest's sources.list. */
let mirrors: readonly string[];
let hatchd: Hatchd;
/** The networked VM with cloud-init. */
let web: Vm;
/** The key its guest shows to whoever comes by SSH. */
let hostKey: string;
const HOST_KEY = 'cat /etc/ssh/ssh_host_ed25519_key.pub';

const ends: (() => Promise<unknown>)[] = [];

const NETWORKED = ['folder', 'process', 'tap', 'filter', 'reservation', 'ssh port'] as const;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'seed-'));
  ends.push(() => rm(folder, { recursive: true, force: true }));
  const image = await builtImage();
  // Where the guest looks for packages is what its sources.list says; the names in it lead to a mirror of a few packages here.
  const sources = await readInImage(image.rootfs, '/etc/apt/sources.list');
  const site = join(folder, 'site');
  const debs = await fetchGuestPackages(image, ['nginx', 'git']);
  mirrors = await makeMirror({ site, debs, sources });
  await mkdir(join(folder, 'internet'));
  internet = await makeInternet({ folder: join(folder, 'internet'), site, names: mirrors });
  ends.push(() => internet.dispose());
  // The mirror cannot sign as Debian does. So that user data and sources.list stay as they are, the guest's apt is told in a file
  // of its own, in a copy of the default image, to do without; nothing else differs.
  const rootfs = join(folder, 'rootfs.ext4');
  await imageWithFile(
    { image: image.rootfs, copy: rootfs, scratch: join(folder, 'apt.conf') },
    '/etc/apt/apt.conf.d/99unsigned',
    'Acquire::AllowInsecureRepositories "true";\nAPT::Get::AllowUnauthenticated "true";\n',
  );
  hatchd = await startHatchd(folder, {
    HATCH_DEFAULT_KERNEL_PATH: image.vmlinuz,
    HATCH_DEFAULT_INITRD_PATH: image.initrd,
    HATCH_DEFAULT_ROOTFS_PATH: rootfs,
    HATCH_IMAGE_DIRS: image.dir,
    HATCH_DNS_SERVERS: internet.address,
  });
  ends.push(() => hatchd.down());
});
after(async () => {
  for (const end of ends.reverse()) await end();
});

interface Answer {
  readonly status: number;
  readonly body: unknown;
}

/** A request as curl would send it: no header but those the description shows. */
async function call(
  method: string,
  path: string,
  body?: string,
  auth: Readonly<Record<string, string>> = { Authorization: `Bearer ${hatchd.key}` },
): Promise<Answer> {
  const response = await fetch(hatchd.url + path, {
    method,
    headers: body === undefined ? auth : { ...auth, 'Content-Type': 'application/json' },
    ...(body === undefined ? {} : { body }),
  });
  return { status: response.status, body: await response.json() };
}

/** Makes a VM with this body, and sees to it that the answer is one of the kind the description shows. */
async function create(body: string): Promise<Vm> {
  const { status, body: made } = await call('POST', '/vms', body);
  assert.equal(status, 201, JSON.stringify(made));
  return hatchd.client.vms.get(String(field(made, 'id')));
}

async function remove({ id }: Pick<Vm, 'id'>): Promise<void> {
  assert.deepEqual(await call('DELETE', `/vms/${id}`), { status: 200, body: { status: 'deleted' } });
  const gone = await call('GET', `/vms/${id}`);
  assert.deepEqual([gone.status, field(gone.body, 'code')], [404, 'not_found']);
}

/** The value after an argument of QEMU's. */
async function argumentOf({ id }: Pick<Vm, 'id'>, name: string): Promise<string | undefined> {
  const argv = (await hypervisorOf(id))?.argv ?? [];
  return argv[argv.indexOf(name) + 1];
}

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z$/;

test('an empty POST makes a VM of the default image, and a GET shows it', async () => {
  const from = Date.now();
  const { status, body } = await call('POST', '/vms', '{}');
  assert.equal(status, 201);
  const { id, guest_mac, created_at, updated_at, ready, vmm, accel, host, ...shown } = fields(body);
  assert.deepEqual(shown, {
    image_id: 'img-default',
    state: 'running',
    vcpu_count: 1,
    mem_mib: 512,
    guest_ip: '192.168.241.10',
    ssh_port: 2200,
    enable_network: true,
  });
  assert.match(String(id), /^vm-[a-z0-9]{12}$/);
  assert.match(String(guest_mac), /^02:fc(:[0-9a-f]{2}){4}$/);
  for (const time of [created_at, updated_at]) {
    assert.match(String(time), TIME);
    assert.ok(Date.parse(String(time)) >= from - 1000 && Date.parse(String(time)) <= Date.now());
  }
  assert.deepEqual([ready, vmm, typeof accel, typeof host], [false, 'qemu', 'string', 'string']);

  const got = await call('GET', `/vms/${String(id)}`);
  assert.deepEqual(got, { status: 200, body });
  assert.deepEqual(await call('GET', `/vms/${String(id)}`, undefined, { 'X-API-Key': hatchd.key }), got);
  for (const auth of [{}, { Authorization: 'Bearer YOUR_API_KEY' }]) {
    assert.equal((await call('GET', `/vms/${String(id)}`, undefined, auth)).status, 401);
  }

  const vm = await hatchd.client.vms.get(String(id));
  assert.deepEqual(await tracesOf(hatchd.data, vm), NETWORKED);
  assert.deepEqual([await argumentOf(vm, '-smp'), await argumentOf(vm, '-m')], ['1', '512M']);
  await remove(vm);
  assert.deepEqual(await tracesOf(hatchd.data, vm), []);
});

test('a networked VM is made with cloud-init user data, which its answer does not tell', async () => {
  // The description's own text; the key is elided there, so that it lets nobody in.
  const text =
    '{\n    "vcpu_count": 2,\n    "mem_mib": 2048,\n    "user_data": "#cloud-config\\nusers:\\n  - name: ubuntu\\n    sudo: ALL=(ALL) NOPASSWD:ALL\\n    ssh_authorized_keys:\\n      - ssh-ed25519 AAAAC3Nza...\\npackages:\\n  - nginx\\n  - git\\nruncmd:\\n  - systemctl enable nginx\\n  - systemctl start nginx"\n  }';
  const body = text.replace('ssh-ed25519 AAAAC3Nza...', hatchd.publicKey);
  assert.notEqual(body, text);
  web = await create(body);
  assert.deepEqual([web.vcpu_count, web.mem_mib, web.state], [2, 2048, 'running']);
  // The address and the port of the VM that was deleted are free again.
  assert.deepEqual([web.guest_ip, web.ssh_port], ['192.168.241.10', 2200]);
  assert.ok(!JSON.stringify(web).includes('nginx'));
  assert.equal(await hatchd.client.vms.userData(web.id), field(JSON.parse(body), 'user_data'));
});

test('resources and addresses are those that were asked for', async () => {
  const vm = await create(
    '{\n    "vcpu_count": 4,\n    "mem_mib": 4096,\n    "guest_ip": "192.168.241.50",\n    "guest_mac": "02:fc:00:00:00:32",\n    "enable_network": true\n  }',
  );
  assert.deepEqual(
    [vm.vcpu_count, vm.mem_mib, vm.guest_ip, vm.guest_mac, vm.enable_network],
    [4, 4096, '192.168.241.50', '02:fc:00:00:00:32', true],
  );
  assert.deepEqual([await argumentOf(vm, '-smp'), await argumentOf(vm, '-m')], ['4', '4096M']);
  assert.match((await argumentOf(vm, '-netdev')) ?? '', new RegExp(`ifname=${vm.id}`));
  assert.ok((await hypervisorOf(vm.id))?.argv.some((word) => word.includes('mac=02:fc:00:00:00:32')));

  const list = await call('GET', '/vms');
  assert.equal(list.status, 200);
  const shown = ['id', 'state', 'vcpu_count', 'mem_mib', 'guest_ip', 'ssh_port', 'created_at'];
  const rows = [0, 1].map((index) => shown.map((name) => field(list.body, index, name)));
  assert.deepEqual(rows, [
    [vm.id, 'running', 4, 4096, '192.168.241.50', vm.ssh_port, vm.created_at],
    [web.id, 'running', 2, 2048, '192.168.241.10', 2200, web.created_at],
  ]);
  assert.ok(Array.isArray(list.body) && list.body.length === 2);

  await remove(vm);
  assert.deepEqual(await tracesOf(hatchd.data, vm), []);
});

test('a template serves where the request is silent, and the request wins', async () => {
  const image = await builtImage();
  const other = await call(
    'POST',
    '/images',
    JSON.stringify({
      name: 'web',
      kernel_path: image.vmlinuz,
      initrd_path: image.initrd,
      rootfs_path: image.rootfs,
    }),
  );
  assert.equal(other.status, 201, JSON.stringify(other.body));
  const template = await call(
    'POST',
    '/templates',
    JSON.stringify({
      name: 'web-server',
      image_id: 'img-web',
      vcpu_count: 2,
      mem_mib: 1024,
      user_data: '#!/bin/sh\n',
    }),
  );
  assert.deepEqual([template.status, field(template.body, 'id')], [201, 'tpl-web-server']);

  const silent = await create('{\n    "template_id": "tpl-web-server"\n  }');
  assert.deepEqual(
    [silent.template_id, silent.image_id, silent.vcpu_count, silent.mem_mib],
    ['tpl-web-server', 'img-web', 2, 1024],
  );
  assert.equal(await hatchd.client.vms.userData(silent.id), '#!/bin/sh\n');
  assert.deepEqual([await argumentOf(silent, '-smp'), await argumentOf(silent, '-m')], ['2', '1024M']);
  await remove(silent);

  const explicit = await create(
    '{"template_id":"tpl-web-server","image_id":"img-default","vcpu_count":1,"mem_mib":512,"user_data":"#!/bin/sh\\n:\\n"}',
  );
  assert.deepEqual(
    [explicit.template_id, explicit.image_id, explicit.vcpu_count, explicit.mem_mib],
    ['tpl-web-server', 'img-default', 1, 512],
  );
  assert.equal(await hatchd.client.vms.userData(explicit.id), '#!/bin/sh\n:\n');
  await remove(explicit);
});

test('a VM without networking has no address, tap, reservation or SSH port', async () => {
  const { status, body } = await call(
    'POST',
    '/vms',
    '{\n    "enable_network": false,\n    "vcpu_count": 1,\n    "mem_mib": 512\n  }',
  );
  assert.equal(status, 201);
  const { enable_network, ...rest } = fields(body);
  assert.equal(enable_network, false);
  for (const name of ['guest_ip', 'guest_mac', 'ssh_port']) assert.ok(!(name in rest), name);
  const vm = await hatchd.client.vms.get(String(rest['id']));
  assert.deepEqual(await tracesOf(hatchd.data, vm), ['folder', 'process']);
  assert.ok(!(await hypervisorOf(vm.id))?.argv.some((word) => /netdev|virtio-net/.test(word)));
  await remove(vm);
  assert.deepEqual(await tracesOf(hatchd.data, vm), []);
});

test('the limits themselves are taken, and kernel arguments are the guest’s', async () => {
  const vm = await create(
    '{"image_id":"img-default","vcpu_count":32,"mem_mib":128,"boot_args":"console=ttyS0 root=/dev/vda rw quiet"}',
  );
  assert.deepEqual([vm.image_id, vm.vcpu_count, vm.mem_mib], ['img-default', 32, 128]);
  assert.deepEqual([await argumentOf(vm, '-smp'), await argumentOf(vm, '-m')], ['32', '128M']);
  assert.equal(await argumentOf(vm, '-append'), 'console=ttyS0 root=/dev/vda rw quiet');
  await remove(vm);
});

for (const [name, value] of [
  ['vcpu_count', 0],
  ['vcpu_count', 33],
  ['mem_mib', 127],
  ['mem_mib', 65537],
  ['guest_ip', '192.168.242.10'],
  ['guest_ip', '10.0.0.1'],
] as const) {
  test(`${name} ${value} is refused by name`, async () => {
    const { status, body } = await call('POST', '/vms', JSON.stringify({ [name]: value }));
    assert.deepEqual([status, field(body, 'code')], [400, 'invalid_request']);
    assert.match(String(field(body, 'error')), new RegExp(name));
    assert.deepEqual(
      (await hatchd.client.vms.list()).map(({ id }) => id),
      [web.id],
    );
  });
}

test('ssh leads to the user of the user data, whose packages the guest has installed and started', async () => {
  const ssh = (command: string, timeoutMs = 30_000): Promise<string> =>
    hatchd.ssh(web, 'ubuntu', command, { timeoutMs });
  const wait = { clock: systemClock, signal: AbortSignal.timeout(180_000) };
  // sshd answers before cloud-init has made the user.
  const user = await until(wait, () => ssh('id -un; sudo -n id -un').catch(() => undefined));
  assert.equal(user, 'ubuntu\nroot');
  assert.match(await ssh('cloud-init status --wait', 300_000), /status: done$/);
  assert.equal(await ssh('systemctl is-enabled nginx'), 'enabled');
  assert.equal(await ssh('systemctl is-active nginx'), 'active');
  assert.match(await ssh('git --version'), /^git version 2\./);
  hostKey = await ssh(HOST_KEY);
  assert.match(await page(web), /Welcome to nginx/);
  // They came by the network: the name server named the mirror, and the mirror gave them.
  const names = await internet.log.dns();
  for (const name of mirrors) assert.ok(names.includes(`config ${name} is ${internet.address}\n`), name);
  for (const name of ['nginx', 'git']) {
    assert.match(await internet.log.web(), new RegExp(`GET \\S+/pool/${name}_\\S+\\.deb HTTP/1\\.1" 200`));
  }
  assert.deepEqual(await tracesOf(hatchd.data, web), [...NETWORKED.slice(0, 5), 'lease', 'ssh port']);
});

test('a stop goes from running over stopping to stopped, closes the SSH port, and keeps address and folder', async () => {
  const before = await hatchd.client.vms.get(web.id);
  const seen: unknown[] = [];
  const stopped = { yet: false };
  const stop = call('POST', `/vms/${web.id}/stop`).finally(() => (stopped.yet = true));
  while (!stopped.yet) {
    const state = field((await call('GET', `/vms/${web.id}`)).body, 'state');
    if (seen.at(-1) !== state) seen.push(state);
    await systemClock.sleep(20);
  }
  const { status, body } = await stop;
  assert.deepEqual([status, field(body, 'state')], [200, 'stopped']);
  assert.deepEqual(['running', ...seen.filter((state) => state !== 'running')].slice(0, 2), [
    'running',
    'stopping',
  ]);
  assert.ok(!('state_reason' in fields(body)), 'the guest was cut off');
  assert.deepEqual(
    ['guest_ip', 'guest_mac', 'ssh_port'].map((name) => field(body, name)),
    [before.guest_ip, before.guest_mac, before.ssh_port],
  );
  assert.deepEqual(await tracesOf(hatchd.data, web), ['folder']);
});

test('after a restart of the server a VM whose process is gone is in error, a stopped one is as it was', async () => {
  const lost = await create('{}');
  // The stopped VM has kept its own.
  assert.deepEqual([lost.guest_ip, lost.ssh_port], ['192.168.241.11', 2201]);
  await hatchd.end('SIGKILL');
  process.kill((await hypervisorOf(lost.id))?.pid ?? 0, 'SIGKILL');
  await hatchd.start();
  const { state, state_reason } = await hatchd.client.vms.get(lost.id);
  assert.equal(state, 'error');
  assert.match(state_reason?.message ?? '', /./);
  assert.equal((await hatchd.client.vms.get(web.id)).state, 'stopped');
  await remove(lost);
  assert.deepEqual(await tracesOf(hatchd.data, lost), []);
});

test('a start brings the same VM back, and a deletion leaves nothing of it', async () => {
  const { status, body } = await call('POST', `/vms/${web.id}/start`);
  assert.deepEqual([status, field(body, 'state')], [200, 'running']);
  assert.deepEqual(
    ['guest_ip', 'guest_mac', 'ssh_port', 'created_at'].map((name) => field(body, name)),
    [web.guest_ip, web.guest_mac, web.ssh_port, web.created_at],
  );
  await untilVm(hatchd, web.id, ({ ready }) => ready, 300_000);
  // systemctl enable was run once, at the first boot.
  const wait = { clock: systemClock, signal: AbortSignal.timeout(60_000) };
  assert.match(await until(wait, () => page(web).catch(() => undefined)), /Welcome to nginx/);
  assert.equal(await hatchd.ssh(web, 'ubuntu', HOST_KEY), hostKey);
  assert.match(
    await hatchd.ssh(web, 'ubuntu', 'cloud-init status --wait --long', { timeoutMs: 180_000 }),
    /^status: done$/m,
  );
  const ran = await hatchd.ssh(
    web,
    'ubuntu',
    'sudo grep -c "SUCCESS: config-runcmd ran" /var/log/cloud-init.log',
  );
  assert.equal(ran, '1', 'cloud-init ran what the user data says again');
  assert.deepEqual(await tracesOf(hatchd.data, web), [...NETWORKED.slice(0, 5), 'lease', 'ssh port']);

  await remove(web);
  assert.deepEqual(await tracesOf(hatchd.data, web), []);
  assert.deepEqual(await call('GET', '/vms'), { status: 200, body: [] });
});

/** What the guest's web server shows the host. */
async function page({ guest_ip }: Pick<Vm, 'guest_ip'>): Promise<string> {
  const response = await fetch(`http://${guest_ip}:80/`, { signal: AbortSignal.timeout(20_000) });
  return response.text();
}
