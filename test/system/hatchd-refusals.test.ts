import assert from 'node:assert/strict';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { ApiError, type HatchClient } from '../../src/clients/http.ts';
import type { ErrorCode } from '../../src/contract/errors.ts';
import { run } from '../../src/host/run.ts';
import { hatchd, serveHatchd, type Enter, type ServingHatchd } from '../support/hatchd-process.ts';
import { builtImage } from '../support/built-image.ts';

/** hatchd with its real network and QEMU on a host where something is in the way or missing. No guest is booted. */
let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'no-'));
});
after(() => rm(folder, { recursive: true, force: true }));
afterEach(async () => {
  assert.equal((await run(['nft', 'list', 'tables'])).stdout, '', 'rules were left');
});

const settings = (name: string): Record<string, string> => ({
  HATCH_VMM: 'qemu',
  HATCH_DATA_DIR: join(folder, name),
  HATCH_HTTP_ADDR: '127.0.0.1:0',
  HATCH_PROXY_ADDR: '127.0.0.1:0',
});
const ip = (command: string): Promise<unknown> => run(['ip', ...command.split(' ')]);

/** That hatchd does not start, in these words, and that doctor says the same. */
async function refused(
  env: Record<string, string>,
  says: RegExp,
  check: string,
  enter?: Enter,
): Promise<void> {
  const daemon = serveHatchd(env, enter);
  assert.deepEqual(await daemon.ended, { code: 1, signal: null });
  const told =
    daemon
      .said()
      .split('\n')
      .find((line) => line.includes('hatchd could not start: ')) ?? '';
  assert.match(told, says);
  const doctor = await hatchd(['doctor'], env, enter);
  assert.equal(doctor.exitCode, 1, doctor.stdout);
  const finding =
    doctor.stdout.split('\n').find((line) => line.startsWith(`FAIL  ${check}`)) ?? doctor.stdout;
  assert.match(finding, says);
}

test("a bridge's address or name that is taken is told with who has it", async () => {
  await ip('link add lan0 type bridge');
  await ip('address add 192.168.241.7/24 dev lan0');
  const address =
    /192\.168\.241\.1\/24 cannot be the bridge's: the interface lan0 has 192\.168\.241\.7\/24; choose another HATCH_BRIDGE_CIDR/;
  await refused(settings('address'), address, 'network');
  await ip('link del lan0');
  await ip('tuntap add dev hatch0 mode tap');
  await refused(settings('name'), /hatch0 exists and is not a bridge/, 'network');
  await ip('link del hatch0');
});

