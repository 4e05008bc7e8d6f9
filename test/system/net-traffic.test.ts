import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { newId } from '../../src/base/ids.ts';
import { until } from '../../src/base/until.ts';
import type { Argv } from '../../src/host/run.ts';
import type { Network } from '../../src/net/network.ts';
import { examplePort } from '../../src/net/network-suite.ts';
import { makeNetWorld, OUTSIDE, type NetWorld, type PlayedGuest } from '../support/net-world.ts';

/** Real frames through real taps: what guests can do and what they cannot. Each refusal has its counterpart that gets through. */
let world: NetWorld;
let net: Network;
let one: PlayedGuest;
let two: PlayedGuest;
const ports = [examplePort(1), examplePort(2)] as const;
const GATEWAY = '192.168.241.1';
const MS = '400';
const ENOUGH = '4000';

before(async () => {
  world = await makeNetWorld();
  net = world.open();
  await net.start(ports);
  one = await world.guest(ports[0]);
  two = await world.guest(ports[1]);
});

after(() => world.dispose());

const waiting = () => ({ clock: systemClock, signal: AbortSignal.timeout(10_000) });

async function honest(): Promise<void> {
  for (const guest of [one, two]) await guest.configure(guest.port.mac, [guest.port.ip]);
}

/** What the internet says to a guest: who it saw asking. */
function online(guest: PlayedGuest, ms = ENOUGH): Promise<unknown> {
  return guest.probe('tcp', OUTSIDE.internet, '7000', ms);
}

const MASQUERADED = `${OUTSIDE.host} said hello`;

test('DHCP gives the reserved address, the bridge as router, and the resolvers', async () => {
  for (const guest of [one, two]) {
    await guest.configure(guest.port.mac, []);
    assert.deepEqual(await guest.probe('dhcp', guest.port.mac, ENOUGH), {
      ip: guest.port.ip,
      router: GATEWAY,
      mask: '255.255.255.0',
      dns: '203.0.113.1',
      server: GATEWAY,
    });
  }
});

test('honest traffic is masqueraded and answered, over TCP and UDP', async () => {
  await honest();
  assert.equal(await online(one), MASQUERADED);
  assert.equal(await one.probe('udp', OUTSIDE.internet, '7000', ENOUGH), MASQUERADED);
  assert.equal(await online(two), MASQUERADED);
});

test('the host reaches a guest, and is answered', async () => {
  await honest();
  const server = await one.serve(7002);
  assert.equal(await world.probe('tcp', one.port.ip, '7002', ENOUGH), `${GATEWAY} said hello`);
  await server.end();
});

test("what a guest sends and receives is counted from the guest's side", async () => {
  await honest();
  // Where nobody listens: at most an ICMP error comes back, which holds a part of it.
  const datagrams = (to: string): Argv => [
    'bash',
    '-c',
    `for i in 1 2 3; do head -c 1400 /dev/zero > /dev/udp/${to}/9; done`,
  ];
  const BYTES = 3 * 1400;
  const before = await net.traffic(one.port.vmId);
  await one.netns.run(datagrams(GATEWAY));
  const sent = await until(waiting(), async () => {
    const now = await net.traffic(one.port.vmId);
    return now.sentBytes - before.sentBytes >= BYTES ? now : undefined;
  });
  assert.ok(sent.sentPackets - before.sentPackets >= 3);
  assert.ok(sent.receivedBytes - before.receivedBytes < BYTES, 'what it sent is not what it received');
  await world.host.run(datagrams(one.port.ip));
  const received = await until(waiting(), async () => {
    const now = await net.traffic(one.port.vmId);
    return now.receivedBytes - sent.receivedBytes >= BYTES ? now : undefined;
  });
  assert.ok(received.receivedPackets - sent.receivedPackets >= 3);
  assert.ok(received.sentBytes - sent.sentBytes < BYTES, 'what it received is not what it sent');
});

