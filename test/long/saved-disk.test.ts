import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, test } from 'node:test';
import { openSavedDisks } from '../../src/guest/saved-disk/inside.ts';
import type { SavedDisk } from '../../src/guest/saved-disk/open-disk.ts';
import { run } from '../../src/host/run.ts';
import type { FileChange } from '../../src/model/saved-files.ts';
import type { MachineSpec } from '../../src/vmm/driver.ts';
import { bootAndSave } from '../support/booted-guest.ts';
import { qemuFolder } from '../support/qemu-folder.ts';

const root = await mkdtemp(join(tmpdir(), 'hatch-saved-'));
after(() => rm(root, { recursive: true, force: true }));
const tmp = join(root, 'tmp');
await mkdir(tmp);
const { folder, open, remove } = await qemuFolder();
const driver = await open();
const signal = new AbortController().signal;
const booted = await bootAndSave(driver, folder);
after(async () => {
  await booted.remove();
  await remove();
});
const disks = openSavedDisks({ run, tmp });

function diskOf(spec: MachineSpec): SavedDisk {
  const [disk] = spec.disks;
  assert(disk);
  return { path: join(spec.folder, disk.path), format: disk.format };
}

/** What the guest says of its files, to hold ours against. What is mounted over a folder hides it, and logs go on. */
const LISTED = '/boot /etc /home /opt /root /srv /usr';
const SCRIPT = `
set -e
mkdir -p /srv/test/deep
printf fsynced > /srv/test/deep/file
head -c 3000000 /dev/urandom > /srv/test/random
truncate -s 2G /srv/test/sparse
printf end >> /srv/test/sparse
ln -s ../../etc/hostname /srv/test/link
chmod 0600 /etc/hostname
touch "/srv/test/$(printf 'line\\nbreak')" "/srv/test/$(printf 'b\\377')"
rm /etc/motd
find ${LISTED} -xdev -printf '%y %s %m %U %G %T@ %l %p\\0' > /root/listing
find /etc /usr/bin -xdev -type f -exec sha256sum -z {} + > /root/sums
mv /root/listing /root/sums /var/tmp/
sync
printf 'after the rest' > /srv/test/deep/last
sync /srv/test/deep/last
`;

const guest = await booted.fork();
const done = await guest.agent.exec(
  { command: SCRIPT, cwd: null, env: {}, stdin: null, timeoutMs: 120_000 },
  signal,
);
assert.equal(done.exitCode, 0, done.stderr);
// Saved as a running guest is: nothing told it, and nothing was flushed.
await guest.machine.pause();
await guest.machine.save({
  statePath: join(guest.spec.folder, 'state.bin'),
  memoryPath: join(guest.spec.folder, 'memory.bin'),
});
guest.agent.close();
await guest.machine.kill();
const [before, now] = [diskOf(booted.spec), diskOf(guest.spec)];
const read = async (path: string): Promise<Buffer> =>
  buffer((await disks.readFile(now, path, signal)).content);

/** All there is below a folder: what an empty disk does not have of it. */
async function everything(path: string): Promise<readonly FileChange[]> {
  const empty = { path: join(root, 'empty.raw'), format: 'raw' } as const;
  await run(['mke2fs', '-q', '-F', '-t', 'ext4', empty.path, '8M']);
  const found: FileChange[] = [];
  for await (const change of disks.diffDisks(empty, now, { path }, signal)) found.push(change);
  return found;
}

test('what a guest fsynced last is on its saved disk, though its journal was not replayed', async (t) => {
  assert.equal((await read('/srv/test/deep/last')).toString(), 'after the rest');
  // And it was in the journal: a reader that does not look there does not find it, one that replays it does.
  const raw = join(root, 'whole.raw');
  await run(['qemu-img', 'convert', '-f', now.format, '-O', 'raw', now.path, raw], { timeoutMs: 120_000 });
  const stat = async (): Promise<string> =>
    (await run(['debugfs', '-R', 'stat /srv/test/deep/last', raw])).stderr;
  assert.match(await stat(), /File not found/);
  await run(['e2fsck', '-E', 'journal_only', '-fy', raw], { timeoutMs: 120_000, okExitCodes: [0, 1] });
  assert.doesNotMatch(await stat(), /File not found/);
  const found: FileChange[] = [];
  const whole = { path: raw, format: 'raw' } as const;
  for await (const change of disks.diffDisks(now, whole, { path: '/' }, signal)) found.push(change);
  assert.deepEqual(found, []);
  t.diagnostic('the disk as it lies and after e2fsck replayed its journal compare as the same');
  await rm(raw);
});

