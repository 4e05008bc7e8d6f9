import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { silent } from '../../src/base/logger.ts';
import { until } from '../../src/base/until.ts';
import type { GuestAgent } from '../../src/guest/agent.ts';
import { giveIdentity, joinNetwork, newMachineId, refresh, setClock } from '../../src/guest/identity.ts';
import { identitySuite } from '../../src/guest/identity-suite.ts';
import { waitReady } from '../../src/guest/readiness.ts';
import { makeSeed } from '../../src/guest/seed.ts';
import { run } from '../../src/host/run.ts';
import { openLinuxNetwork } from '../../src/net/linux.ts';
import type { Machine, MachineSpec, SavedMachine } from '../../src/vmm/driver.ts';
import { openQemu } from '../../src/vmm/qemu/driver.ts';
import { agentOf, bootAndSave, type BootedGuest, type RunningGuest } from '../support/booted-guest.ts';

/**
 * Copies of a guest that had an address: it was booted, forked onto a network, given its lease, and saved; all that is made
 * here is made from that.
 */
const MOST_MS = 120_000;
const SOURCE = { ip: '192.168.241.10', mac: '02:fc:00:00:00:01' } as const;
const USER_DATA = `#cloud-config
users: [default, {name: alice}]
runcmd:
  - echo ran >> /root/ran
`;

/** As a guest of another image, or of an older one. */
const NO_HELPER = 'systemctl stop hatch-identity;';

const root = await mkdtemp(join(tmpdir(), 'identity-'));
const running: { readonly machine: Machine; readonly agent: GuestAgent }[] = [];
const patience = (): AbortSignal => AbortSignal.timeout(MOST_MS);
const booted = await boot();
const net = openLinuxNetwork(
  { run, log: silent, clock: systemClock },
  {
    ...{ bridge: 'hatch0', cidr: '192.168.241.1/24', dnsServers: ['203.0.113.1'], egress: 'deny' },
    folder: join(root, 'net'),
  },
);
const source = await leased();

async function boot(): Promise<BootedGuest> {
  const folder = join(root, 'vms');
  for (const path of [folder, join(root, 'net')]) await mkdir(path);
  const driver = await openQemu({
    ...{
      run,
      log: silent,
      folder,
      qemuBin: 'qemu-system-x86_64',
      cpu: null,
      users: { min: 61000, max: 64999 },
      cgroups: null,
    },
    kvmVerdictFile: join(root, 'kvm.json'),
  });
  return bootAndSave(driver, folder, { userData: USER_DATA });
}

async function leased(): Promise<{ readonly spec: MachineSpec; readonly saved: SavedMachine }> {
  await net.start([]);
  const first = await copyFrom(booted, SOURCE, true);
  // It was booted where nobody answered.
  await (
    await joinNetwork({ agent: first.agent, clock: systemClock }, patience())
  ).joined;
  await answers(SOURCE.ip);
  await first.machine.pause();
  first.agent.close();
  const at = (name: string): string => join(first.spec.folder, name);
  const saved = await first.machine.save({ statePath: at('state.bin'), memoryPath: at('memory.bin') });
  await first.machine.kill();
  return { spec: first.spec, saved };
}

// An emulated guest takes processor even when it idles: none outlives its test.
afterEach(async () => {
  for (const { agent, machine } of running.splice(0)) {
    agent.close();
    await machine.kill();
    await machine.release();
  }
});

after(async () => {
  // Before the network, which would remove the taps that are on it.
  await booted.remove();
  await net.down();
  await net.release();
  await rm(root, { recursive: true });
});

/** A copy that runs, its tap on the network or not yet. */
async function copyFrom(
  of: { readonly spec: MachineSpec; readonly saved: SavedMachine },
  port: { readonly ip: string; readonly mac: string },
  joined: boolean,
): Promise<RunningGuest> {
  const spec = await booted.copyOf(of.spec);
  await net.attach({ ...port, vmId: spec.vmId, hostname: spec.vmId });
  await net.setJoined(spec.vmId, joined);
  const machine = await booted.driver.load(spec, of.saved, { mapping: 'private', resume: true }, patience());
  const guest = { spec, machine, agent: agentOf(machine) };
  running.push(guest);
  await guest.agent.ping(patience());
  return guest;
}

