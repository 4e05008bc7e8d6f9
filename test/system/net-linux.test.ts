import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { silent } from '../../src/base/logger.ts';
import { exists } from '../../src/host/files.ts';
import { run } from '../../src/host/run.ts';
import { dhcpFiles } from '../../src/net/dhcp-server.ts';
import { readHosts } from '../../src/net/dnsmasq.ts';
import { openLinuxNetwork } from '../../src/net/linux.ts';
import { examplePort, networkSuite, type NetworkHost } from '../../src/net/network-suite.ts';
import type { Network } from '../../src/net/network.ts';
import { readElements } from '../../src/net/rules.ts';
import { listLinks, nftList } from '../../src/net/tools.ts';
import { makeNetns } from '../support/netns.ts';

/** The suite on the real network, each case in a namespace of its own, which must be empty again after `down`. */
async function linuxHost(): Promise<NetworkHost> {
  const netns = await makeNetns('hnet');
  const folder = await mkdtemp(join(tmpdir(), 'hatch-net-'));
  const files = dhcpFiles(folder);
  const opened: Network[] = [];
  const pid = async (): Promise<string | undefined> => {
    const text = (await exists(files.pid)) ? (await readFile(files.pid, 'utf8')).trim() : undefined;
    return text !== undefined && (await exists(`/proc/${text}`)) ? text : undefined;
  };
  return {
    open: () => {
      const net = openLinuxNetwork(
        { run: netns.run, log: silent, clock: systemClock },
        { bridge: 'hatch0', cidr: '192.168.241.1/24', dnsServers: ['203.0.113.1'], egress: 'allow', folder },
      );
      opened.push(net);
      return net;
    },
    view: async () => {
      const links = await listLinks(netns.run);
      const elements = readElements((await nftList(netns.run, 'table', 'bridge', 'hatch')) ?? []);
      const filters = [...elements].flatMap((element) => {
        const [, vmId = '', mac = '', ip = ''] = /^guests { "(.*)" \. (\S+) \. (\S+) }$/.exec(element) ?? [];
        return vmId === '' ? [] : [{ vmId, mac, ip }];
      });
      // A VM has its four elements or none.
      assert.equal(elements.size, filters.length * 4);
      const hosts = (await exists(files.hosts)) ? readHosts(await readFile(files.hosts, 'utf8')) : [];
      return {
        bridge: links.some(({ ifname }) => ifname === 'hatch0'),
        dhcp: await pid(),
        taps: links
          .filter(({ ifname }) => ifname.startsWith('vm-'))
          .map(({ ifname, master, ifindex, linkinfo, flags }) => ({
            vmId: ifname,
            joined:
              master === 'hatch0' && linkinfo?.info_slave_data?.isolated === true && flags.includes('UP'),
            made: String(ifindex),
          })),
        filters,
        reservations: hosts.map(({ vmId, ip, mac }) => ({ vmId, ip, mac })),
      };
    },
    removeBridge: async () => void (await netns.run(['ip', 'link', 'del', 'hatch0'])),
    removeTap: async (vmId) => void (await netns.run(['ip', 'link', 'del', vmId])),
    flushFirewall: async () => void (await netns.run(['nft', 'flush', 'ruleset'])),
    killDhcp: async () => {
      const number = await pid();
      assert.ok(number, 'no DHCP server to kill');
      process.kill(Number(number), 'SIGKILL');
    },
    strayTap: async (vmId) => {
      await netns.run(['ip', 'tuntap', 'add', 'dev', vmId, 'mode', 'tap']);
      await netns.run(['ip', 'link', 'set', 'dev', vmId, 'master', 'hatch0']);
    },
    dispose: async () => {
      for (const net of opened) await net.release();
      try {
        const last = openLinuxNetwork(
          { run: netns.run, log: silent, clock: systemClock },
          { bridge: 'hatch0', cidr: '192.168.241.1/24', dnsServers: null, egress: 'allow', folder },
        );
        await last.down();
        assert.deepEqual(await netns.contents(), []);
        assert.deepEqual((await run(['ls', '-A', folder])).stdout, '');
        assert.equal(await exists(files.hosts), false);
      } finally {
        await netns.dispose();
        await rm(folder, { recursive: true });
      }
    },
  };
}

networkSuite('Linux network', linuxHost);

test('an attach puts rules right that somebody changed, or removed', async () => {
  const netns = await makeNetns('hnet');
  const folder = await mkdtemp(join(tmpdir(), 'hatch-net-'));
  const net = openLinuxNetwork(
    { run: netns.run, log: silent, clock: systemClock },
    { bridge: 'hatch0', cidr: '192.168.241.1/24', dnsServers: ['203.0.113.1'], egress: 'allow', folder },
  );
  const elements = async (): Promise<number> =>
    readElements((await nftList(netns.run, 'table', 'bridge', 'hatch')) ?? []).size;
  try {
    await net.start([]);
    const breaks = [
      ['flush', 'chain', 'inet', 'hatch', 'to_guest'],
      ['add', 'rule', 'bridge', 'hatch', 'from_guest', 'accept'],
      ['delete', 'table', 'inet', 'hatch'],
      ['flush', 'ruleset'],
    ];
    for (const [i, how] of breaks.entries()) {
      await netns.run(['nft', ...how]);
      assert.notDeepEqual(await net.health(), [], how.join(' '));
      await net.attach(examplePort(i + 1));
      assert.deepEqual(await net.health(), [], how.join(' '));
      assert.equal(await elements(), 4 * (i + 1), 'each that was attached has its own still');
    }
  } finally {
    await net.down();
    await netns.dispose();
    await rm(folder, { recursive: true });
  }
});
