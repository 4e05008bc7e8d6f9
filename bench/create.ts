import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HatchClient } from '../src/clients/http.ts';
import { run } from '../src/host/run.ts';
import { serveHatchd } from '../test/support/hatchd-process.ts';
import { quantile } from './lib/figures.ts';
import { onFreshDisk } from './lib/fresh-disk.ts';
import { inOwnNetns } from './lib/own-netns.ts';
import { line, print, round } from './lib/table.ts';

/**
 * `node bench/create.ts`, as root: what making a VM costs where its guest is pretended and its network is real (HATCH_NET=real), beside the
 * bare commands for the same place in a network, one after the other: a tap on a bridge, elements in sets of nftables, a line in dnsmasq's
 * file and its signal. One at a time and twenty at a time, in turn; and whether the hundredth takes longer than the first.
 * What is measured lies on a disk of its own (lib/fresh-disk.ts), and what was made stays until a part is over.
 */
const ONE_BY_ONE = 30;
const AT_ONCE = 20;
const ROUNDS = 5;
const CROWD = 100;
const BRIDGE = 'bare0';

await inOwnNetns(import.meta.filename, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'bench-create-'));
  try {
    await onFreshDisk(folder, (disk) => measure(folder, disk));
  } finally {
    await rm(folder, { recursive: true });
  }
});

async function measure(folder: string, disk: string): Promise<void> {
  const hatchd = serveHatchd({
    HATCH_NET: 'real',
    HATCH_DATA_DIR: join(disk, 'data'),
    HATCH_HTTP_ADDR: '127.0.0.1:0',
    HATCH_PROXY_ADDR: '127.0.0.1:0',
    HATCH_RATE_LIMIT: '0',
    HATCH_MAX_VMS_PER_ACCOUNT: '1000',
    HATCH_BRIDGE_CIDR: '10.91.0.1/16',
  });
  try {
    const client = await hatchd.client((await hatchd.line(/^ {2}hatch_/)).trim());
    await ready(client);
    const bare = await openBare(folder);
    await oneByOne(client, bare);
    await atOnce(client, bare);
    await aHundred(client);
    await bare.close();
    await client.close();
  } finally {
    hatchd.kill('SIGTERM');
    await hatchd.ended;
  }
}

/** A place in a network made by hand. */
interface Bare {
  make(name: string): Promise<void>;
  removeAll(): Promise<void>;
  close(): Promise<void>;
}

async function oneByOne(client: HatchClient, bare: Bare): Promise<void> {
  const [ours, theirs]: [number[], number[]] = [[], []];
  for (let i = -3; i < ONE_BY_ONE; i++) {
    const [mine] = await timed(() => client.vms.create());
    const [byHand] = await timed(() => bare.make(`one${i}`));
    if (i < 0) continue;
    ours.push(mine);
    theirs.push(byHand);
  }
  tell('create, one at a time', ours, theirs);
  await removeAll(client, bare);
}

async function atOnce(client: HatchClient, bare: Bare): Promise<void> {
  const [ours, theirs]: [number[], number[]] = [[], []];
  for (let i = -1; i < ROUNDS; i++) {
    const names = Array.from({ length: AT_ONCE }, (_, n) => `many${i}-${n}`);
    const made = await Promise.all(names.map(() => timed(() => client.vms.create())));
    const byHand = await Promise.all(names.map((name) => timed(() => bare.make(name))));
    if (i < 0) continue;
    ours.push(...made.map(([ms]) => ms));
    theirs.push(...byHand.map(([ms]) => ms));
  }
  tell(`create, ${AT_ONCE} at a time`, ours, theirs);
  await removeAll(client, bare);
}

async function removeAll(client: HatchClient, bare: Bare): Promise<void> {
  await Promise.all((await client.vms.list()).map(({ id }) => client.vms.delete(id)));
  await bare.removeAll();
}

async function aHundred(client: HatchClient): Promise<void> {
  const took: number[] = [];
  for (let i = 0; i < CROWD + 5; i++) took.push((await timed(() => client.vms.create()))[0]);
  // The very first ones find programs and code that were not used for a while.
  const [first, last] = [took.slice(3, 8), took.slice(-5)];
  const both = { ours: quantile(last, 0.5), theirs: quantile(first, 0.5) };
  print(line(`create of the ${CROWD}th VM, ms`, both, 'of the first', 'at most 1.5'));
}

function tell(what: string, ours: readonly number[], theirs: readonly number[]): void {
  const both = { ours: quantile(ours, 0.5), theirs: quantile(theirs, 0.5) };
  const more = round(both.ours - both.theirs);
  print(line(`${what}, p50, ms: ${more} more`, both, 'the bare commands', 'at most 15 ms more'));
}

async function openBare(folder: string): Promise<Bare> {
  await run(['ip', 'link', 'add', BRIDGE, 'type', 'bridge']);
  await run(['ip', 'link', 'set', BRIDGE, 'up']);
  await nft(`table inet bare {
    set taps { type ifname; }
    set pairs { type ifname . ether_addr . ipv4_addr; }
  }`);
  const hosts = join(folder, 'hosts');
  await writeFile(hosts, '');
  const conf = `port=0\nbind-interfaces\ninterface=${BRIDGE}\ndhcp-range=10.92.0.0,static,255.255.0.0\ndhcp-hostsfile=${hosts}\npid-file=${folder}/pid\n`;
  await run(['ip', 'address', 'add', '10.92.0.1/16', 'dev', BRIDGE]);
  await writeFile(join(folder, 'conf'), conf);
  await run(['dnsmasq', `--conf-file=${join(folder, 'conf')}`]);
  const pid = (await run(['cat', join(folder, 'pid')])).stdout.trim();
  const known = new Map<string, number>();
  let last = 0;
  const reserve = async (): Promise<void> => {
    const lines = [...known].map(([name, n]) => `${mac(n)},10.92.${n >> 8}.${n & 255},${name}\n`);
    await writeFile(hosts, lines.join(''));
    process.kill(Number(pid), 'SIGHUP');
  };
  const elements = (verb: string, name: string, n: number): string =>
    `${verb} element inet bare taps { ${name} }
     ${verb} element inet bare pairs { ${name} . ${mac(n)} . 10.92.${n >> 8}.${n & 255} }`;
  return {
    async make(name) {
      const n = ++last + 10;
      known.set(name, n);
      await reserve();
      await nft(elements('add', name, n));
      const commands = [
        `tuntap add dev ${name} mode tap`,
        `link set dev ${name} master ${BRIDGE}`,
        `link set dev ${name} type bridge_slave isolated on`,
        `link set dev ${name} up`,
      ];
      await run(['ip', '-batch', '-'], { input: `${commands.join('\n')}\n` });
    },
    async removeAll() {
      for (const [name, n] of known) {
        await run(['ip', 'link', 'del', name]);
        await nft(elements('delete', name, n));
      }
      known.clear();
      await reserve();
    },
    async close() {
      await run(['kill', pid]);
    },
  };
}

function mac(n: number): string {
  return `02:fc:00:00:${(n >> 8).toString(16).padStart(2, '0')}:${(n & 255).toString(16).padStart(2, '0')}`;
}

function nft(text: string): Promise<unknown> {
  return run(['nft', '-f', '-'], { input: text });
}

async function timed<T>(work: () => Promise<T>): Promise<readonly [number, T]> {
  const from = performance.now();
  const done = await work();
  return [performance.now() - from, done];
}

async function ready(client: HatchClient): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      await client.ready();
      return;
    } catch (error) {
      if (tries > 200) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