async function sh(agent: GuestAgent, command: string, stdin: string | null = null): Promise<string> {
  const line = { command, cwd: null, env: {}, stdin, timeoutMs: MOST_MS };
  const { exitCode, stdout, stderr } = await agent.exec(line, patience());
  assert.equal(exitCode, 0, `${command}: ${stderr}`);
  return stdout.trim();
}

/** Waits until sshd answers at an address. */
async function answers(ip: string): Promise<void> {
  assert.equal(await waitReady({ ssh: { ip, port: 22 }, clock: systemClock }, patience()), 'ssh');
}

async function hook(agent: GuestAgent, name: string, command: string): Promise<void> {
  const path = `/etc/hatch/after-restore.d/${name}`;
  await sh(agent, `cat >${path}; chmod +x ${path}`, `#!/bin/sh\n${command}\n`);
}

const ports = Array.from({ length: 60 }, (_, i) => ({ ip: `192.168.241.${i + 20}`, mac: macOf(i + 20) }));
function macOf(last: number): string {
  return `02:fc:00:00:01:${last.toString(16).padStart(2, '0')}`;
}
function nextPort(): { readonly ip: string; readonly mac: string } {
  return ports.shift() ?? assert.fail('there are no more addresses');
}

const WAYS = { 'its helper': '', 'the scripts': NO_HELPER } as const;
for (const [way, before] of Object.entries(WAYS)) {
  identitySuite(`a real guest, by ${way}`, async () => ({
    hasCard: true,
    mostMs: MOST_MS,
    hook,
    clock: async (agent) => Number(await sh(agent, 'date +%s')),
    copy: async () => {
      const { agent } = await copyFrom(source, nextPort(), false);
      // Far enough behind that no clock is right by itself.
      await sh(agent, `${before} date -s '2001-02-03 04:05:06'`);
      return agent;
    },
    dispose: async () => undefined,
  }));
}

/** Counts the programs that are started by it. */
function counting(agent: GuestAgent): { readonly agent: GuestAgent; readonly started: string[] } {
  const started: string[] = [];
  const counted: GuestAgent = {
    ping: (signal) => agent.ping(signal),
    exec: (command, signal) => agent.exec(command, signal),
    start: (program, signal) => {
      started.push(program.argv.at(-1) ?? '');
      return agent.start(program, signal);
    },
    open: (path, mode, signal) => agent.open(path, mode, signal),
    read: (path, signal) => agent.read(path, signal),
    write: (path, text, signal) => agent.write(path, text, signal),
    setTime: (signal) => agent.setTime(signal),
    time: (signal) => agent.time(signal),
    shutdown: (mode, signal) => agent.shutdown(mode, signal),
    info: (signal) => agent.info(signal),
    close: () => agent.close(),
  };
  return { agent: counted, started };
}

test('a guest of our image has a helper, and no program is started to tell it anything', async () => {
  const port = nextPort();
  const copy = await copyFrom(source, port, false);
  const { agent, started } = counting(copy.agent);
  const deps = { agent, clock: systemClock };
  await setClock(deps, patience());
  await refresh(deps, patience());
  await giveIdentity(deps, { hostname: 'helped', mac: port.mac, machineId: newMachineId() }, patience());
  await net.setJoined(copy.spec.vmId, true);
  await (
    await joinNetwork(deps, patience())
  ).joined;
  await answers(port.ip);
  assert.deepEqual(started, []);
});

test('a helper that is killed while it makes a copy somebody else is there again, and the script ends its work', async () => {
  const port = nextPort();
  const copy = await copyFrom(source, port, false);
  await hook(
    copy.agent,
    '10-kills',
    'test -e /run/killed || { : >/run/killed; systemctl kill -s KILL hatch-identity; sleep 5; }',
  );
  const { agent, started } = counting(copy.agent);
  const deps = { agent, clock: systemClock };
  const identity = { hostname: 'killed', mac: port.mac, machineId: newMachineId() };
  const { hooks } = await giveIdentity(deps, identity, patience());
  assert.deepEqual(hooks, [{ name: '10-kills', exitCode: 0, timedOut: false, said: '' }]);
  assert.deepEqual(started, ['hatch-identity']);
  assert.equal(await sh(agent, 'hostname; cat /etc/machine-id'), `killed\n${identity.machineId}`);
  await refresh(deps, patience());
  assert.deepEqual(started, ['hatch-identity'], 'the helper is there again');
});

