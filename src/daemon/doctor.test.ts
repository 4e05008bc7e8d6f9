import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { after, before, test } from 'node:test';
import { systemClock } from '../base/clock.ts';
import { silent } from '../base/logger.ts';
import { openStore } from '../store/db/open.ts';
import { claimDataFolder, dataFolder, makeDataFolder } from './data-folder.ts';
import { examine } from './doctor.ts';
import type { Finding } from './doctor-finding.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-doctor-'));
});
after(() => rm(folder, { recursive: true, force: true }));

/** What is found with these settings, everything else pretended. */
async function found(
  check: string,
  env: Record<string, string> = {},
): Promise<Omit<Finding, 'check'> | undefined> {
  const all = await examine({
    HATCH_VMM: 'fake',
    HATCH_DATA_DIR: join(folder, 'none'),
    HATCH_HTTP_ADDR: '127.0.0.1:0',
    HATCH_PROXY_ADDR: '127.0.0.1:0',
    ...env,
  });
  const [one] = all.filter((finding) => finding.check === check);
  return one && { verdict: one.verdict, message: one.message };
}

async function fails(check: string, env: Record<string, string>, says: RegExp): Promise<void> {
  const one = await found(check, env);
  assert.equal(one?.verdict, 'fail', JSON.stringify(one));
  assert.match(one.message, says);
}

test('before the first start all is well, each check says so, and nothing is made', async () => {
  const data = join(folder, 'fresh');
  const all = await examine({
    HATCH_VMM: 'fake',
    HATCH_DATA_DIR: data,
    HATCH_HTTP_ADDR: '127.0.0.1:0',
    HATCH_PROXY_ADDR: '127.0.0.1:0',
  });
  assert.deepEqual(
    all.map(({ check, verdict }) => `${verdict} ${check}`),
    [
      ...[
        'rights',
        'programs',
        'hypervisor',
        'firecracker',
        'qemu',
        'kernel',
        'cgroups',
        'memory',
        'processor',
      ],
      ...[
        'network',
        'nftables',
        'ports',
        'api',
        'proxy',
        'disk',
        'database',
        'snapshots',
        'snapshots',
        'image',
        'hatchd',
      ],
    ].map((check) => `ok ${check}`),
  );
  assert.deepEqual(await readdir(folder), []);
});

test('a configuration that is wrong is a finding, a line for each problem', async () => {
  assert.deepEqual(await examine({ HATCH_VMM: 'xen', HATCH_DATADIR: '/x' }), [
    {
      check: 'config',
      verdict: 'fail',
      message: 'HATCH_DATADIR is not a setting of Hatch. Did you mean HATCH_DATA_DIR?',
    },
    {
      check: 'config',
      verdict: 'fail',
      message: 'HATCH_VMM must be one of auto, firecracker, qemu, fake. It is "xen".',
    },
  ]);
});

test('a hypervisor that is not installed is told with the package it is in', async () => {
  const missing = { HATCH_VMM: 'qemu', HATCH_NET: 'fake', HATCH_QEMU_BIN: join(folder, 'no-qemu') };
  await fails('hypervisor', missing, /no-qemu\) is not installed; install the package qemu-system-x86$/);
  const firecracker = {
    HATCH_VMM: 'firecracker',
    HATCH_NET: 'fake',
    HATCH_FIRECRACKER_BIN: '/nonexistent/fc',
  };
  await fails('hypervisor', firecracker, /^Firecracker \(\/nonexistent\/fc\) is not installed/);
});

test("an API that could not listen is told, unless it is hatchd's own that listens", async () => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  const { port } = other.address() as AddressInfo;
  const data = dataFolder(join(folder, 'serving'));
  const env = { HATCH_HTTP_ADDR: `127.0.0.1:${port}`, HATCH_DATA_DIR: data.root };
  await fails('api', env, new RegExp(`^HATCH_HTTP_ADDR 127.0.0.1:${port} is used by another program; stop`));
  await makeDataFolder(data);
  const letGo = await claimDataFolder(data);
  assert.deepEqual(await found('api', env), { verdict: 'ok', message: `http on 127.0.0.1:${port}` });
  assert.equal((await found('hatchd', env))?.message, `runs with pid ${process.pid}`);
  await letGo();
  other.close();
  await fails('api', { HATCH_HTTP_ADDR: '203.0.113.9:8080' }, /is no address of this host; `ip address`/);
});

