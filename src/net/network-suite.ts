import assert from 'node:assert/strict';
import { test } from 'node:test';
import { newId, type VmId } from '../base/ids.ts';
import { NetError, type Network, type Port } from './network.ts';

/** What a host shows of a network, however it is made: compared by the suite before and after. */
export interface HostView {
  readonly bridge: boolean;
  /** Changes when the DHCP server is another than before; undefined: none runs. */
  readonly dhcp: string | undefined;
  /** `made` changes when the tap is another than before. */
  readonly taps: readonly { readonly vmId: string; readonly joined: boolean; readonly made: string }[];
  readonly filters: readonly { readonly vmId: string; readonly ip: string; readonly mac: string }[];
  readonly reservations: readonly { readonly vmId: string; readonly ip: string; readonly mac: string }[];
}

/** A host of the test's own, with hands to damage it behind the network's back. */
export interface NetworkHost {
  /** A network on this host, as a daemon opens it; more than one after another. */
  open(): Network;
  view(): Promise<HostView>;
  removeBridge(): Promise<void>;
  removeTap(vmId: VmId): Promise<void>;
  /** Empties the firewall and takes its tables away. */
  flushFirewall(): Promise<void>;
  killDhcp(): Promise<void>;
  /** A tap that belongs to nobody. */
  strayTap(vmId: VmId): Promise<void>;
  /** Removes the host, whatever state it is in. */
  dispose(): Promise<void>;
}

const EMPTY: HostView = { bridge: false, dhcp: undefined, taps: [], filters: [], reservations: [] };

/** The n-th VM of a suite in 192.168.241.0/24. */
export function examplePort(n: number): Port {
  const vmId = newId('vm');
  return {
    vmId,
    ip: `192.168.241.${10 + n}`,
    mac: `02:fc:00:00:00:${n.toString(16).padStart(2, '0')}`,
    hostname: vmId,
  };
}

/**
 * What every network must do, run against the fake and the real one. `makeHost` gives a fresh host whose networks are
 * 192.168.241.1/24.
 */