test('two copies of a guest with an address join under their own, and sshd shows the new key', async (t) => {
  const seen: string[] = [];
  for (const hostname of ['one', 'two']) {
    const port = nextPort();
    const { spec, machine, agent } = await copyFrom(source, port, false);
    await machine.pause();
    const from = performance.now();
    const lap = (): string => `${(performance.now() - from).toFixed(0)} ms`;
    await machine.resume();
    const given = await giveIdentity(
      { agent, clock: systemClock },
      { hostname, mac: port.mac, machineId: newMachineId() },
      patience(),
    );
    const times = [`identity given ${lap()} after the resume`];
    await net.setJoined(spec.vmId, true);
    await (
      await joinNetwork({ agent, clock: systemClock }, patience())
    ).joined;
    times.push(`joined ${lap()}`);
    await answers(port.ip);
    times.push(`sshd answered ${lap()}`);
    t.diagnostic(times.join(', '));
    const bare = performance.now();
    await sh(agent, 'true');
    t.diagnostic(`a bare exec of "true" takes ${(performance.now() - bare).toFixed(0)} ms here`);

    assert.equal(await sh(agent, 'hostname; cat /etc/hostname'), `${hostname}\n${hostname}`);
    const addresses = await sh(agent, 'ip -brief -4 address show dev eth0; ip -brief link show dev eth0');
    assert.match(addresses, new RegExp(`\\b${port.ip}/24`));
    assert.ok(!addresses.includes(SOURCE.ip), addresses);
    assert.match(addresses, new RegExp(port.mac));
    // What the machine calls itself is found, and its original's name is not.
    assert.match(
      await sh(agent, 'getent hosts "$(hostname)"'),
      new RegExp(`^127\\.0\\.1\\.1 +${hostname}\\b`),
    );
    assert.equal(await sh(agent, 'grep -cw booted /etc/hosts || true'), '0');
    assert.equal(await sh(agent, 'cmp /etc/machine-id /var/lib/dbus/machine-id && echo same'), 'same');
    const [, ...key] = (await sh(agent, 'ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null')).split(' ');
    assert.deepEqual(
      given.hostKeys.map((line) => line.split(' ').slice(0, 2)),
      [key],
    );
    // The journal goes on, and what was in it is still there.
    await sh(agent, 'logger hello');
    await until({ clock: systemClock, signal: patience() }, async () =>
      /hello$/.test(await sh(agent, 'journalctl --no-pager -b -t root -n 1 || true')) ? true : undefined,
    );
    assert.match(await sh(agent, 'journalctl --no-pager -b -k | head -n 20'), /kernel: Linux version/);
    seen.push(await sh(agent, 'head -c 32 /dev/urandom | base64; cat /etc/machine-id'), key.join(' '));
  }
  assert.equal(new Set(seen.flatMap((text) => text.split('\n'))).size, 6);
});

test('a hook that hangs is ended, one that leaves a child in the background is not waited for', async () => {
  const { agent } = await copyFrom(source, nextPort(), false);
  await hook(agent, '10-child', 'setsid sleep 300 &\necho started');
  await hook(agent, '20-hangs', 'echo before; sleep 300');
  await hook(
    agent,
    '30-after',
    'test "$(hostname)" = hooked && cat /sys/class/net/eth0/operstate >&2; exit 7',
  );
  await sh(agent, 'cd /etc/hatch/after-restore.d; echo exit 1 >40-not-executable; cp 30-after "50 odd name"');
  const { hooks } = await giveIdentity(
    { agent, clock: systemClock },
    { hostname: 'hooked', mac: nextPort().mac, machineId: newMachineId() },
    patience(),
  );
  assert.deepEqual(hooks, [
    { name: '10-child', exitCode: 0, timedOut: false, said: '' },
    { name: '20-hangs', exitCode: 124, timedOut: true, said: 'before' },
    { name: '30-after', exitCode: 7, timedOut: false, said: 'down' },
  ]);
});