test('every file is listed as the guest itself listed it', async (t) => {
  const said = new Map<string, string>();
  for (const line of (await read('/var/tmp/listing')).toString().split('\0')) {
    const at = line.indexOf(' /') + 1;
    const path = line.slice(line.lastIndexOf(' /') + 1);
    // Ten digits of a second, of which we tell three.
    const facts = line.slice(0, line.lastIndexOf(' /')).replace(/^((?:\S+ ){5}\d+\.\d{3})\d*/, '$1');
    if (at > 0) said.set(path, facts);
  }
  const letters = { file: 'f', folder: 'd', link: 'l', other: 'p' };
  const seen = new Map<string, string>();
  for (const top of LISTED.split(' ')) {
    for (const { path, after: file } of await everything(top)) {
      assert(file);
      const { kind, sizeBytes, mode, uid, gid, modifiedAt, target } = file;
      const seconds = (modifiedAt / 1000).toFixed(3);
      seen.set(
        path.text,
        `${letters[kind]} ${sizeBytes} ${mode.toString(8)} ${uid} ${gid} ${seconds} ${target?.text ?? ''}`,
      );
    }
  }
  // Made after the guest looked, and what that and the lists themselves were made in.
  for (const path of ['/srv/test/deep', '/srv/test/deep/last', '/root', '/root/listing']) {
    said.delete(path);
    seen.delete(path);
  }
  t.diagnostic(`${seen.size} files`);
  assert(seen.size > 5000);
  const different = [...new Set([...said.keys(), ...seen.keys()])].filter(
    (path) => said.get(path) !== seen.get(path),
  );
  assert.deepEqual(
    different.map((path) => [path, said.get(path), seen.get(path)]),
    [],
  );
});

test('every content reads as the guest read it', async (t) => {
  const sums = (await read('/var/tmp/sums'))
    .toString()
    .split('\0')
    .filter((line) => line !== '');
  const sample = sums.filter((_, i) => i % 25 === 0);
  assert(sample.length > 20);
  for (const line of sample) {
    const [sum, path] = [line.slice(0, 64), line.slice(66)];
    assert.equal(
      createHash('sha256')
        .update(await read(path))
        .digest('hex'),
      sum,
      path,
    );
  }
  const sparse = await disks.readFile(now, '/srv/test/sparse', signal);
  let bytes = 0;
  for await (const chunk of sparse.content) bytes += Buffer.isBuffer(chunk) ? chunk.length : 0;
  assert.equal(bytes, 2 * 1024 ** 3 + 3);
  assert.equal((await read('/srv/test/link')).toString(), (await read('/etc/hostname')).toString());
  t.diagnostic(`${sample.length} of ${sums.length} files, and one of 2 GiB`);
});

test('two saves of a guest are compared in seconds, and only what changed is told', async (t) => {
  const started = performance.now();
  const rss = process.memoryUsage().rss;
  const found: FileChange[] = [];
  for await (const change of disks.diffDisks(before, now, { path: '/' }, signal)) found.push(change);
  const seconds = (performance.now() - started) / 1000;
  const grown = (process.memoryUsage().rss - rss) / 1024 ** 2;
  t.diagnostic(`${found.length} changes in ${seconds.toFixed(2)} s, ${grown.toFixed(0)} MiB more memory`);
  const told = found
    .map(({ path, change, differences }) => [change, path.text, ...differences].join(' '))
    .filter((line) => !/ \/(var|run|tmp)\//.test(line));
  assert.deepEqual(told, [
    'changed /etc/hostname mode',
    'removed /etc/motd',
    'added /srv/test',
    'added /srv/test/b\ufffd',
    'added /srv/test/deep',
    'added /srv/test/deep/file',
    'added /srv/test/deep/last',
    'added /srv/test/line\nbreak',
    'added /srv/test/link',
    'added /srv/test/random',
    'added /srv/test/sparse',
  ]);
  assert(seconds < 20, `${seconds} s`);
  assert(grown < 150, `${grown} MiB`);
});

test('nothing that was started to look inside is left', async () => {
  assert.deepEqual(await readdir(tmp), []);
});