test('without the programs it needs it says which package brings them', async () => {
  const empty = join(folder, 'empty');
  await mkdir(empty);
  // What nft and dnsmasq are in is hidden from this one process.
  const hide = 'mount --bind "$0" /usr/sbin && exec "$@"';
  const enter: Enter = (argv) => [
    ...['unshare', '--mount', '--propagation', 'private', '--', '/bin/sh', '-c', hide, empty],
    ...argv,
  ];
  await refused(
    settings('bare'),
    /the program nft is not installed; install the package nftables/,
    'network',
    enter,
  );
  const { stdout } = await hatchd(['doctor'], settings('bare'), enter);
  assert.match(
    stdout,
    /^FAIL {2}programs {4}missing: .*dnsmasq \(DHCP.*; `apt-get install fdisk nftables dnsmasq-base`/m,
  );
  assert.match(stdout, /^warn {2}programs {4}missing for `hatchd image build`: mke2fs \(/m);
});

test('who may not change the network is told to be root, and may not take down what root runs', async () => {
  const open = join(folder, 'open');
  await mkdir(open, { mode: 0o777 });
  await run(['chmod', '777', open]);
  await run(['chmod', '755', folder]);
  const nobody: Enter = (argv) => [
    'setpriv',
    '--reuid=65534',
    '--regid=65534',
    '--clear-groups',
    '--',
    ...argv,
  ];
  const env = { ...settings('open'), HATCH_DATA_DIR: join(open, 'data') };
  const daemon = serveHatchd(env, nobody);
  assert.equal((await daemon.ended).code, 1);
  assert.match(daemon.said(), /hatchd could not start: .*run hatchd as root/);
  const doctor = await hatchd(['doctor'], env, nobody);
  assert.match(doctor.stdout, /^FAIL {2}rights {6}bridges and taps need root: run hatchd as root$/m);

  const ours = { ...settings('root'), HATCH_VMM: 'fake' };
  const running = serveHatchd(ours);
  await running.line(/"msg":"ready"/);
  const down = await hatchd(['down'], ours, nobody);
  assert.deepEqual(
    [down.exitCode, down.stderr],
    [1, `hatchd: hatchd (pid ${running.pid}) is another user's; run this as root.\n`],
  );
  running.kill('SIGTERM');
  assert.equal((await running.ended).code, 0);
});

async function refusedCall(call: Promise<unknown>, code: ErrorCode, field?: string): Promise<ApiError> {
  const error = await call.then(
    (answer) => assert.fail(`it was let through: ${JSON.stringify(answer)}`),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof ApiError, String(error));
  assert.equal(error.code, code, error.message);
  if (field !== undefined) assert.equal(error.details['field'], field, error.message);
  assert.equal(error.message.includes(folder), false, `a path was told: ${error.message}`);
  return error;
}

/** A hatchd that serves while `body` runs, and is taken down after it. */
async function serving(
  env: Record<string, string>,
  body: (client: HatchClient, daemon: ServingHatchd) => Promise<void>,
): Promise<void> {
  const daemon = serveHatchd(env);
  try {
    const key = (await daemon.line(/^ {2}hatch_/)).trim();
    const client = await daemon.client(key);
    await body(client, daemon);
    await client.close();
  } finally {
    const down = await hatchd(['down', '--grace', '0'], env);
    assert.equal(down.exitCode, 0, down.stderr);
  }
}

test('without a default image a create says how to get one, and an image by path is taken only from where it may', async () => {
  const [allowed, outside] = [join(folder, 'allowed'), join(folder, 'outside')];
  for (const path of [join(allowed, 'folder'), outside]) await mkdir(path, { recursive: true });
  const image = await builtImage();
  const kernel = join(allowed, 'vmlinuz');
  await copyFile(image.vmlinuz, kernel);
  for (const path of [join(allowed, 'rootfs.ext4'), join(outside, 'rootfs.ext4')])
    await run(['mke2fs', '-q', '-t', 'ext4', path, '8M']);
  await symlink(join(outside, 'rootfs.ext4'), join(allowed, 'link-out'));
  await symlink('rootfs.ext4', join(allowed, 'link-in'));
  await run(['mknod', join(allowed, 'device'), 'b', '7', '0']);
  await run(['mkfifo', join(allowed, 'pipe')]);
  await run([
    'qemu-img',
    'create',
    '-q',
    '-f',
    'qcow2',
    '-b',
    '/etc/shadow',
    '-F',
    'raw',
    join(allowed, 'backed'),
    '8M',
  ]);
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', join(allowed, 'hollow.qcow2'), '8M']);
  await writeFile(join(allowed, 'text'), 'no disk at all\n'.repeat(1000));

  const before = await readdir(allowed);
  const env = { ...settings('images'), HATCH_IMAGE_DIRS: `${join(folder, 'nowhere')}:${allowed}` };
  await serving(env, async (client) => {
    const none = await refusedCall(client.vms.create(), 'invalid_request', 'image_id');
    assert.match(
      none.message,
      /Set HATCH_DEFAULT_KERNEL_PATH and HATCH_DEFAULT_ROOTFS_PATH, or run `hatchd image build`/,
    );
    const template = await refusedCall(
      client.templates.create({ name: 'web', image_id: 'img-default' }),
      'invalid_request',
      'image_id',
    );
    assert.match(template.message, /no default image is configured/);

    const cases: readonly [rootfs: string, says: RegExp][] = [
      [join(outside, 'rootfs.ext4'), /one of the folders of HATCH_IMAGE_DIRS/],
      [join(allowed, '../outside/rootfs.ext4'), /one of the folders of HATCH_IMAGE_DIRS/],
      [join(allowed, 'link-out'), /one of the folders of HATCH_IMAGE_DIRS/],
      ['/etc/shadow', /one of the folders of HATCH_IMAGE_DIRS/],
      [join(allowed, 'folder'), /must be a regular file, not a folder, device/],
      [join(allowed, 'device'), /must be a regular file/],
      [join(allowed, 'pipe'), /must be a regular file/],
      [join(allowed, 'missing'), /there is no such file/],
      [join(allowed, 'text'), /must be an ext4 file system, a disk with partitions, or a qcow2 image/],
      [join(allowed, 'backed'), /needs a backing file/],
      [
        join(allowed, 'hollow.qcow2'),
        /must hold an ext4 file system or partitions; it holds nothing Hatch knows/,
      ],
    ];
    for (const [rootfs, says] of cases) {
      const made = client.images.create({ name: 'bad', kernel_path: kernel, rootfs_path: rootfs });
      assert.match((await refusedCall(made, 'invalid_request', 'rootfs_path')).message, says);
    }
    const swapped = client.images.create({
      name: 'bad',
      kernel_path: join(allowed, 'rootfs.ext4'),
      rootfs_path: join(allowed, 'link-in'),
    });
    await refusedCall(swapped, 'invalid_request', 'kernel_path');
    assert.deepEqual(await client.images.list(), []);
    const kept = await readdir(join(folder, 'images/images/registered')).catch(() => []);
    assert.deepEqual(kept, [], 'what was converted in vain is removed');

    const good = { name: 'good', kernel_path: kernel, rootfs_path: join(allowed, 'link-in') };
    assert.equal((await client.images.create(good)).id, 'img-good');
    await refusedCall(client.images.create(good), 'already_exists', 'name');
    await refusedCall(client.images.create({ ...good, name: 'default' }), 'invalid_request', 'name');
    const size = await refusedCall(
      client.vms.create({ image_id: 'img-good', disk_mib: 4 }),
      'invalid_request',
      'disk_mib',
    );
    assert.match(size.message, /at least the image's size, 8 MiB/);
    assert.deepEqual(await client.vms.list(), []);
    assert.deepEqual(await client.images.delete('img-good'), { status: 'deleted' });
  });
  assert.deepEqual(await readdir(allowed), before, 'the operator’s own files stay');
});

test('a DHCP server that dies is told by readyz and started again; rules and a bridge that are removed are told', async () => {
  const env = settings('broken');
  await serving(env, async (client) => {
    const pidFile = join(folder, 'broken/net/dnsmasq.pid');
    const ready = (): Promise<string> =>
      client.ready().then(
        () => 'ready',
        (error: unknown) => (error instanceof ApiError ? error.message : String(error)),
      );
    const isReady = async (): Promise<true | undefined> => ((await ready()) === 'ready' ? true : undefined);
    const patience = { clock: systemClock, signal: AbortSignal.timeout(60_000) };
    const first = await readFile(pidFile, 'utf8');
    const said = await until(patience, async () => {
      process.kill(Number(await readFile(pidFile, 'utf8')), 'SIGKILL');
      const told = await ready();
      // It may be started again faster than one can ask.
      return told === 'ready' ? undefined : told;
    });
    assert.match(said, /^Not ready: The DHCP server does not run; guests get no address\./);
    await until(patience, isReady);
    assert.notEqual(await readFile(pidFile, 'utf8'), first);

    await run(['nft', 'flush', 'ruleset']);
    assert.match(await ready(), /^Not ready: The guests' firewall tables were removed or changed\./);
    await ip('link del hatch0');
    assert.match(await ready(), /^Not ready: The bridge hatch0 is gone\./);
    assert.deepEqual((await client.health()).status, 'ok');
  });
});