test('host keys of every kind that is there are made anew, and configuration that names the card follows it', async () => {
  const { agent } = await copyFrom(source, nextPort(), false);
  await sh(
    agent,
    `ssh-keygen -q -t ecdsa -N '' -f /etc/ssh/ssh_host_ecdsa_key
     mkdir -p /etc/netplan; echo 'macaddress: "02:FC:00:00:00:01"' >/etc/netplan/50-cloud-init.yaml
     printf '127.0.1.1 booted.example.org booted booted\\n10.0.0.1 booted2 not-booted\\n' >/etc/hosts`,
  );
  const before = await sh(agent, 'cat /etc/ssh/ssh_host_ecdsa_key.pub');
  const { mac } = nextPort();
  const { hostKeys } = await giveIdentity(
    { agent, clock: systemClock },
    { hostname: 'kinds', mac, machineId: newMachineId() },
    patience(),
  );
  assert.deepEqual(
    hostKeys.map((line) => line.split(' ')[0]),
    ['ecdsa-sha2-nistp256', 'ssh-ed25519'],
  );
  assert.notEqual(hostKeys[0], before);
  assert.equal(await sh(agent, 'stat -c "%a %U" /etc/ssh/ssh_host_*_key | sort -u'), '600 root');
  assert.equal(await sh(agent, 'cat /etc/netplan/*'), `macaddress: "${mac}"`);
  assert.equal(
    await sh(agent, 'cat /etc/hosts'),
    '127.0.1.1 kinds.example.org kinds kinds\n10.0.0.1 booted2 not-booted',
  );
});

test('a guest whose random state cannot be reseeded cannot be copied, but restored', async () => {
  const { agent } = await copyFrom(source, nextPort(), false);
  await sh(
    agent,
    // A helper that runs has all it needs.
    `${NO_HELPER} for f in perl python3; do mount --bind /dev/null "$(readlink -f "$(command -v $f)")"; done`,
  );
  const before = await sh(agent, 'cat /etc/machine-id');
  await assert.rejects(
    giveIdentity(
      { agent, clock: systemClock },
      { hostname: 'x', mac: nextPort().mac, machineId: newMachineId() },
      patience(),
    ),
    /random state could not be reseeded/,
  );
  assert.equal(await sh(agent, 'cat /etc/machine-id'), before);
  assert.deepEqual(await refresh({ agent, clock: systemClock }, patience()), { reseeded: false, hooks: [] });
});

test('a copy that is booted again is still who it was made, and is not set up a second time', async () => {
  const port = nextPort();
  const { spec, machine, agent } = await copyFrom(source, port, false);
  const machineId = newMachineId();
  const { hostKeys } = await giveIdentity(
    { agent, clock: systemClock },
    { hostname: 'again', mac: port.mac, machineId },
    patience(),
  );
  await sh(agent, 'sync');
  agent.close();
  await machine.kill();
  // Its seed names it anew under the instance id of the original.
  await rm(join(spec.folder, 'seed.iso'));
  await makeSeed(
    { run },
    {
      ...{ path: join(spec.folder, 'seed.iso'), hostname: 'again', instanceId: 'booted-guest' },
      ...{ userData: USER_DATA, sshAuthorizedKeys: [], defaultUser: 'debian' },
    },
    patience(),
  );
  await net.setJoined(spec.vmId, true);
  const network = { tap: spec.vmId, mac: port.mac };
  const next = await booted.driver.launch({ ...spec, network }, patience());
  const after = { machine: next, agent: agentOf(next) };
  running.push(after);
  await after.agent.ping(AbortSignal.timeout(300_000));
  assert.match(await sh(after.agent, 'cloud-init status --wait'), /done/);
  await answers(port.ip);
  assert.equal(
    await sh(
      after.agent,
      'cat /etc/machine-id; hostname; cat /etc/ssh/ssh_host_*.pub /root/ran; grep -c alice: /etc/passwd',
    ),
    [machineId, 'again', ...hostKeys, 'ran', '1'].join('\n'),
  );
});