test('nobody from outside reaches a guest, though the way to it is known', async () => {
  await honest();
  await world.internet.run(['ip', 'route', 'add', '192.168.241.0/24', 'via', OUTSIDE.host]);
  const server = await one.serve(7002);
  const fromOutside = async (): Promise<string> =>
    (await world.internet.run([process.execPath, probePath(), 'tcp', one.port.ip, '7002', MS])).stdout.trim();
  assert.equal(await fromOutside(), 'null');
  await world.host.run(['nft', 'flush', 'chain', 'inet', 'hatch', 'to_guest']);
  assert.match(await fromOutside(), /said hello/);
  await world.internet.run(['ip', 'route', 'del', '192.168.241.0/24']);
  await server.end();
  assert.deepEqual(await net.repair(ports), ['made the firewall tables anew']);
});

test('a guest that takes another MAC is not heard', async () => {
  await one.configure('02:fc:00:00:77:77', [one.port.ip]);
  assert.equal(await online(one, MS), null);
  assert.equal(await one.probe('dhcp', '02:fc:00:00:77:77', MS), null);
  await honest();
  assert.equal(await online(one), MASQUERADED);
});

test('a guest that takes another IP is not heard, nor believed by ARP', async () => {
  const stolen = '192.168.241.77';
  await forgetNeighbours();
  await one.configure(one.port.mac, [stolen]);
  assert.equal(await online(one, MS), null);
  assert.equal(await neighbour(stolen), undefined);
  // The same without the firewall: it is what held the guest back.
  await world.host.run(['nft', 'delete', 'table', 'bridge', 'hatch']);
  assert.equal(await online(one), MASQUERADED);
  assert.equal(await neighbour(stolen), one.port.mac);
  await net.repair(ports);
  await forgetNeighbours();
  assert.equal(await online(one, MS), null);
  assert.equal(await neighbour(stolen), undefined);
  await honest();
});

test("a guest that takes a neighbour's IP beside its own does not get the neighbour's traffic", async () => {
  await honest();
  assert.equal(await online(two), MASQUERADED);
  await one.configure(one.port.mac, [one.port.ip, two.port.ip]);
  await forgetNeighbours();
  const server = await two.serve(7002);
  assert.match(String(await world.probe('tcp', two.port.ip, '7002', ENOUGH)), /said hello/);
  assert.equal(await neighbour(two.port.ip), two.port.mac);
  await server.end();
  await honest();
});

test('a guest can neither ask for nor refuse an address under the hardware address of another', async () => {
  await one.configure(one.port.mac, []);
  assert.equal(await one.probe('dhcp', two.port.mac, MS), null);
  await one.probe('decline', two.port.mac, two.port.ip);
  await two.configure(two.port.mac, []);
  const offer = await two.probe('dhcp', two.port.mac, ENOUGH);
  assert.equal((offer as { ip: string } | null)?.ip, two.port.ip);
  await honest();
});

test('guests do not reach each other, not by way of the host either', async () => {
  await honest();
  const server = await two.serve(7002);
  assert.equal(await one.probe('tcp', two.port.ip, '7002', MS), null);
  // By the gateway: the neighbour as an address behind the router.
  await one.netns.run(['ip', 'route', 'add', `${two.port.ip}/32`, 'via', GATEWAY]);
  assert.equal(await one.probe('tcp', two.port.ip, '7002', MS), null);
  assert.equal(await one.probe('udp', two.port.ip, '7002', MS), null);
  await world.host.run(['nft', 'flush', 'chain', 'inet', 'hatch', 'forward']);
  await world.host.run(['nft', 'flush', 'chain', 'inet', 'hatch', 'postrouting']);
  await two.netns.run(['ip', 'route', 'add', `${one.port.ip}/32`, 'via', GATEWAY]);
  assert.match(String(await one.probe('tcp', two.port.ip, '7002', ENOUGH)), /said hello/);
  await net.repair(ports);
  assert.equal(await one.probe('tcp', two.port.ip, '7002', MS), null);
  await server.end();
});

test('guests reach no service of the host, on none of its addresses', async () => {
  await honest();
  for (const address of [GATEWAY, OUTSIDE.host]) {
    assert.match(
      String(await world.probe('tcp', address, '7001', ENOUGH)),
      /said hello/,
      'the service is there',
    );
    assert.equal(await one.probe('tcp', address, '7001', MS), null, address);
    assert.equal(await one.probe('udp', address, '7001', MS), null, address);
  }
});

