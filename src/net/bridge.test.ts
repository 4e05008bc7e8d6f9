import assert from 'node:assert/strict';
import { test } from 'node:test';
import { newId } from '../base/ids.ts';
import { planAddresses } from '../model/cidr.ts';
import {
  aliasOf,
  apartAlias,
  bridgeCommands,
  checkBridgeName,
  guestMtu,
  ourTaps,
  partCommands,
  tapCommands,
} from './bridge.ts';
import { NetError } from './network.ts';
import type { Link } from './tools.ts';

const plan = planAddresses('192.168.241.1/24');
const link = (ifname: string, more: Partial<Link> = {}): Link => ({
  ifname,
  ifindex: 1,
  flags: ['UP'],
  mtu: 1500,
  addr_info: [],
  ...more,
});
const vmId = newId('vm');
const joined: Partial<Link> = {
  master: 'hatch0',
  ifalias: aliasOf('hatch0'),
  linkinfo: { info_kind: 'tun', info_slave_data: { isolated: true } },
};

test('names that could not be a bridge, or could be a tap, are refused', () => {
  for (const good of ['hatch0', 'br-lan.10', 'a']) checkBridgeName(good);
  for (const bad of ['', 'sixteen-letters-', 'a b', 'a"b', '-x', 'a\n', 'a;b', vmId]) {
    assert.throws(() => checkBridgeName(bad), NetError, bad);
  }
});

test('a bridge as it should be needs no command', () => {
  const there = link('hatch0', {
    ifalias: aliasOf('hatch0'),
    addr_info: [{ family: 'inet', local: '192.168.241.1', prefixlen: 24 }],
  });
  assert.deepEqual(bridgeCommands({ bridge: 'hatch0', plan, mtu: 1500 }, there), []);
  assert.deepEqual(bridgeCommands({ bridge: 'hatch0', plan, mtu: 1400 }, there), [
    'link set dev hatch0 mtu 1400',
  ]);
  assert.deepEqual(bridgeCommands({ bridge: 'hatch0', plan, mtu: 1500 }, { ...there, flags: [] }), [
    'link set dev hatch0 up',
  ]);
});

test("a tap is made for its VMM's user, and made anew when it is another's", () => {
  const host = { bridge: 'hatch0', mtu: 1500 };
  const made = tapCommands(host, { vmId, tapOwner: 61005 }, undefined);
  assert.equal(made[0], `tuntap add dev ${vmId} mode tap user 61005`);
  const of = (user?: number): Link =>
    link(vmId, {
      ...joined,
      linkinfo: { ...joined.linkinfo, info_data: user === undefined ? {} : { user } },
    });
  assert.deepEqual(tapCommands(host, { vmId, tapOwner: 61005 }, of(61005)), []);
  for (const other of [of(61006), of()])
    assert.deepEqual(tapCommands(host, { vmId, tapOwner: 61005 }, other), [`link del dev ${vmId}`, ...made]);
  // Who does not know the owner leaves it as it is, and one that is kept off the bridge stays off it.
  assert.deepEqual(tapCommands(host, { vmId }, of(61006)), []);
  const apart = { ...of(61006), ifalias: apartAlias('hatch0') };
  assert.deepEqual(tapCommands(host, { vmId, tapOwner: 61005 }, apart), []);
});

test('a tap is isolated before it goes up, and one that lost its isolation is put back through down', () => {
  const made = tapCommands({ bridge: 'hatch0', mtu: 1500 }, { vmId }, undefined);
  const at = (end: string): number => made.findIndex((line) => line.endsWith(end));
  assert.ok(at(`${vmId} down`) < at('master hatch0'));
  assert.ok(at('master hatch0') < at('isolated on') && at('isolated on') < at(`${vmId} up`));
  assert.deepEqual(tapCommands({ bridge: 'hatch0', mtu: 1500 }, { vmId }, link(vmId, joined)), []);
  const open = link(vmId, { ...joined, linkinfo: { info_slave_data: { isolated: false } } });
  assert.equal(tapCommands({ bridge: 'hatch0', mtu: 1500 }, { vmId }, open)[0], `link set dev ${vmId} down`);
});

test('a tap that is to stay apart is left so', () => {
  assert.deepEqual(
    tapCommands({ bridge: 'hatch0', mtu: 1500 }, { vmId }, link(vmId, { ifalias: apartAlias('hatch0') })),
    [],
  );
});

test('a tap that is made apart was never on the bridge, and one that is on it is taken off', () => {
  const apart = { bridge: 'hatch0', mtu: 1500, apart: true };
  const made = tapCommands(apart, { vmId }, undefined);
  assert.ok(made.includes(`link set dev ${vmId} alias "${apartAlias('hatch0')}"`));
  assert.ok(!made.some((line) => / master | up$/.test(line)), made.join('\n'));
  assert.deepEqual(tapCommands(apart, { vmId }, link(vmId, joined)), partCommands('hatch0', vmId));
  assert.deepEqual(tapCommands(apart, { vmId }, link(vmId, { ifalias: apartAlias('hatch0') })), []);
});

test("only taps on our bridge or with our alias are ours, another server's never", () => {
  const [onBridge, aliased, apart, theirs, nobodys] = [
    newId('vm'),
    newId('vm'),
    newId('vm'),
    newId('vm'),
    newId('vm'),
  ];
  const links = [
    link(onBridge, { master: 'hatch0' }),
    link(aliased, { ifalias: aliasOf('hatch0') }),
    link(apart, { ifalias: apartAlias('hatch0') }),
    link(theirs, { master: 'hatch1', ifalias: aliasOf('hatch1') }),
    link(nobodys),
    link('eth9', { master: 'hatch0' }),
  ];
  assert.deepEqual([...ourTaps('hatch0', links).keys()], [onBridge, aliased, apart]);
});

test("frames are as large as the host's way out takes, at most 1500", () => {
  const routes = [
    { dst: '10.0.0.0/8', dev: 'vpn0' },
    { dst: 'default', dev: 'eth0' },
  ];
  assert.equal(guestMtu([link('eth0', { mtu: 1450 }), link('vpn0', { mtu: 1280 })], routes), 1450);
  assert.equal(guestMtu([link('eth0', { mtu: 9000 })], routes), 1500);
  assert.equal(guestMtu([], []), 1500);
});
