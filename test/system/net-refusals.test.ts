import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { silent } from '../../src/base/logger.ts';
import type { Run } from '../../src/host/run.ts';
import { examplePort } from '../../src/net/network-suite.ts';
import { openLinuxNetwork } from '../../src/net/linux.ts';
import { NetError, type Network, type NetworkOptions } from '../../src/net/network.ts';
import { makeNetns, type Netns } from '../support/netns.ts';

/** A start on a host where something is in the way: refused in a sentence, and nothing is left. */
interface Place {
  readonly netns: Netns;
  readonly ip: (command: string) => Promise<unknown>;
  readonly open: (options?: Partial<NetworkOptions>, run?: Run) => Promise<Network>;
}

function on(name: string, body: (place: Place) => Promise<void>): void {
  test(name, async () => {
    const netns = await makeNetns('hnet');
    const folders: string[] = [];
    const opened: Network[] = [];
    try {
      await body({
        netns,
        ip: (command) => netns.run(['ip', ...command.split(' ')]),
        open: async (options = {}, run = netns.run) => {
          const folder = await mkdtemp(join(tmpdir(), 'hatch-net-'));
          folders.push(folder);
          const net = openLinuxNetwork(
            { run, log: silent, clock: systemClock },
            {
              bridge: 'hatch0',
              cidr: '192.168.241.1/24',
              dnsServers: null,
              egress: 'allow',
              folder,
              ...options,
            },
          );
          opened.push(net);
          return net;
        },
      });
    } finally {
      for (const net of opened) await net.release();
      for (const net of opened) await net.down().catch(() => undefined);
      await netns.dispose();
      for (const folder of folders) await rm(folder, { recursive: true });
    }
  });
}

async function refused(net: Network, kind: NetError['kind'], sentence: RegExp): Promise<void> {
  await assert.rejects(net.start([]), (error: unknown) => {
    assert.ok(error instanceof NetError, String(error));
    assert.match(error.message, sentence);
    assert.equal(error.kind, kind);
    return true;
  });
}

on(
  "a bridge's address that another interface has is refused, naming the interface",
  async ({ ip, open, netns }) => {
    await ip('link add dummy7 type bridge');
    await ip('address add 192.168.241.1/24 dev dummy7');
    const before = await netns.contents();
    await refused(
      await open(),
      'address_taken',
      /interface dummy7 has 192\.168\.241\.1\/24; choose another HATCH_BRIDGE_CIDR/,
    );
    assert.deepEqual(await netns.contents(), before);
  },
);

on('a network the host has a route to is refused, but a default route gives way', async ({ ip, open }) => {
  await ip('link add up0 type bridge');
  await ip('address add 203.0.113.2/24 dev up0');
  await ip('link set dev up0 up');
  await ip('route add default via 203.0.113.1');
  await ip('route add 192.168.0.0/16 via 203.0.113.1');
  await refused(await open(), 'address_taken', /route to 192\.168\.0\.0\/16 by up0/);
  await ip('route del 192.168.0.0/16');
  await ip('route add 128.0.0.0/1 via 203.0.113.1');
  await (await open()).start([]);
});

