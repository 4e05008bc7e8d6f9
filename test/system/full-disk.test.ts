import assert from 'node:assert/strict';
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import { ApiError, type HatchClient } from '../../src/clients/http.ts';
import { run } from '../../src/host/run.ts';
import { FILES } from '../../src/vmm/firecracker/boot.ts';
import { takeMetrics } from '../../src/vmm/firecracker/metrics.ts';
import { hatchd, serveHatchd, type ServingHatchd } from '../support/hatchd-process.ts';
import { qemus } from '../support/hatchd.ts';
import { builtImage } from '../support/built-image.ts';
import { makeSmallDisk, type SmallDisk } from '../support/small-disk.ts';

/** hatchd whose disk is really full: the kernel says so, not a double. */
let folder = '';
let disk: SmallDisk;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'full-'));
  disk = await makeSmallDisk(join(folder, 'disk'), 300);
});
after(async () => {
  await disk.dispose();
  await rm(folder, { recursive: true, force: true });
});

/** hatchd on the small disk until `body` ends; with `env` over the usual settings. */
async function serving(
  env: Readonly<Record<string, string>> & { readonly HATCH_DATA_DIR: string },
  body: (client: HatchClient, daemon: ServingHatchd, settings: Record<string, string>) => Promise<void>,
): Promise<void> {
  const settings = {
    HATCH_VMM: 'fake',
    HATCH_HTTP_ADDR: '127.0.0.1:0',
    HATCH_PROXY_ADDR: '127.0.0.1:0',
    HATCH_RATE_LIMIT: '0',
    ...env,
  };
  const daemon = serveHatchd(settings, disk.enter);
  try {
    await daemon.line(/"msg":"ready"/);
    const key = await readFile(join(disk.inside, basename(env.HATCH_DATA_DIR), 'admin-key'), 'utf8');
    const client = await daemon.client(key.trim());
    await body(client, daemon, settings);
    await client.close();
  } finally {
    await disk.makeRoom();
    daemon.kill('SIGTERM');
    await daemon.ended;
  }
}

