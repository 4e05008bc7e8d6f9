import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { systemClock } from '../base/clock.ts';
import type { GuestAgent } from './agent.ts';
import { giveIdentity, joinNetwork, newMachineId, refresh, setClock, type Identity } from './identity.ts';

/** Copies of one guest, as the suite needs them. */
export interface IdentityHost {
  /** A copy of the same saved guest, that runs. Its clock is behind. */
  copy(): Promise<GuestAgent>;
  /** Puts a hook of one command into a guest. */
  hook(agent: GuestAgent, name: string, command: string): Promise<void>;
  /** What the guest's clock says, in seconds since 1970. */
  clock(agent: GuestAgent): Promise<number>;
  /** Whether the guest has a network card. */
  readonly hasCard: boolean;
  /** How long a guest may take, in milliseconds. */
  readonly mostMs: number;
  dispose(): Promise<void>;
}

const FILES = {
  hostname: '/etc/hostname',
  machineId: '/etc/machine-id',
  hostKey: '/etc/ssh/ssh_host_ed25519_key.pub',
  randomSeed: '/var/lib/systemd/random-seed',
} as const;

/** The text of a guest's file. Throws when there is none. */
export async function readIn(agent: GuestAgent, path: string, mostMs: number): Promise<string> {
  const { exitCode, stdout, stderr } = await agent.exec(
    { command: ['cat', path], cwd: null, env: {}, stdin: null, timeoutMs: mostMs },
    AbortSignal.timeout(2 * mostMs),
  );
  assert.equal(exitCode, 0, stderr);
  return stdout.trim();
}

/** What every guest that can be copied must do, pretended or real. */
export function identitySuite(name: string, open: () => Promise<IdentityHost>): void {
  let host: IdentityHost;
  let original: Readonly<Record<keyof typeof FILES, string>>;
  const opened: GuestAgent[] = [];
  const patience = (): AbortSignal => AbortSignal.timeout(host.mostMs);
  const copy = async (): Promise<GuestAgent> => {
    const agent = await host.copy();
    opened.push(agent);
    return agent;
  };
  const who = async (agent: GuestAgent): Promise<typeof original> => ({
    hostname: await readIn(agent, FILES.hostname, host.mostMs),
    machineId: await readIn(agent, FILES.machineId, host.mostMs),
    hostKey: await readIn(agent, FILES.hostKey, host.mostMs),
    randomSeed: await readIn(agent, FILES.randomSeed, host.mostMs).catch(() => ''),
  });
  const identity = (hostname: string, mac: string): Identity => ({
    hostname,
    mac: host.hasCard ? mac : null,
    machineId: newMachineId(),
  });
  const clockIsRight = async (agent: GuestAgent): Promise<void> => {
    const from = Date.now();
    const seconds = await host.clock(agent);
    // Whole seconds, and the ones since it was set where the clock of a pretended guest stands still.
    assert.ok(seconds >= from / 1000 - 5 && seconds <= Date.now() / 1000 + 1, `${seconds} at ${from}`);
  };

  before(async () => {
    host = await open();
    original = await who(await copy());
  });
  after(async () => {
    for (const agent of opened) agent.close();
    await host.dispose();
  });

  test(`${name}: two copies are two machines, and neither is the one they were copied from`, async () => {
    const [one, two] = [await copy(), await copy()];
    const [first, second] = [identity('first', '02:fc:00:00:00:11'), identity('second', '02:fc:00:00:00:12')];
    const given = await giveIdentity({ agent: one, clock: systemClock }, first, patience());
    assert.deepEqual([given.reseeded, given.hooks], [true, []]);
    await giveIdentity({ agent: two, clock: systemClock }, second, patience());
    const [a, b] = [await who(one), await who(two)];
    assert.deepEqual([a.hostname, a.machineId], ['first', first.machineId]);
    assert.deepEqual([b.hostname, b.machineId], ['second', second.machineId]);
    assert.deepEqual(given.hostKeys, [a.hostKey]);
    assert.match(a.hostKey, /^ssh-ed25519 \S+ root@first$/);
    for (const key of ['machineId', 'hostKey', 'randomSeed'] as const) {
      const values = [original[key], a[key], b[key]];
      assert.equal(new Set(values).size, 3, `${key}: ${values.join(' ')}`);
    }
    if (!host.hasCard) return;
    const card = '/sys/class/net/eth0';
    assert.equal(await readIn(one, `${card}/address`, host.mostMs), first.mac);
    assert.equal(await readIn(two, `${card}/address`, host.mostMs), second.mac);
    assert.equal(await readIn(one, `${card}/operstate`, host.mostMs), 'down');
    await (
      await joinNetwork({ agent: one, clock: systemClock }, patience())
    ).joined;
    assert.equal(await readIn(one, `${card}/operstate`, host.mostMs), 'up');
  });

  test(`${name}: one that is restored is who it was, at the right time`, async () => {
    const agent = await copy();
    await setClock({ agent, clock: systemClock }, patience());
    const given = await refresh({ agent, clock: systemClock }, patience());
    assert.deepEqual(given, { reseeded: true, hooks: [] });
    const { randomSeed, ...rest } = await who(agent);
    const { randomSeed: before, ...as } = original;
    assert.deepEqual(rest, as);
    assert.notEqual(randomSeed, before);
    await clockIsRight(agent);
  });

  test(`${name}: hooks run in order and know why, and one that fails stops nothing`, async () => {
    const agent = await copy();
    await host.hook(agent, '20-told', 'echo told $HATCH_REASON > /run/told');
    await host.hook(agent, '10-fails', 'cat /nowhere');
    const restored = await refresh({ agent, clock: systemClock }, patience());
    assert.deepEqual(
      restored.hooks.map(({ name: hook, exitCode, timedOut }) => [hook, exitCode, timedOut]),
      [
        ['10-fails', 1, false],
        ['20-told', 0, false],
      ],
    );
    assert.match(restored.hooks[0]?.said ?? '', /\/nowhere: No such file/);
    assert.equal(restored.hooks[1]?.said, '');
    assert.equal(await readIn(agent, '/run/told', host.mostMs), 'told restore');
    const forked = await giveIdentity(
      { agent, clock: systemClock },
      identity('hooked', '02:fc:00:00:00:13'),
      patience(),
    );
    assert.deepEqual(
      forked.hooks.map(({ exitCode }) => exitCode),
      [1, 0],
    );
    assert.equal(await readIn(agent, '/run/told', host.mostMs), 'told fork');
    await clockIsRight(agent);
  });
}
