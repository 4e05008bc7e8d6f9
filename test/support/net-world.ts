import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { systemClock } from '../../src/base/clock.ts';
import { deadline } from '../../src/base/deadline.ts';
import { silent } from '../../src/base/logger.ts';
import { until } from '../../src/base/until.ts';
import { dhcpFiles } from '../../src/net/dhcp-server.ts';
import { openLinuxNetwork } from '../../src/net/linux.ts';
import type { Network, NetworkOptions, Port } from '../../src/net/network.ts';
import { makeNetns, type Netns } from './netns.ts';

const PROBE = join(import.meta.dirname, 'net-probe.ts');

/** The host's address towards the "internet", and what is there. */
export const OUTSIDE = {
  host: '203.0.113.2',
  internet: '203.0.113.1',
  other: '198.51.100.1',
  port: 7000,
} as const;

/** A program in a namespace one talks to line by line. */
export interface Talk {
  /** Sends a line and gives the next line of JSON it prints. */
  ask(line: string): Promise<unknown>;
  end(): Promise<void>;
}

/** A namespace that plays a guest: its eth0 is joined to the VM's tap by a QEMU without a machine, which holds both open. */
export interface PlayedGuest {
  readonly port: Port;
  readonly netns: Netns;
  /** Gives eth0 a MAC and addresses, and a default route by the bridge; none: only the link. */
  configure(mac: string, addresses: readonly string[]): Promise<void>;
  probe(...args: readonly string[]): Promise<unknown>;
  hold(ip: string, port: number): Promise<Talk>;
  /** A server on a port of its own, until `end`. */
  serve(port: number): Promise<{ end(): Promise<void> }>;
  end(): Promise<void>;
}

/** A host with a network, and an internet behind it that has no way back to guests' own addresses. */
export interface NetWorld {
  readonly host: Netns;
  readonly internet: Netns;
  readonly dhcpPidFile: string;
  open(options?: Partial<NetworkOptions>): Network;
  guest(port: Port): Promise<PlayedGuest>;
  /** Runs a probe on the host itself. */
  probe(...args: readonly string[]): Promise<unknown>;
  hold(ip: string, port: number): Promise<Talk>;
  dispose(): Promise<void>;
}

