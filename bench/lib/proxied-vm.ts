import { systemClock } from '../../src/base/clock.ts';
import { silent } from '../../src/base/logger.ts';
import { ProxyThreads } from '../../src/gateway/proxy/threads/threads.ts';
import { Refusals } from '../../src/ops/refusals.ts';
import { Visits } from '../../src/ops/visits.ts';
import { Waker } from '../../src/ops/waker.ts';
import { makeHostFolder, openFakeWorld } from '../../test/support/fake-world.ts';

/**
 * `node bench/lib/proxied-vm.ts GUEST_IP GUEST_PORT PROXY_PORT [THREADS]`: the proxy as hatchd has it, over the real store and tracker, before a VM
 * whose hypervisor is pretended: what answers at the guest's address is somebody else's. It leads `web.hatch.localhost` there, and on
 * SIGUSR2 prints how much memory it has, in bytes.
 */
const [ip = '', guestPort = '', port = '', threads = '1'] = process.argv.slice(2);
const host = await makeHostFolder();
const cidr = `${ip.split('.').slice(0, 3).join('.')}.1/24`;
const fake = await openFakeWorld(host, { cidr });
const { world, hatch, caller } = fake;
const vm = await hatch.vms.create(caller, { guestIp: ip }, { until: 'ready', timeoutMs: 10_000 });
await hatch.routes.create(caller, vm.id, { targetPort: Number(guestPort), subdomain: 'web' });
const proxy = new ProxyThreads(
  {
    visits: new Visits(world, new Waker(world), new Refusals(world)),
    activity: world.activity,
    routeBook: world.routeBook,
    log: silent,
    clock: systemClock,
  },
  {
    threads: Number(threads),
    place: { host: '127.0.0.1', port: Number(port) },
    baseDomain: 'hatch.localhost',
    wakeTimeoutMs: 3000,
    trustedProxies: [],
  },
);
await proxy.open();
console.log('ready');
process.on('SIGUSR2', () => {
  globalThis.gc?.();
  console.log(process.memoryUsage().rss);
});
process.on('SIGTERM', () => {
  void proxy
    .close()
    .then(() => fake.close())
    .then(() => host.remove())
    .then(() => process.exit(0));
});