async function refusedForSpace(call: Promise<unknown>): Promise<ApiError> {
  const error = await call.then(
    () => assert.fail('it was let through'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof ApiError, String(error));
  assert.deepEqual([error.status, error.code], [507, 'no_space'], error.message);
  assert.match(error.message, /disk .*is full/);
  assert.doesNotMatch(error.message, /ENOSPC|\/tmp/);
  return error;
}

test('a create for which there is no room is 507, leaves nothing on the host, and can be started when there is', async () => {
  const env = { HATCH_DATA_DIR: join(disk.path, 'one'), DATABASE_URL: `sqlite:${join(folder, 'one.db')}` };
  await serving(env, async (client) => {
    const before = await client.vms.create({ name: 'before' });
    await client.vms.stop('before');
    await disk.fill();
    const { details } = await refusedForSpace(client.vms.create({ name: 'web' }));
    const vm = await client.vms.get('web');
    assert.deepEqual([vm.id, vm.state, vm.state_reason?.code], [details['id'], 'error', 'no_space']);
    assert.deepEqual(await readdir(join(disk.inside, 'one/vms')), [before.id]);
    const network = await readFile(join(disk.inside, 'one/net/fake-network.json'), 'utf8');
    assert.equal(network.includes(vm.id), false, network);
    await refusedForSpace(client.vms.start('web'));
    assert.equal((await client.vms.list()).length, 2);
    assert.deepEqual(
      await client.vms.delete('before'),
      { status: 'deleted' },
      'what is there can be removed',
    );

    await disk.makeRoom();
    assert.equal((await client.vms.start('web')).state, 'running');
    await client.vms.delete('web');
    assert.deepEqual(await readdir(join(disk.inside, 'one/vms')), []);
  });
});

test('what a Firecracker has counted is told on a full disk too, and nothing twice when there is room again', async () => {
  const own = join(disk.inside, 'counted');
  await mkdir(own);
  const line = (read: number, write: number): string =>
    `${JSON.stringify({ block: { read_bytes: read, write_bytes: write } })}\n`;
  const taken = async (): Promise<readonly number[]> => {
    const { read, written } = await takeMetrics(own);
    return [read, written];
  };
  await appendFile(join(own, FILES.metrics), line(10, 1));
  assert.deepEqual(await taken(), [10, 1]);
  await appendFile(join(own, FILES.metrics), line(20, 2));
  await disk.fill();
  try {
    assert.deepEqual(await taken(), [30, 3]);
    assert.deepEqual(await taken(), [30, 3]);
  } finally {
    await disk.makeRoom();
  }
  assert.deepEqual(await taken(), [30, 3]);
  assert.deepEqual((await readdir(own)).sort(), ['fc.counters', FILES.metrics].sort());
});

test('with its database on the full disk hatchd goes on answering, and all is in order when there is room again', async () => {
  const env = { HATCH_DATA_DIR: join(disk.path, 'two') };
  await serving(env, async (client) => {
    await client.vms.create({ name: 'steady' });
    await disk.fill();
    // The database may have some pages to spare before it is full too.
    for (let i = 0; i < 3; i++) await refusedForSpace(client.vms.create({ name: `full${i}` }));
    assert.ok(
      (await client.vms.list()).some(({ name }) => name === 'steady'),
      'reading needs no room',
    );
    await disk.makeRoom();
    assert.equal((await client.vms.create({ name: 'after' })).state, 'running');
  });
  await serving(env, async (client) => {
    const vms = await client.vms.list();
    for (const { name, state, operation } of vms) {
      assert.equal(operation, undefined);
      assert.equal(state, name === 'steady' || name === 'after' ? 'running' : 'error', name);
    }
    const running = vms.filter(({ state }) => state === 'running').map(({ id }) => id);
    assert.deepEqual((await readdir(join(disk.inside, 'two/vms'))).sort(), running.sort());
    for (const { id } of vms) await client.vms.delete(id);
    assert.deepEqual(await readdir(join(disk.inside, 'two/vms')), []);
  });
});

test('a start on a full disk is refused in a sentence, and doctor says it too', async () => {
  await disk.fill();
  const env = {
    HATCH_VMM: 'fake',
    HATCH_DATA_DIR: join(disk.path, 'one'),
    HATCH_HTTP_ADDR: '127.0.0.1:0',
    HATCH_PROXY_ADDR: '127.0.0.1:0',
    DATABASE_URL: `sqlite:${join(folder, 'one.db')}`,
  };
  const daemon = serveHatchd(env, disk.enter);
  assert.deepEqual(await daemon.ended, { code: 1, signal: null });
  assert.match(
    daemon.said(),
    /hatchd could not start: The disk of HATCH_DATA_DIR \S+ is full; make room and start again\./,
  );
  const doctor = await hatchd(['doctor'], { ...env, HATCH_VMM: 'qemu', HATCH_NET: 'fake' }, disk.enter);
  assert.equal(doctor.exitCode, 1);
  assert.match(doctor.stdout, /^FAIL {2}disk {8}The disk of HATCH_DATA_DIR .* is full/m);
  await disk.makeRoom();
});

test('with real disks, taps and rules too a create without room is 507 and leaves none of them', async () => {
  const data = join(disk.path, 'real');
  const image = await builtImage();
  await mkdir(join(disk.inside, 'real/images'), { recursive: true });
  await symlink(image.dir, join(disk.inside, 'real/images', basename(image.dir)));
  const env = {
    HATCH_VMM: 'qemu',
    HATCH_NET: 'real',
    HATCH_DATA_DIR: data,
    DATABASE_URL: `sqlite:${join(folder, 'real.db')}`,
  };
  await serving(env, async (client, _daemon, settings) => {
    const rules = async (): Promise<string> => (await run(['nft', 'list', 'ruleset'])).stdout;
    const before = await rules();
    // Nothing at all, and room for the disk but not for the seed beside it.
    for (const leave of [0, 64 * 1024, 256 * 1024]) {
      await disk.fill(leave);
      const { details } = await refusedForSpace(client.vms.create({ user_data: `#!${'x'.repeat(200_000)}` }));
      const id = String(details['id']);
      assert.equal((await client.vms.get(id)).state_reason?.code, 'no_space');
      assert.deepEqual(await readdir(join(disk.inside, 'real/vms')), [], `${leave} bytes free`);
      assert.equal((await run(['ip', 'link'])).stdout.includes(id), false);
      assert.equal(await rules(), before);
      assert.equal((await qemus()).size, 0);
      await disk.makeRoom();
      await client.vms.delete(id);
    }
    // A guest that runs can be deleted to make room, though nothing can be written.
    const vm = await client.vms.create({ mem_mib: 128 });
    await disk.fill();
    assert.deepEqual(await client.vms.delete(vm.id), { status: 'deleted' });
    assert.deepEqual(await readdir(join(disk.inside, 'real/vms')), []);
    assert.equal(await rules(), before);
    assert.equal((await qemus()).size, 0);
    await disk.makeRoom();
    await hatchd(['down'], settings, disk.enter);
  });
  assert.deepEqual((await run(['nft', 'list', 'tables'])).stdout, '');
});
