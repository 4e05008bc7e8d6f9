import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { CommandFailed, type Run } from '../host/run.ts';
import type { Found } from './doctor-finding.ts';
import { cgroups, kernel, memory, nftables, processor, sshPorts } from './doctor-host.ts';

let folder: string;
let count = 0;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-host-'));
});
after(() => rm(folder, { recursive: true }));

/** A host whose /proc and /sys have these files. */
async function host(files: Readonly<Record<string, string>>): Promise<string> {
  const root = join(folder, String(count++));
  await mkdir(root);
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), text);
  }
  return root;
}

/** As `VERDICT: MESSAGE`. */
const told = (found: readonly Found[]): readonly string[] =>
  found.map(({ verdict, message }) => `${verdict}: ${message}`);

test('a kernel is told by its version; one older than Firecracker is made for is a warning', async () => {
  const of = async (release: string): Promise<string> =>
    told(await kernel(await host({ 'proc/sys/kernel/osrelease': `${release}\n` }))).join();
  assert.equal(await of('6.1.0-18-amd64'), 'ok: Linux 6.1.0-18-amd64');
  assert.equal(await of('5.10.230'), 'ok: Linux 5.10.230');
  assert.match(await of('6.12.3'), /^ok: Linux 6\.12\.3; Firecracker's own tests run on 5\.10, 6\.1, 6\.18/);
  // Not to be taken for 6.1 by its first letters.
  assert.match(await of('6.10.1'), /^ok: Linux 6\.10\.1; Firecracker's own tests/);
  for (const old of ['5.4.0-42', '4.19.1'])
    assert.match(await of(old), /^warn: Linux .* is older than .* install 5\.10 or newer$/);
  assert.match(told(await kernel(await host({}))).join(), /^warn: the kernel does not say its version$/);
});

test('what cgroup v2 lacks is told by what is lost with it', async () => {
  const of = async (controllers: string | null): Promise<string> => {
    const root = await host({
      'cg/x': '',
      ...(controllers === null ? {} : { 'cg/cgroup.controllers': controllers }),
    });
    await mkdir(join(root, 'proc'));
    const line =
      controllers === null ? 'tmpfs /sys/fs/cgroup tmpfs rw 0 0' : `cgroup2 ${root}/cg cgroup2 rw 0 0`;
    await writeFile(join(root, 'proc/mounts'), `${line}\n`);
    return told(await cgroups(root)).join();
  };
  assert.equal(await of('cpuset cpu io memory pids\n'), 'ok: version 2, with cpu, memory, pids');
  assert.match(
    await of('cpu pids\n'),
    /^warn: cgroup v2 lacks memory here, so the host bounds no guest's memory; boot/,
  );
  assert.match(
    await of('hugetlb\n'),
    /lacks cpu, memory, pids here, .* no guest's processor, memory, threads;/,
  );
  assert.match(await of(null), /^warn: no cgroup v2 here, .*systemd\.unified_cgroup_hierarchy=1/);
});

test('swap and KSM are warnings where they are on', async () => {
  const header = 'Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n';
  assert.deepEqual(
    told(await memory(undefined, await host({ 'proc/swaps': header, 'sys/kernel/mm/ksm/run': '0\n' }))),
    ['ok: no swap', 'ok: KSM is off'],
  );
  // A kernel without either has no such files; 2 is KSM stopped, its pages taken apart.
  assert.deepEqual(told(await memory(undefined, await host({}))), ['ok: no swap', 'ok: KSM is off']);
  assert.equal(
    told(await memory(undefined, await host({ 'sys/kernel/mm/ksm/run': '2\n' })))[1],
    'ok: KSM is off',
  );
  const swaps = `${header}/dev/sda2  partition\t1\t0\t-2\n/swapfile  file\t1\t0\t-3\n`;
  const [swap, ksm] = told(
    await memory(undefined, await host({ 'proc/swaps': swaps, 'sys/kernel/mm/ksm/run': '1\n' })),
  );
  assert.match(swap ?? '', /^warn: swap is on \(\/dev\/sda2, \/swapfile\): .*`swapoff -a`/);
  assert.match(ksm ?? '', /^warn: KSM shares .*`echo 2 > \/sys\/kernel\/mm\/ksm\/run`/);
});

test('cores with threads are a warning', async () => {
  const of = async (active: string): Promise<string> =>
    told(await processor(await host({ 'sys/devices/system/cpu/smt/active': active }))).join();
  assert.match(await of('1\n'), /^warn: SMT is on, .*echo off > \/sys\/devices\/system\/cpu\/smt\/control/);
  assert.equal(await of('0\n'), 'ok: SMT is off, or there is none');
  assert.match(told(await processor(await host({}))).join(), /^ok: nothing says/);
});

test('nftables is tried, and what is missing of it is told', async () => {
  const failing =
    (fields: { missing?: boolean; stderrTail?: string }): Run =>
    async (argv) => {
      throw new CommandFailed(argv, 'failed', fields);
    };
  const asked: string[] = [];
  const works: Run = async (argv) => {
    asked.push(argv.join(' '));
    return { stdout: '', stderr: '', exitCode: 0 };
  };
  assert.deepEqual(told(await nftables({ run: works })), ['ok: works']);
  assert.deepEqual(asked, ['nft list tables']);
  assert.match(
    told(await nftables({ run: failing({ missing: true }) })).join(),
    /^fail: nft is not installed; `apt-get/,
  );
  const denied = { stderrTail: 'netlink: Error: cache initialization failed: Operation not permitted\nmore' };
  assert.match(
    told(await nftables({ run: failing(denied) })).join(),
    /^fail: nft does not work here \(netlink: .* not permitted\); run as root .*`modprobe nf_tables`$/,
  );
});

test('SSH ports that somebody listens on are counted: here, everywhere, on IPv6 too; connections are none', async () => {
  const head = '  sl  local_address rem_address   st\n';
  const line = (local: string, state: string): string => `   0: ${local} 00000000:0000 ${state} 0\n`;
  const [local, other, any] = ['0100007F', '0A01A8C0', '00000000'];
  const tcp = [
    line(`${local}:0898`, '0A'), // 2200
    line(`${any}:0899`, '0A'), // 2201
    line(`${other}:089A`, '0A'), // 2202, at 192.168.1.10
    line(`${local}:089B`, '01'), // 2203, connected
    line(`${any}:0016`, '0A'), // 22
  ];
  const tcp6 = line(`${'0'.repeat(32)}:089C`, '0A'); // 2204
  const root = await host({ 'proc/net/tcp': head + tcp.join(''), 'proc/net/tcp6': head + tcp6 });
  const of = async (address: string, min: number, max: number): Promise<string> =>
    told(await sshPorts({ address, min, max }, root)).join();
  assert.match(
    await of('127.0.0.1', 2200, 2209),
    /^ok: 7 of the SSH ports 2200 to 2209 are free; those in use/,
  );
  assert.match(await of('192.168.1.10', 2200, 2209), /^ok: 7 of/);
  assert.match(await of('0.0.0.0', 2200, 2209), /^ok: 6 of/);
  assert.equal(await of('127.0.0.1', 2205, 2209), 'ok: all of the SSH ports 2205 to 2209 are free');
  assert.match(await of('127.0.0.1', 2200, 2201), /^fail: none of .* is free; .*HATCH_SSH_PORT_MAX$/);
});

test('a budget for guests that the host has not got is told, with what to do', async () => {
  const root = await host({ 'proc/meminfo': 'MemTotal:        2048000 kB\nMemFree:          1 kB\n' });
  const [, , enough] = told(await memory(1999, root));
  assert.equal(enough, 'ok: guests may take 1999 MiB, and the host has more');
  const [, , tooMuch] = told(await memory(2000, root));
  assert.match(
    tooMuch ?? '',
    /^warn: HATCH_MEMORY_BUDGET_MIB is 2000 MiB and the host has 2000 MiB in all: .* lower/,
  );
  assert.equal(told(await memory(undefined, root)).length, 2);
});