on(
  'a name that is taken by what is no bridge, or by a bridge with a port of its own, is refused',
  async ({ ip, open }) => {
    await ip('tuntap add dev hatch0 mode tap');
    await refused(await open(), 'failed', /hatch0 exists and is not a bridge/);
    await ip('link del hatch0');
    await ip('link add hatch0 type bridge');
    await ip('tuntap add dev lan0 mode tap');
    await ip('link set dev lan0 master hatch0');
    await refused(await open(), 'failed', /has the port lan0, which is no VM's/);
  },
);

on('a bridge somebody made before is used, and left there by down', async ({ ip, open, netns }) => {
  await ip('link add hatch0 type bridge');
  const net = await open();
  await net.start([examplePort(1)]);
  assert.deepEqual(
    (await net.health()).filter((line) => !/resolver/.test(line)),
    [],
  );
  await net.down();
  assert.deepEqual(await netns.contents(), ['link hatch0']);
});

on('without the right to change the network it says to run as root', async ({ netns, open }) => {
  const asNobody: Run = (argv, options) =>
    netns.run(['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--', ...argv], options);
  await refused(await open({}, asNobody), 'no_permission', /run hatchd as root/);
});

on('a DHCP server that listens everywhere is named as the reason', async ({ netns, open }) => {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-net-'));
  const other = [
    '--port=0',
    '--dhcp-range=10.99.0.10,10.99.0.20',
    '--conf-file=/dev/null',
    '--log-facility=/dev/null',
  ];
  await netns.run(['dnsmasq', ...other, `--pid-file=${folder}/pid`, `--dhcp-leasefile=${folder}/leases`]);
  await refused(await open(), 'failed', /another DHCP server listens on port 67/);
  await rm(folder, { recursive: true });
});

on('two servers with bridges of their own live side by side on one host', async ({ open, netns }) => {
  const [one, two] = [await open(), await open({ bridge: 'lab-1', cidr: '10.77.0.1/24' })];
  const [a, b] = [examplePort(1), { ...examplePort(2), ip: '10.77.0.10' }];
  const healthy = async (net: Network): Promise<readonly string[]> =>
    (await net.health()).filter((line) => !/resolver/.test(line));
  await one.start([a]);
  await two.start([b]);
  assert.deepEqual([await one.observe(), await two.observe()], [[a.vmId], [b.vmId]]);
  assert.deepEqual([await one.repair([a]), await two.repair([b])], [[], []]);
  await one.setJoined(a.vmId, false);
  assert.deepEqual(await two.repair([b]), []);
  await one.down();
  assert.deepEqual(await healthy(two), []);
  assert.deepEqual(await two.repair([b]), []);
  await two.down();
  assert.deepEqual(await netns.contents(), []);
});

on('a changed address of the bridge replaces the old one', async ({ open, netns }) => {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-net-'));
  const first = await open({ folder });
  await first.start([]);
  await first.release();
  const second = await open({ folder, cidr: '10.77.0.1/16' });
  await second.start([]);
  const shown = (await netns.run(['ip', '-4', 'address', 'show', 'dev', 'hatch0'])).stdout;
  assert.match(shown, /10\.77\.0\.1\/16/);
  assert.doesNotMatch(shown, /192\.168/);
  await second.down();
  await rm(folder, { recursive: true });
});

on('the bridge of another hatchd is left to it, until its data folder is gone', async ({ open, netns }) => {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-net-'));
  const first = await open({ folder });
  const [a, b] = [examplePort(1), examplePort(2)];
  await first.start([a]);
  const before = await netns.contents();
  await refused(
    await open(),
    'failed',
    /another hatchd has the bridge hatch0, whose DHCP server has \/.*\/dnsmasq\.conf; take that one down/,
  );
  // Also while its daemon is not there: its guests are.
  await first.release();
  await refused(await open(), 'failed', /another hatchd has the bridge hatch0/);
  assert.deepEqual(await netns.contents(), before);
  assert.deepEqual(await first.observe(), [a.vmId]);
  await first.start([a]);
  await first.release();

  await rm(folder, { recursive: true });
  const heir = await open();
  await heir.start([b]);
  await heir.repair([b]);
  assert.deepEqual(await heir.observe(), [b.vmId]);
});

on('options that could not stand in a rule or a configuration are refused by name', async ({ open }) => {
  await assert.rejects(open({ dnsServers: ['1.1.1.1,port=53'] }), /HATCH_DNS_SERVERS/);
  await assert.rejects(open({ egress: ['10.0.0.0/8', '10.0.0.0/33'] }), /10\.0\.0\.0\/33.*HATCH_EGRESS/);
  await assert.rejects(open({ bridge: 'a b' }), /HATCH_BRIDGE_NAME/);
  await assert.rejects(open({ cidr: '10.0.0.1/30' }), /between \/16 and \/29/);
});