test('the metadata address is closed to guests and open to the host', async () => {
  await honest();
  assert.match(String(await world.probe('tcp', '169.254.169.254', '7000', ENOUGH)), /said hello/);
  assert.equal(await one.probe('tcp', '169.254.169.254', '7000', MS), null);
});

test('IPv6 of guests is dropped at the tap, and once more at the bridge', async () => {
  await honest();
  await world.host.run(['ip', '-6', 'address', 'add', 'fd00:1::1/64', 'dev', 'hatch0', 'nodad']);
  await one.netns.run(['ip', '-6', 'address', 'add', 'fd00:1::2/64', 'dev', 'eth0', 'nodad']);
  /** Whether the guest's question for a neighbour reaches the host's own stack. */
  const heard = async (): Promise<boolean> => {
    // A question under way is repeated only after a second; a forgotten one is asked at once.
    await one.netns.run(['ip', '-6', 'neigh', 'flush', 'dev', 'eth0', 'nud', 'all']);
    await one.probe('tcp', 'fd00:1::1', '7001', MS);
    return (await world.host.run(['ip', '-6', 'neigh', 'show', 'fd00:1::2'])).stdout.includes('lladdr');
  };
  await world.host.run(['nft', 'delete', 'table', 'inet', 'hatch']);
  assert.equal(await heard(), false);
  await net.repair(ports);
  await world.host.run(['nft', 'delete', 'table', 'bridge', 'hatch']);
  assert.equal(await heard(), false);
  await world.host.run(['nft', 'delete', 'table', 'inet', 'hatch']);
  await until(
    { clock: systemClock, signal: AbortSignal.timeout(10_000) },
    async () => (await heard()) || undefined,
  );
  await net.repair(ports);
});

test('egress can be closed, or open to some networks only, from one start to the next', async () => {
  await honest();
  const closed = world.open({ egress: 'deny' });
  await closed.start(ports);
  assert.equal(await online(one, MS), null);
  await closed.release();
  const some = world.open({ egress: ['198.51.100.0/24', '10.0.0.0/8', '10.1.0.0/16'] });
  await some.start(ports);
  assert.equal(await online(one, MS), null);
  await some.release();
  await world.host.run(['ip', 'route', 'replace', `${OUTSIDE.other}/32`, 'via', OUTSIDE.internet]);
  assert.equal(await one.probe('tcp', OUTSIDE.other, '7000', ENOUGH), MASQUERADED);
  await net.start(ports);
  assert.equal(await online(one), MASQUERADED);
});

test('connections of guests go on through a restart of the daemon and a repair of the tables', async () => {
  await honest();
  const server = await one.serve(7002);
  const [out, into] = [await one.hold(OUTSIDE.internet, 7000), await world.hold(one.port.ip, 7002)];
  assert.equal(await out.ask('1'), `${OUTSIDE.host} said 1`);
  assert.equal(await into.ask('1'), `${GATEWAY} said 1`);
  await net.release();
  net = world.open();
  await net.start(ports);
  assert.equal(await out.ask('2'), `${OUTSIDE.host} said 2`);
  assert.equal(await into.ask('2'), `${GATEWAY} said 2`);
  await world.host.run(['nft', 'flush', 'ruleset']);
  await net.repair(ports);
  assert.equal(await out.ask('3'), `${OUTSIDE.host} said 3`);
  assert.equal(await into.ask('3'), `${GATEWAY} said 3`);
  for (const talk of [out, into, server]) await talk.end();
});

test('a killed DHCP server is started again without being asked, and serves', async () => {
  const pid = Number((await readFile(world.dhcpPidFile, 'utf8')).trim());
  process.kill(pid, 'SIGKILL');
  await until({ clock: systemClock, signal: AbortSignal.timeout(15_000) }, async () =>
    (await net.health()).length === 0 ? true : undefined,
  );
  assert.notEqual(Number((await readFile(world.dhcpPidFile, 'utf8')).trim()), pid);
  await one.configure(one.port.mac, []);
  assert.notEqual(await one.probe('dhcp', one.port.mac, ENOUGH), null);
  await honest();
});