export function networkSuite(name: string, makeHost: () => Promise<NetworkHost>): void {
  const on = (what: string, body: (host: NetworkHost) => Promise<void>): void => {
    test(`${name}: ${what}`, async () => {
      const host = await makeHost();
      try {
        await body(host);
      } finally {
        await host.dispose();
      }
    });
  };

  on('started twice it is as if started once, and healthy', async (host) => {
    const net = host.open();
    await net.start([]);
    const once = await host.view();
    assert.equal(once.bridge, true);
    assert.notEqual(once.dhcp, undefined);
    await net.start([]);
    assert.deepEqual(await host.view(), once);
    assert.deepEqual(await net.health(), []);
    assert.deepEqual(await net.observe(), []);
    await net.release();
  });

  on(
    'an attached VM has a tap with its id for a name, its filter entries and its reservation',
    async (host) => {
      const net = host.open();
      await net.start([]);
      const port = examplePort(1);
      assert.deepEqual(await net.attach(port), { tap: port.vmId });
      const once = await host.view();
      assertHas(once, [port]);
      assert.deepEqual(await net.attach(port), { tap: port.vmId });
      assert.deepEqual(await host.view(), once);
      assert.deepEqual(await net.observe(), [port.vmId]);
      await net.release();
    },
  );

  on('a VM attached with another address has only the new one', async (host) => {
    const net = host.open();
    await net.start([]);
    const port = examplePort(1);
    await net.attach(port);
    const moved = { ...port, ip: '192.168.241.99', mac: '02:fc:00:00:99:99' };
    await net.attach(moved);
    assertHas(await host.view(), [moved]);
    await net.release();
  });

  on('a VM cannot be attached to a network that was never started', async (host) => {
    await assert.rejects(host.open().attach(examplePort(1)), NetError);
    assert.deepEqual(await host.view(), EMPTY);
  });

  on('detach removes all that bears the id, and does nothing where there is nothing', async (host) => {
    const net = host.open();
    await net.start([]);
    const [one, two] = [examplePort(1), examplePort(2)];
    await net.attach(one);
    await net.attach(two);
    await net.detach(one.vmId);
    assertHas(await host.view(), [two]);
    await net.detach(one.vmId);
    assertHas(await host.view(), [two]);
    assert.deepEqual(await net.observe(), [two.vmId]);
    await net.release();
  });

  on('many attached and detached at once end as one after another', async (host) => {
    const net = host.open();
    await net.start([]);
    const ports = Array.from({ length: 8 }, (_, i) => examplePort(i));
    await Promise.all(ports.map((port) => net.attach(port)));
    assertHas(await host.view(), ports);
    const [gone, stay] = [ports.slice(0, 5), ports.slice(5)];
    await Promise.all(gone.map((port) => net.detach(port.vmId)));
    assertHas(await host.view(), stay);
    assert.deepEqual(await net.repair(stay), []);
    await net.release();
  });

  on('what goes through a tap is counted from nothing, and where no tap is nothing is told', async (host) => {
    const net = host.open();
    const port = examplePort(1);
    await net.start([port]);
    const nothing = { receivedBytes: 0, receivedPackets: 0, sentBytes: 0, sentPackets: 0 };
    assert.deepEqual(await net.traffic(port.vmId), nothing);
    await assert.rejects(net.traffic(examplePort(2).vmId), NetError);
    await net.detach(port.vmId);
    await assert.rejects(net.traffic(port.vmId), NetError);
    await net.release();
  });

  on(
    'a tap taken off the bridge stays apart through attach, repair and a restart until it is put back',
    async (host) => {
      const net = host.open();
      const port = examplePort(1);
      await net.start([port]);
      const joined = async (): Promise<boolean | undefined> => (await host.view()).taps[0]?.joined;
      await net.setJoined(port.vmId, false);
      assert.equal(await joined(), false);
      await net.attach(port);
      assert.deepEqual(await net.repair([port]), []);
      await net.release();
      const next = host.open();
      await next.start([port]);
      assert.equal(await joined(), false);
      await next.setJoined(port.vmId, true);
      await next.setJoined(port.vmId, true);
      assert.equal(await joined(), true);
      await assert.rejects(next.setJoined(newId('vm'), true), NetError);
      await next.release();
    },
  );

  on('a tap attached apart joins when it is told to', async (host) => {
    const net = host.open();
    const port = examplePort(1);
    await net.start([]);
    const joined = async (): Promise<boolean | undefined> => (await host.view()).taps[0]?.joined;
    for (let i = 0; i < 2; i++) {
      assert.deepEqual(await net.attach(port, { apart: true }), { tap: port.vmId });
      assert.equal(await joined(), false);
    }
    const { reservations, filters } = await host.view();
    assert.deepEqual([reservations.length, filters.length], [1, 1]);
    await net.setJoined(port.vmId, true);
    assert.equal(await joined(), true);
    await net.attach(port, { apart: true });
    assert.equal(await joined(), false);
    await net.attach(port, { join: true });
    assert.equal(await joined(), true);
    await net.detach(port.vmId);
    await net.attachApart(port);
    assert.equal(await joined(), false);
    await net.attach(port, { join: true });
    assert.equal(await joined(), true);
    assertHas(await host.view(), [port]);
    await net.detach(port.vmId);
    await net.release();
  });

  on('a tap that leads nowhere joins nothing, is seen, and goes with its VM or as a stray', async (host) => {
    const net = host.open();
    const mine = examplePort(1);
    await net.start([mine]);
    const [one, other] = [newId('vm'), newId('vm')];
    assert.deepEqual(await net.attachApart({ vmId: one }), { tap: one });
    const once = await host.view();
    assert.equal(once.taps.find(({ vmId }) => vmId === one)?.joined, false);
    assert.deepEqual(
      [...once.filters, ...once.reservations].filter(({ vmId }) => vmId === one),
      [],
    );
    await net.attachApart({ vmId: one });
    assert.deepEqual(await host.view(), once);
    assert.ok((await net.observe()).includes(one));
    await net.repair([mine], new Set([one]));
    assert.deepEqual(await host.view(), once, 'it is left alone as long as it is told');
    await net.attachApart({ vmId: other });
    await net.detach(one);
    assert.match((await net.repair([mine])).join('\n'), new RegExp(other));
    assertHas(await host.view(), [mine]);
    await net.release();
  });

  on('the next daemon takes up taps and DHCP server as they are', async (host) => {
    const [one, two] = [examplePort(1), examplePort(2)];
    const first = host.open();
    await first.start([one]);
    await first.attach(two);
    await first.release();
    const left = await host.view();
    const second = host.open();
    await second.start([one, two]);
    assert.deepEqual(await host.view(), left);
    assert.deepEqual(await second.repair([one, two]), []);
    await second.release();
  });

  on('a start makes a place for VMs that have none yet', async (host) => {
    const ports = [examplePort(1), examplePort(2)];
    const net = host.open();
    await net.start(ports);
    assertHas(await host.view(), ports);
    await net.release();
  });

  on('repair removes what belongs to nobody and leaves the VMs it was told to', async (host) => {
    const net = host.open();
    const [mine, gone, busy] = [examplePort(1), examplePort(2), examplePort(3)];
    await net.start([mine, gone, busy]);
    const [stray, busyStray, busyNew] = [newId('vm'), newId('vm'), examplePort(4)];
    await host.strayTap(stray);
    await host.strayTap(busyStray);
    assert.deepEqual(
      [...(await net.observe())].sort(),
      [mine.vmId, gone.vmId, busy.vmId, stray, busyStray].sort(),
    );
    const did = await net.repair([mine, busyNew], new Set([busy.vmId, busyStray, busyNew.vmId]));
    assert.match(did.join('\n'), new RegExp(stray));
    assert.match(did.join('\n'), new RegExp(gone.vmId));
    assert.deepEqual([...(await net.observe())].sort(), [mine.vmId, busy.vmId, busyStray].sort());
    await net.repair([mine, busy]);
    assertHas(await host.view(), [mine, busy]);
    assert.deepEqual(await net.repair([mine, busy]), []);
    await net.release();
  });

  on('repair mends a removed tap, a flushed firewall, a dead DHCP server, and says so', async (host) => {
    const net = host.open();
    const ports = [examplePort(1), examplePort(2)];
    await net.start(ports);
    await host.removeTap(ports[0]?.vmId ?? newId('vm'));
    assert.match((await net.repair(ports)).join('\n'), new RegExp(ports[0]?.vmId ?? 'none'));
    await host.flushFirewall();
    assert.notDeepEqual(await net.health(), []);
    assert.notDeepEqual(await net.repair(ports), []);
    await host.killDhcp();
    await net.repair(ports);
    assertHas(await host.view(), ports);
    assert.deepEqual(await net.repair(ports), []);
    assert.deepEqual(await net.health(), []);
    await net.release();
  });

  on('repair mends a bridge that somebody removed, and puts the taps back on it', async (host) => {
    const net = host.open();
    const ports = [examplePort(1), examplePort(2)];
    await net.start(ports);
    await host.removeBridge();
    assert.notDeepEqual(await net.health(), []);
    assert.notDeepEqual(await net.repair(ports), []);
    assertHas(await host.view(), ports);
    assert.deepEqual(await net.health(), []);
    assert.deepEqual(await net.repair(ports), []);
    await net.release();
  });

  on('release leaves everything as it is', async (host) => {
    const net = host.open();
    const port = examplePort(1);
    await net.start([port]);
    const before = await host.view();
    await net.release();
    await net.release();
    assert.deepEqual(await host.view(), before);
  });

  on('down removes everything, strays too, from any state and twice', async (host) => {
    const net = host.open();
    await net.start([examplePort(1), examplePort(2)]);
    await host.strayTap(newId('vm'));
    await net.down();
    assert.deepEqual(await host.view(), EMPTY);
    await net.down();
    assert.deepEqual(await host.view(), EMPTY);
    await host.open().down();
    await net.start([examplePort(3)]);
    await net.release();
    await host.removeBridge();
    await host.open().down();
    assert.deepEqual(await host.view(), EMPTY);
  });
}

function assertHas(view: HostView, ports: readonly Port[]): void {
  const byId = <T extends { readonly vmId: string }>(items: readonly T[]): T[] =>
    items.toSorted((a, b) => (a.vmId < b.vmId ? -1 : 1));
  const addresses = byId(ports).map(({ vmId, ip, mac }) => ({ vmId, ip, mac }));
  assert.equal(view.bridge, true);
  assert.notEqual(view.dhcp, undefined);
  assert.deepEqual(
    byId(view.taps).map(({ vmId, joined }) => ({ vmId, joined })),
    addresses.map(({ vmId }) => ({ vmId, joined: true })),
  );
  assert.deepEqual(byId(view.filters), addresses);
  assert.deepEqual(byId(view.reservations), addresses);
}