test('TLS files that will not do are told by the name of their setting', async () => {
  const pem = await writeFile(join(folder, 'nonsense.pem'), 'no PEM').then(() =>
    join(folder, 'nonsense.pem'),
  );
  const tls = (cert: string, key: string): Record<string, string> => ({
    HATCH_HTTP_TLS_CERT: cert,
    HATCH_HTTP_TLS_KEY: key,
  });
  await fails('api', tls('/nonexistent.pem', pem), /^HATCH_HTTP_TLS_CERT \/nonexistent\.pem is not there\.$/);
  await fails('api', tls(folder, pem), /^HATCH_HTTP_TLS_CERT .* cannot be read\.$/);
  await fails('api', tls(pem, pem), /^HATCH_HTTP_TLS_CERT .*nonsense\.pem is not a certificate, in PEM\.$/);
  const proxy = { HATCH_PROXY_TLS_CERT: pem, HATCH_PROXY_TLS_KEY: pem };
  await fails('proxy', proxy, /^HATCH_PROXY_TLS_CERT .*nonsense\.pem is not a certificate, in PEM\.$/);
});

test('a data folder that cannot be used is told in a sentence', async () => {
  await writeFile(join(folder, 'plain'), '');
  for (const path of ['plain', 'plain/data'])
    await fails('disk', { HATCH_DATA_DIR: join(folder, path) }, /^HATCH_DATA_DIR .* is not a folder\.$/);
  const data = dataFolder(join(folder, 'used'));
  await makeDataFolder(data);
  const before = await readdir(data.root);
  assert.match((await found('disk', { HATCH_DATA_DIR: data.root }))?.message ?? '', /GiB are free at /);
  assert.deepEqual(await readdir(data.root), before);
});

test('a database is looked at and left as it is, whatever version it is of', async () => {
  const path = join(folder, 'looked-at.db');
  const env = { DATABASE_URL: `sqlite:${path}` };
  const made = `sqlite:${path}: its tables are made at the first start`;
  assert.equal((await found('database', env))?.message, made);
  await assert.rejects(readFile(path));
  await writeFile(path, '');
  assert.equal((await found('database', env))?.message, made);
  await (await openStore(`sqlite:${path}`, { clock: systemClock, log: silent })).close();
  assert.deepEqual(await found('database', env), { verdict: 'ok', message: `sqlite:${path} answers` });

  const database = new DatabaseSync(path);
  database.exec("insert into hatch_migrations values ('999-future', '2030-01-01T00:00:00.000Z')");
  await fails('database', env, /made by a newer Hatch/);
  database.exec('delete from hatch_migrations');
  const older = await found('database', env);
  assert.equal(older?.message, made);
  assert.deepEqual(database.prepare('select * from hatch_migrations').all(), []);
  database.close();
});

test('a database that cannot be used is told in a sentence, without its password', async () => {
  await fails(
    'database',
    { DATABASE_URL: `sqlite:${join(folder, 'nowhere/hatch.db')}` },
    /^The folder .*\/nowhere of the database does not exist; make it first\.$/,
  );
  await writeFile(join(folder, 'garbage.db'), 'This is no database, but long enough to be read as one.\n');
  await fails('database', { DATABASE_URL: `sqlite:${join(folder, 'garbage.db')}` }, /damaged, or no SQLite/);
  const env = { DATABASE_URL: 'postgres://hatch:hunter2@127.0.0.1:1/hatch' };
  await fails('database', env, /^The database server named in DATABASE_URL does not answer/);
  assert.doesNotMatch(JSON.stringify(await examine({ ...env, HATCH_VMM: 'fake' })), /hunter2/);
});

test('a default image is what is configured or built, and what is wrong with it is told', async () => {
  const qemu = { HATCH_VMM: 'qemu', HATCH_NET: 'fake', HATCH_QEMU_BIN: '/nonexistent' };
  assert.deepEqual(await found('image', qemu), {
    verdict: 'warn',
    message: 'no default image yet: run `hatchd image build`',
  });
  const image = (rootfs: string): Record<string, string> => ({
    ...qemu,
    HATCH_DEFAULT_KERNEL_PATH: join(folder, 'kernel'),
    HATCH_DEFAULT_ROOTFS_PATH: join(folder, rootfs),
  });
  await fails('image', image('rootfs'), /^HATCH_DEFAULT_KERNEL_PATH .*\/kernel is not a file\.$/);
  await writeFile(join(folder, 'kernel'), 'kernel');
  await fails('image', image('rootfs'), /^HATCH_DEFAULT_ROOTFS_PATH .*\/rootfs is not a file\.$/);
  await mkdir(join(folder, 'rootfs'));
  await fails('image', image('rootfs'), /rootfs is not a file\.$/);
  await symlink('/dev/zero', join(folder, 'device'));
  await fails('image', image('device'), /device is not a file\.$/);
  await writeFile(join(folder, 'disk.vmdk'), `KDMV${'\0'.repeat(2048)}`);
  await fails('image', image('disk.vmdk'), /^HATCH_DEFAULT_ROOTFS_PATH .*disk\.vmdk must be raw or qcow2/);
});
