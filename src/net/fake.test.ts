import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { changeFakeHost, openFakeNetwork, readFakeHost, type FakeFailures } from './fake.ts';
import { networkSuite, examplePort, type NetworkHost } from './network-suite.ts';
import { NetError } from './network.ts';

async function fakeHost(): Promise<NetworkHost & { readonly folder: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-fake-net-'));
  return {
    folder,
    open: () => openFakeNetwork({ folder }),
    view: async () => {
      const host = await readFakeHost(folder);
      return {
        bridge: host.bridge,
        dhcp: host.dhcp === null ? undefined : String(host.dhcp),
        taps: Object.entries(host.taps).map(([vmId, { joined, made }]) => ({
          vmId,
          joined,
          made: String(made),
        })),
        filters: Object.entries(host.filters).map(([vmId, { ip, mac }]) => ({ vmId, ip, mac })),
        reservations: Object.entries(host.reservations).map(([vmId, { ip, mac }]) => ({ vmId, ip, mac })),
      };
    },
    removeBridge: () =>
      changeFakeHost(folder, (host) => {
        host.bridge = false;
        for (const tap of Object.values(host.taps)) tap.joined = false;
      }),
    removeTap: (vmId) => changeFakeHost(folder, (host) => void Reflect.deleteProperty(host.taps, vmId)),
    flushFirewall: () =>
      changeFakeHost(folder, (host) => {
        host.tables = false;
        host.filters = {};
      }),
    killDhcp: () => changeFakeHost(folder, (host) => void (host.dhcp = null)),
    strayTap: (vmId) =>
      changeFakeHost(
        folder,
        (host) => void (host.taps[vmId] = { made: ++host.made, joined: false, apart: false }),
      ),
    dispose: () => rm(folder, { recursive: true }),
  };
}

networkSuite('fake network', fakeHost);

test('a call told to fail does so before or after its effect', async () => {
  const host = await fakeHost();
  try {
    const fail: FakeFailures = {};
    const net = openFakeNetwork({ folder: host.folder }, { fail });
    const port = examplePort(1);
    await net.start([]);
    fail.attach = 'before';
    await assert.rejects(net.attach(port), NetError);
    assert.deepEqual(await net.observe(), []);
    fail.attach = 'after';
    await assert.rejects(net.attach(port), NetError);
    assert.deepEqual(await net.observe(), [port.vmId]);
    fail.detach = 'before';
    await assert.rejects(net.detach(port.vmId), NetError);
    assert.deepEqual(await net.observe(), [port.vmId]);
    delete fail.detach;
    await net.detach(port.vmId);
    assert.deepEqual(await net.observe(), []);
  } finally {
    await host.dispose();
  }
});