/** Makes the namespaces, the wire between them, and servers on 7000 (internet) and 7001 (host). Needs root and QEMU. */
export async function makeNetWorld(): Promise<NetWorld> {
  const [host, internet] = [await makeNetns('hnet'), await makeNetns('hnet')];
  const folder = await mkdtemp(join(tmpdir(), 'hatch-net-'));
  const children: ChildProcess[] = [];
  const networks: Network[] = [];
  const guests: PlayedGuest[] = [];
  const open = (options: Partial<NetworkOptions> = {}): Network => {
    const net = openLinuxNetwork(
      { run: host.run, log: silent, clock: systemClock },
      {
        bridge: 'hatch0',
        cidr: '192.168.241.1/24',
        dnsServers: ['203.0.113.1'],
        egress: 'allow',
        folder,
        ...options,
      },
    );
    networks.push(net);
    return net;
  };
  await host.run([
    'ip',
    'link',
    'add',
    'up0',
    'type',
    'veth',
    'peer',
    'name',
    'down0',
    'netns',
    internet.name,
  ]);
  await host.run(['ip', 'address', 'add', `${OUTSIDE.host}/24`, 'dev', 'up0']);
  await host.run(['ip', 'link', 'set', 'dev', 'up0', 'up']);
  await host.run(['ip', 'route', 'add', 'default', 'via', OUTSIDE.internet]);
  for (const address of [`${OUTSIDE.internet}/24`, `${OUTSIDE.other}/32`, '169.254.169.254/32']) {
    await internet.run(['ip', 'address', 'add', address, 'dev', 'down0']);
  }
  await internet.run(['ip', 'link', 'set', 'dev', 'down0', 'up']);
  for (const [netns, port] of [
    [internet, '7000'],
    [host, '7001'],
  ] as const) {
    const server = startTalk(netns, ['serve', port]);
    children.push(server.child);
    await server.next();
  }
  return {
    host,
    internet,
    dhcpPidFile: dhcpFiles(folder).pid,
    open,
    guest: async (port) => {
      const guest = await playGuest(host, port);
      guests.push(guest);
      return guest;
    },
    probe: (...args) => probe(host, args),
    hold: (ip, port) => hold(host, ip, port),
    dispose: async () => {
      for (const net of networks) await net.release();
      for (const guest of guests) await guest.end();
      for (const child of children) child.kill('SIGKILL');
      await open().down();
      await host.dispose();
      await internet.dispose();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Runs a probe to its end; what it printed. */
async function probe(netns: Netns, args: readonly string[]): Promise<unknown> {
  const { stdout } = await netns.run([process.execPath, PROBE, ...args]);
  return stdout.trim() === '' ? null : JSON.parse(stdout);
}

function startTalk(
  netns: Netns,
  args: readonly string[],
): {
  readonly child: ChildProcess;
  readonly next: () => Promise<unknown>;
  readonly send: (line: string) => void;
} {
  const [program, ...rest] = netns.enter([process.execPath, PROBE, ...args]);
  const child = spawn(program, rest, { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines: Interface = createInterface({ input: child.stdout });
  const waiting = lines[Symbol.asyncIterator]();
  return {
    child,
    next: () =>
      deadline(`an answer of ${args.join(' ')}`, 5000, async () => {
        const { value, done } = await waiting.next();
        return done ? null : (JSON.parse(String(value)) as unknown);
      }),
    send: (line) => void child.stdin.write(line + '\n'),
  };
}

async function hold(netns: Netns, ip: string, port: number): Promise<Talk> {
  const { child, next, send } = startTalk(netns, ['hold', ip, String(port)]);
  await next();
  return {
    ask: (line) => {
      send(line);
      return next();
    },
    end: () => endChild(child),
  };
}

async function endChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
}

async function playGuest(host: Netns, port: Port): Promise<PlayedGuest> {
  const netns = await makeNetns('hnet');
  const wire = `g${port.vmId.slice(-8)}`;
  const tap = (id: string, ifname: string): string[] => [
    ...['-netdev', `tap,id=${id},ifname=${ifname},script=no,downscript=no`],
    ...['-netdev', `hubport,id=hub${id},hubid=0,netdev=${id}`],
  ];
  const [program, ...args] = host.enter([
    ...['qemu-system-x86_64', '-M', 'none', '-nodefaults', '-no-user-config', '-display', 'none'],
    ...tap('vm', port.vmId),
    ...tap('guest', wire),
  ]);
  const child = spawn(program, args, { stdio: 'ignore' });
  let ended = false;
  await until({ clock: systemClock, signal: AbortSignal.timeout(10_000) }, async () => {
    const { exitCode } = await host.run(['ip', 'link', 'show', 'dev', wire], { okExitCodes: [0, 1] });
    return exitCode === 0 ? true : undefined;
  });
  await host.run(['ip', 'link', 'set', 'dev', wire, 'netns', netns.name]);
  await netns.run(['ip', 'link', 'set', 'dev', wire, 'name', 'eth0']);
  return {
    port,
    netns,
    configure: async (mac, addresses) => {
      const lines = [
        'link set dev eth0 down',
        'address flush dev eth0',
        `link set dev eth0 address ${mac}`,
        'link set dev eth0 up',
        ...addresses.map((address) => `address add ${address}/24 dev eth0`),
        addresses.length > 0 ? 'route add default via 192.168.241.1' : 'route add default dev eth0',
      ];
      await netns.run(['ip', '-batch', '-'], { input: lines.join('\n') + '\n' });
    },
    probe: (...args) => probe(netns, args),
    hold: (ip, to) => hold(netns, ip, to),
    serve: async (on) => {
      const server = startTalk(netns, ['serve', String(on)]);
      await server.next();
      return { end: () => endChild(server.child) };
    },
    end: async () => {
      await endChild(child);
      if (!ended) await netns.dispose();
      ended = true;
    },
  };
}
