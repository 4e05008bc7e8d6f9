import { chmod, mkdir, mkdtemp, readFile, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Vm } from '../src/contract/vm.ts';
import { tail } from '../src/host/files.ts';
import { commandLine, spawnDetached } from '../src/host/process.ts';
import { run, type Argv } from '../src/host/run.ts';
import { qemuOf, startHatchd, type Hatchd } from '../test/support/hatchd.ts';
import { agentAnswers, argumentsByHand, end } from './lib/bare-qemu.ts';
import { quantile } from './lib/figures.ts';
import { inOwnNetns } from './lib/own-netns.ts';
import { line, print } from './lib/table.ts';

/**
 * `node bench/boot.ts [pairs]`, as root: what hatchd adds to a real guest's boot, from `POST /vms` to ready, beside the same QEMU started by
 * hand with the same arguments, image, seed and MAC, on a bridge and a DHCP server of its own, from its start to the agent's answer. In turn.
 */
const PAIRS = Number(process.argv[2] ?? 5);
const BOOT_MS = 300_000;
const BRIDGE = 'bare0';
const TAP = 'bare-tap';

await inOwnNetns(import.meta.filename, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'bench-boot-'));
  await chmod(folder, 0o755);
  const hatchd = await startHatchd(folder, { HATCH_VMM: 'qemu' });
  try {
    const dhcp = await openNetwork(folder);
    const [ours, theirs]: [number[], number[]] = [[], []];
    // The first pair finds nothing in the page cache.
    for (let i = -1; i < PAIRS; i++) {
      const made = await boot(hatchd, folder);
      const byHand = await dhcp.withLease(made.mac, () => bootByHand(made));
      console.error(JSON.stringify({ pair: i, ours: made.ms, byHand, load: loadavg()[0] }));
      await rm(made.folder, { recursive: true });
      if (i < 0) continue;
      ours.push(made.ms);
      theirs.push(byHand);
    }
    await dhcp.close();
    const both = { ours: quantile(ours, 0.5), theirs: quantile(theirs, 0.5) };
    print(
      line(
        `create of a real guest to ready, ms (${availableParallelism()} processors)`,
        both,
        'the same QEMU by hand',
        'at most 1.05',
      ),
    );
  } finally {
    await hatchd.down();
    await rm(folder, { recursive: true });
  }
});

/** A guest that was booted, and what a QEMU by hand needs for the same. */
interface Made {
  readonly ms: number;
  readonly folder: string;
  readonly argv: Argv;
  readonly mac: string;
}

/** Makes a VM, waits until it is ready and removes it; what it booted with is laid out for the one by hand. */
async function boot({ client, data, publicKey }: Hatchd, folder: string): Promise<Made> {
  const from = performance.now();
  const vm = await client.vms.create(
    { name: 'one', ssh_authorized_keys: [publicKey] },
    { wait: 'ready', timeout: BOOT_MS / 1000 },
  );
  const ms = performance.now() - from;
  const own = join(folder, 'bare');
  await mkdir(own);
  const argv = await layOut(vm, join(data, 'vms', vm.id), own);
  await client.vms.delete(vm.id);
  return { ms, folder: own, argv, mac: vm.guest_mac ?? '' };
}

/** Lays out what the VM was started with: an overlay over its image, its seed, and its command line. */
async function layOut({ id }: Vm, from: string, to: string): Promise<Argv> {
  for (const name of ['kernel', 'initrd']) await symlink(await realpath(join(from, name)), join(to, name));
  await writeFile(join(to, 'seed.iso'), await readFile(join(from, 'seed.iso')));
  const disk = join(from, 'disk.qcow2');
  const { stdout } = await run(['qemu-img', 'info', '-U', '--output=json', disk]);
  const info = JSON.parse(stdout) as Readonly<Record<string, string | number>>;
  // The VM's name for its image goes with the VM.
  const backing = await realpath(String(info['full-backing-filename']));
  const format = String(info['backing-filename-format']);
  const size = String(info['virtual-size']);
  await run([
    'qemu-img',
    'create',
    '-q',
    '-f',
    'qcow2',
    '-b',
    backing,
    '-F',
    format,
    join(to, 'disk.qcow2'),
    size,
  ]);
  return argumentsByHand((await commandLine((await qemuOf(id)) ?? 0)) ?? [], { tap: TAP });
}

/** Starts a QEMU by hand; gives the milliseconds from there to its agent's answer. */
async function bootByHand({ folder, argv }: Made): Promise<number> {
  const commands = [
    `tuntap add dev ${TAP} mode tap`,
    `link set dev ${TAP} master ${BRIDGE}`,
    `link set dev ${TAP} up`,
  ];
  await run(['ip', '-batch', '-'], { input: `${commands.join('\n')}\n` });
  const from = performance.now();
  const qemu = await spawnDetached(argv, { cwd: folder, log: join(folder, 'qemu.log') });
  try {
    const ended = qemu.exited.then(async () => {
      throw new Error(`the QEMU by hand ended: ${await tail(join(folder, 'qemu.log'), 1000)}`);
    });
    await Promise.race([agentAnswers(join(folder, 'agent.sock'), BOOT_MS), ended]);
    return performance.now() - from;
  } finally {
    await end(qemu);
    await run(['ip', 'link', 'del', TAP]);
  }
}

/** A bridge with a DHCP server, which gives one guest an address as hatchd's does. */
async function openNetwork(folder: string): Promise<{
  withLease<T>(mac: string, work: () => Promise<T>): Promise<T>;
  close(): Promise<void>;
}> {
  await run(['ip', 'link', 'add', BRIDGE, 'type', 'bridge']);
  await run(['ip', 'address', 'add', '10.92.0.1/24', 'dev', BRIDGE]);
  await run(['ip', 'link', 'set', BRIDGE, 'up']);
  const own = join(folder, 'dhcp');
  await mkdir(own);
  await writeFile(join(own, 'hosts'), '');
  await writeFile(
    join(own, 'conf'),
    [
      ...['port=0', 'bind-interfaces', `interface=${BRIDGE}`, 'dhcp-range=10.92.0.0,static,255.255.255.0'],
      ...[`dhcp-hostsfile=${own}/hosts`, `dhcp-leasefile=${own}/leases`, `pid-file=${own}/pid`],
      '',
    ].join('\n'),
  );
  await run(['dnsmasq', `--conf-file=${join(own, 'conf')}`]);
  const pid = Number(await readFile(join(own, 'pid'), 'utf8'));
  let last = 9;
  return {
    async withLease(mac, work) {
      // One of its own: the last guest was killed and has its lease still, and whoever is offered nothing boots five seconds longer.
      await writeFile(join(own, 'hosts'), `${mac},10.92.0.${++last}\n`);
      process.kill(pid, 'SIGHUP');
      return work();
    },
    close: async () => void process.kill(pid, 'SIGTERM'),
  };
}
