import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { newId } from '../base/ids.ts';
import { makeMac, planAddresses } from '../model/cidr.ts';
import { dhcpFiles } from './dhcp-server.ts';
import {
  checkPort,
  pruneLeases,
  readConf,
  readHosts,
  readLeases,
  renderConf,
  renderHosts,
  staleLeases,
  withPorts,
} from './dnsmasq.ts';
import { NetError, type Port } from './network.ts';

const plan = planAddresses('192.168.241.1/24');
const port = (n: number): Port => ({
  vmId: newId('vm'),
  ip: `192.168.241.${n}`,
  mac: makeMac(),
  hostname: `web-${n}`,
});

test('reservations are read as they were written, and other lines passed over', () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.integer({ min: 2, max: 254 })), (numbers) => {
      const ports = numbers.map(port);
      const sorted = ports.toSorted((a, b) => (a.vmId < b.vmId ? -1 : 1));
      assert.deepEqual(readHosts(renderHosts(ports)), sorted);
    }),
  );
  assert.deepEqual(readHosts('# a note\n02:fc:00:00:00:01,192.168.241.10,x\n\ngarbage'), []);
});

test('the configuration serves only reservations, only on the bridge, and names the resolvers or none', () => {
  const files = dhcpFiles('/data/net');
  const conf = renderConf(files, {
    bridge: 'hatch0',
    plan,
    resolvers: ['203.0.113.1', '9.9.9.9'],
    mtu: 1500,
  });
  for (const line of [
    'port=0',
    'interface=hatch0',
    'bind-interfaces',
    'dhcp-range=192.168.241.0,static,255.255.255.0,12h',
    'dhcp-ignore-clid',
    'dhcp-option=6,203.0.113.1,9.9.9.9',
    'dhcp-leasefile=/data/net/dnsmasq.leases',
  ]) {
    assert.ok(conf.split('\n').includes(line), line);
  }
  assert.doesNotMatch(conf, /mtu/);
  assert.match(renderConf(files, { bridge: 'hatch0', plan, resolvers: [], mtu: 1400 }), /^dhcp-option=6$/m);
  assert.match(
    renderConf(files, { bridge: 'hatch0', plan, resolvers: [], mtu: 1400 }),
    /^dhcp-option=option:mtu,1400$/m,
  );
});

test('what could not stand in a configuration file is refused', () => {
  const good = port(10);
  checkPort(plan, good);
  for (const bad of [
    { mac: '02:fc:00:00:00:01\n' },
    { mac: '02:FC:00:00:00:01' },
    { ip: '192.168.241.1' },
    { ip: '192.168.241.255' },
    { ip: '10.0.0.1' },
    { ip: '192.168.241.010' },
    { hostname: 'a,b' },
    { hostname: 'a\nb' },
    { hostname: 'a b' },
    { hostname: '' },
  ]) {
    assert.throws(() => checkPort(plan, { ...good, ...bad }), NetError, JSON.stringify(bad));
  }
});

test('a VM, an address or a MAC that is given anew displaces what had it before', () => {
  const [a, b, c] = [port(10), port(11), port(12)];
  assert.deepEqual(withPorts([a, b, c], []), [a, b, c]);
  assert.deepEqual(withPorts([a, b], [{ ...a, ip: '192.168.241.20' }]), [b, { ...a, ip: '192.168.241.20' }]);
  const heir = { ...c, ip: a.ip, mac: b.mac };
  assert.deepEqual(withPorts([a, b], [heir]), [heir]);
});

test('leases that stand in the way are found, those of VMs that stay are not', () => {
  const [stays, gone] = [port(10), port(11)];
  const line = ({ mac, ip }: Pick<Port, 'mac' | 'ip'>): string => `1795532213 ${mac} ${ip} name *`;
  const text =
    [line(stays), line(gone), line({ mac: gone.mac, ip: '192.168.241.50' }), 'duid 00:01'].join('\n') + '\n';
  assert.equal(readLeases(text).length, 3);
  assert.deepEqual(
    staleLeases(readLeases(text), [stays, gone], [stays]).map(({ ip }) => ip),
    [gone.ip, '192.168.241.50'],
  );
  assert.equal(pruneLeases(text, [stays]), line(stays) + '\n');
});

test('a configuration says whose bridge and addresses it is for, whatever the prefix', () => {
  for (const cidr of ['192.168.241.1/24', '10.7.0.1/16', '172.20.1.9/29']) {
    const conf = renderConf(dhcpFiles('/data/net'), {
      bridge: 'hatch7',
      plan: planAddresses(cidr),
      resolvers: [],
      mtu: 1400,
    });
    assert.deepEqual(readConf(conf), { bridge: 'hatch7', cidr });
  }
  for (const text of ['', 'interface=eth0\n', 'dhcp-range=10.0.0.0,static,half,12h\n'])
    assert.equal(readConf(text), undefined);
});