test('a removed bridge is made anew by a repair, and guests are online again', async () => {
  await honest();
  await world.host.run(['ip', 'link', 'del', 'hatch0']);
  assert.equal(await online(one, MS), null);
  await net.repair(ports);
  assert.equal(await online(one), MASQUERADED);
  await one.configure(one.port.mac, []);
  assert.notEqual(await one.probe('dhcp', one.port.mac, ENOUGH), null);
  await honest();
});

test('a tap kept off the bridge is offline until it is put back', async () => {
  await honest();
  await net.setJoined(one.port.vmId, false);
  assert.equal(await online(one, MS), null);
  await net.setJoined(one.port.vmId, true);
  assert.equal(await online(one), MASQUERADED);
});

test('another firewall that drops what it does not know lets guests pass, and is left as it was', async () => {
  await honest();
  const strict = `table ip filter {
    chain INPUT { type filter hook input priority 0; policy drop; iifname "lo" accept; ct state established accept; }
    chain FORWARD { type filter hook forward priority 0; policy drop; }
    chain unrelated { }
  }\n`;
  await world.host.run(['nft', '-f', '-'], { input: strict });
  const before = (await world.host.run(['nft', 'list', 'table', 'ip', 'filter'])).stdout;
  assert.equal(await online(one, MS), null);
  assert.equal((await net.repair(ports)).length, 2);
  assert.deepEqual(await net.repair(ports), []);
  assert.equal(await online(one), MASQUERADED);
  await one.configure(one.port.mac, []);
  assert.notEqual(await one.probe('dhcp', one.port.mac, ENOUGH), null);
  await net.down();
  assert.equal((await world.host.run(['nft', 'list', 'table', 'ip', 'filter'])).stdout, before);
  await world.host.run(['nft', 'delete', 'table', 'ip', 'filter']);
});

test('down leaves the host as it was, forwarding switched off again', async () => {
  await net.down();
  const left = await world.host.contents();
  const probes = /net-probe\.ts|qemu-system/;
  assert.deepEqual(
    left.filter((line) => !probes.test(line)),
    ['link up0'],
  );
  assert.equal((await world.host.run(['cat', '/proc/sys/net/ipv4/ip_forward'])).stdout.trim(), '0');
});

test('an address a VM gave up is leased at once to the next one with another MAC', async () => {
  const host = world.open();
  const first = { ...examplePort(9), vmId: newId('vm') };
  await host.start([first]);
  const guest = await world.guest(first);
  await guest.configure(first.mac, []);
  assert.notEqual(await guest.probe('dhcp', first.mac, ENOUGH), null);
  const pid = await readFile(world.dhcpPidFile, 'utf8');
  await guest.end();
  await host.detach(first.vmId);
  const next = { ...first, vmId: newId('vm'), mac: '02:fc:00:00:99:99' };
  await host.attach(next);
  const heir = await world.guest(next);
  await heir.configure(next.mac, []);
  const offer = await heir.probe('dhcp', next.mac, ENOUGH);
  assert.equal((offer as { ip: string } | null)?.ip, first.ip);
  await host.detach(next.vmId);
  assert.equal(await readFile(world.dhcpPidFile, 'utf8'), pid, 'the DHCP server did not outlive its changes');
  assert.deepEqual(await host.health(), []);
  await host.release();
});

function probePath(): string {
  return new URL('../support/net-probe.ts', import.meta.url).pathname;
}

async function forgetNeighbours(): Promise<void> {
  await world.host.run(['ip', 'neigh', 'flush', 'dev', 'hatch0']);
}

/** The MAC the host believes an address on the bridge to have. */
async function neighbour(ip: string): Promise<string | undefined> {
  const { stdout } = await world.host.run(['ip', 'neigh', 'show', ip, 'dev', 'hatch0']);
  return /lladdr (\S+)/.exec(stdout)?.[1];
}
