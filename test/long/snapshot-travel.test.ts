import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { START_COUNTING } from '../support/counter.ts';
import { startHatchd, type Hatchd } from '../support/hatchd.ts';

/** Two installations that share nothing, one after the other: a guest that counts goes from the one to the other as a file. */
let folder: string;
let first: Hatchd;
let second: Hatchd | undefined;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'travel-'));
});
after(async () => {
  await (second ?? first).down();
  await rm(folder, { recursive: true, force: true });
});

async function installation(name: string): Promise<Hatchd> {
  const own = join(folder, name);
  await mkdir(own);
  await writeFile(join(own, 'store-key'), randomBytes(32).toString('hex'), { mode: 0o600 });
  return startHatchd(own, { HATCH_SNAPSHOT_KEY_FILE: join(own, 'store-key') });
}

/** Runs a line in a guest through the agent; throws when it fails. */
async function inside({ client }: Hatchd, id: string, command: string): Promise<string> {
  const { exit_code, stdout, stderr } = await client.vms.exec(id, { command, timeout_seconds: 120 });
  assert.equal(exit_code, 0, `${command}: ${stderr}`);
  return stdout.trim();
}

const count = async (hatchd: Hatchd, id: string): Promise<number> =>
  Number(await inside(hatchd, id, 'cat /root/count || echo 0'));

/** The `hatch` command; fails with what it said. */
async function hatch(hatchd: Hatchd, ...words: readonly string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await hatchd.hatch(...words);
  assert.equal(exitCode, 0, `hatch ${words.join(' ')}: ${stderr}`);
  return stdout;
}

test('a guest is exported, imported by another installation, and counts on there, woken and as a copy', async (t) => {
  first = await installation('first');
  const vm = await first.client.vms.create(
    { name: 'counter', ssh_authorized_keys: [first.publicKey] },
    { wait: 'ready', timeout: 300 },
  );
  await inside(first, vm.id, 'systemctl is-system-running --wait || true');
  await inside(first, vm.id, START_COUNTING);
  await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () =>
    (await count(first, vm.id)) > 0 ? true : undefined,
  );
  const boot = await inside(first, vm.id, 'cat /proc/sys/kernel/random/boot_id');
  const hostKey = await inside(first, vm.id, 'cat /etc/ssh/ssh_host_ed25519_key.pub');
  const counted = await count(first, vm.id);
  await first.client.vms.snapshot(vm.id, { name: 'golden' });

  const file = join(folder, 'golden.hatch');
  const key = join(folder, 'file-key');
  await writeFile(key, randomBytes(32).toString('base64'), { mode: 0o600 });
  const bare = await first.hatch('snapshot', 'export', 'golden', '-o', file);
  assert.match(bare.stderr, /Snapshots are encrypted here: give a key/);
  await assert.rejects(stat(file), 'and nothing is left of it');
  let from = performance.now();
  t.diagnostic(await hatch(first, 'snapshot', 'export', 'golden', '-o', file, '--key-file', key));
  const { size } = await stat(file);
  t.diagnostic(`exported in ${Math.round(performance.now() - from)} ms: ${size} bytes`);
  assert.ok(!(await first.log()).includes(await readFile(key, 'utf8')), 'no key is logged');
  // Nothing of the first is there any more.
  await first.down();
  await rm(join(folder, 'first'), { recursive: true });

  second = await installation('second');
  const refused = await second.hatch('snapshot', 'import', file);
  assert.match(refused.stderr, /it is encrypted, and the key it was exported with is not given/);
  assert.equal(await hatch(second, 'snapshot', 'ls', '-q'), '');
  from = performance.now();
  t.diagnostic(await hatch(second, 'snapshot', 'import', file, '--name', 'far', '--key-file', key));
  t.diagnostic(`imported in ${Math.round(performance.now() - from)} ms`);
  assert.match(await hatch(second, 'snapshot', 'ls'), /^far .* manual /m);
  const spool = await readdir(join(second.data, 'spool'));
  assert.ok(!spool.some((name) => name.startsWith('import-')), `left in the spool: ${spool.join()}`);

  await hatch(second, 'vm', 'create', 'copy', '--snapshot', 'far', '--wait', '--timeout', '300s');
  await hatch(second, 'vm', 'start', 'counter', '--wait', '--timeout', '300s');
  const addresses = new Set<unknown>([vm.guest_mac]);
  for (const name of ['copy', 'counter']) {
    const awake = await second.client.vms.get(name);
    assert.equal(awake.state, 'running');
    addresses.add(awake.guest_mac);
    assert.equal(await inside(second, name, 'cat /proc/sys/kernel/random/boot_id'), boot, 'it did not boot');
    const now = await count(second, name);
    assert.ok(now >= counted, `it counted ${counted}, then ${now}`);
    await until({ clock: systemClock, signal: AbortSignal.timeout(30_000) }, async () =>
      second && (await count(second, name)) > now ? true : undefined,
    );
    assert.equal(await inside(second, name, 'hostname'), name);
    assert.notEqual(await inside(second, name, 'cat /etc/ssh/ssh_host_ed25519_key.pub'), hostKey);
    const ip = new RegExp(`inet ${awake.guest_ip ?? ''}/`);
    await until({ clock: systemClock, signal: AbortSignal.timeout(30_000) }, async () =>
      second && ip.test(await inside(second, name, 'ip -4 addr')) ? true : undefined,
    );
  }
  assert.equal(addresses.size, 3, 'each has a MAC of its own');
  const there = '/home/debian/.ssh/authorized_keys';
  await inside(second, 'counter', `echo '${second.publicKey}' >> ${there}`);
  const reached = await second.ssh(await second.client.vms.get('counter'), 'debian', 'hostname');
  assert.equal(reached, 'counter');

  // It is at home there: it sleeps, wakes as itself, stops, and boots its own disk with its own kernel.
  const slept = await count(second, 'counter');
  await hatch(second, 'vm', 'snapshot', 'counter');
  await hatch(second, 'vm', 'start', 'counter', '--wait', '--timeout', '300s');
  assert.ok((await count(second, 'counter')) >= slept);
  await second.client.vms.stop('counter', { grace_seconds: 60 });
  await hatch(second, 'vm', 'start', 'counter', '--wait', '--timeout', '300s');
  assert.ok((await count(second, 'counter')) >= slept, 'its disk came along');
});
