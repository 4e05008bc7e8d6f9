import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../base/clock.ts';
import { newId } from '../base/ids.ts';
import { silent } from '../base/logger.ts';
import { run } from '../host/run.ts';
import { Failure } from '../model/failure.ts';
import type { MachineSpec } from '../vmm/driver.ts';
import { openFake } from '../vmm/fake/driver.ts';
import { AGENT_PORT, newMemory, PretendedGuest, type GuestMemory } from '../vmm/firecracker/testing/guest.ts';
import type { ExecResult, GuestAgent, GuestProgram } from './agent.ts';
import { openAgent } from './agent-client.ts';
import { giveIdentity, identityInput, joinNetwork, newMachineId, parseReport, refresh } from './identity.ts';
import { IDENTITY_SCRIPT, JOIN_SCRIPT, REFRESH_SCRIPT } from './identity-script.ts';
import { identitySuite, readIn } from './identity-suite.ts';

const identity = { hostname: 'copy', mac: '02:fc:00:00:00:02', machineId: 'a'.repeat(32) };
const seed = Buffer.alloc(64, 0xab);
const soon = (): AbortSignal => AbortSignal.timeout(10_000);

/** An agent whose programs end so, and what it was told to run. */
function agentThat(result: Partial<ExecResult>): {
  readonly agent: GuestAgent;
  readonly asked: GuestProgram[];
} {
  const asked: GuestProgram[] = [];
  const none = (): Promise<never> => Promise.reject(new Error('not asked for'));
  const agent: GuestAgent = {
    ping: none,
    setTime: none,
    time: none,
    shutdown: none,
    info: none,
    close: () => undefined,
    exec: none,
    read: none,
    open: none,
    // It has no helper.
    write: async () => false,
    start: async (program) => {
      asked.push(program);
      const fine = { exitCode: 0, stdout: '', stderr: '', truncated: false, timedOut: false };
      return { ended: Promise.resolve({ ...fine, ...result }) };
    },
  };
  return { agent, asked };
}

/** Rejects as a guest that could not be made ready, for a reason that fits. */
function refusedFor(reason: RegExp): (error: unknown) => boolean {
  return (error) => error instanceof Failure && error.code === 'no_guest_agent' && reason.test(error.message);
}

test('the scripts are programs every POSIX shell can read', async () => {
  for (const input of [IDENTITY_SCRIPT, REFRESH_SCRIPT, JOIN_SCRIPT]) await run(['sh', '-n'], { input });
});

test('what the guest is told stands a line each on stdin, and nothing of it on the command line', async () => {
  const { agent, asked } = agentThat({ stdout: 'reseeded yes\ndone\n' });
  await giveIdentity({ agent, clock: systemClock }, identity, soon());
  const [program] = asked;
  const lines = (program?.stdin ?? '').split('\n');
  assert.deepEqual(
    [lines[0], lines[2], ...lines.slice(4, 7)],
    ['fork', '10', 'copy', identity.mac, identity.machineId],
  );
  assert.deepEqual(
    lines.slice(7).map((line) => line.split(' ')[0]?.slice(0, 6)),
    // The private halves by how OpenSSH's begin in base64.
    ['b3Blbn', 'ssh-ed', 'b3Blbn', 'ecdsa-', ''],
  );
  assert.ok(Math.abs(Number(lines[3]) * 10 - Date.now()) < 10_000);
  assert.match(lines[1] ?? '', /^[0-9a-f]{128}$/);
  assert.deepEqual(program?.argv, ['/bin/sh', '-c', IDENTITY_SCRIPT, 'hatch-identity']);
});

test('no two copies are sent the same bytes or keys', async () => {
  const { agent, asked } = agentThat({ stdout: 'done\n' });
  for (let i = 0; i < 2; i++) await giveIdentity({ agent, clock: systemClock }, identity, soon());
  for (const line of [1, 7, 8, 9, 10])
    assert.equal(new Set(asked.map(({ stdin }) => stdin?.split('\n')[line])).size, 2);
});

for (const hostname of [
  '',
  '-a',
  'a-',
  'a b',
  "a'; id",
  'a/b',
  'a.b',
  '$(id)',
  'a\nb',
  'é',
  'a'.repeat(64),
]) {
  test(`a host name such as ${JSON.stringify(hostname.slice(0, 10))} never comes to the guest`, () => {
    assert.throws(
      () => identityInput({ ...identity, hostname }, { now: 0, seed, hostKeys: [] }),
      (error) => error instanceof Failure && error.details['field'] === 'hostname',
    );
  });
}

test('what is no MAC or machine id never comes to the guest', () => {
  for (const wrong of [
    { mac: '02:fc:00:00:00' },
    { mac: 'up\nlink' },
    { machineId: 'x' },
    { machineId: 'A'.repeat(32) },
  ]) {
    assert.throws(() => identityInput({ ...identity, ...wrong }, { now: 0, seed, hostKeys: [] }), Failure);
  }
  const withoutCard = identityInput({ ...identity, mac: null }, { now: 0, seed, hostKeys: [] });
  assert.match(withoutCard, /\ncopy\n\na{32}\n\n\n\n\n$/);
});

test('a machine id is a random UUID without dashes', () => {
  const ids = Array.from({ length: 50 }, newMachineId);
  assert.equal(new Set(ids).size, 50);
  for (const id of ids) assert.match(id, /^[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}$/);
});

test('the report is read line by line', () => {
  const key = 'ssh-ed25519 AAAAC3Nz+/= root@copy';
  const report = `reseeded yes\nkey ${key}\nhook 0 10-a\nhook 3 20-b.sh\nsaid one\nsaid two\nhook 124 30-c\ndone\n`;
  assert.deepEqual(parseReport(report), {
    reseeded: true,
    hostKeys: [key],
    hooks: [
      { name: '10-a', exitCode: 0, timedOut: false, said: '' },
      { name: '20-b.sh', exitCode: 3, timedOut: false, said: 'one\ntwo' },
      { name: '30-c', exitCode: 124, timedOut: true, said: '' },
    ],
  });
  assert.deepEqual(parseReport('reseeded no\ndone\n'), { reseeded: false, hostKeys: [], hooks: [] });
});

test('lines of a guest that means ill are passed over, and what it says is bounded', () => {
  const report = [
    'said before any hook',
    'key not a key\u001b[2J',
    'hook 0 ../../etc',
    'hook x y',
    'hook 1 loud',
    ...Array.from({ length: 1000 }, () => `said ${'x'.repeat(100)}`),
    'done',
    '',
  ].join('\n');
  const { hooks, hostKeys } = parseReport(report);
  assert.deepEqual(hostKeys, []);
  assert.deepEqual(
    hooks.map(({ name, said }) => [name, said.length]),
    [['loud', 1000]],
  );
});

test('a guest that cannot be made another says why; it must not join', async () => {
  const on = (result: Partial<ExecResult>): Promise<unknown> =>
    giveIdentity({ agent: agentThat(result).agent, clock: systemClock }, identity, soon());
  await assert.rejects(
    on({ exitCode: 1, stderr: '\u001b[1mno perl\nits random state could not be reseeded\n' }),
    refusedFor(/: \?\[1mno perl; its random state could not be reseeded\.$/),
  );
  await assert.rejects(on({ exitCode: 127 }), refusedFor(/code 127/));
  await assert.rejects(on({ exitCode: null, timedOut: true }), refusedFor(/longer than 120 s/));
  await assert.rejects(on({ stdout: 'reseeded yes\nhook 0 a\n' }), refusedFor(/did not come to an end/));
});

test('a card that cannot be brought up is told of', async () => {
  const { agent } = agentThat({ exitCode: 1, stderr: 'it has no network card\n' });
  const { joined } = await joinNetwork({ agent, clock: systemClock }, soon());
  await assert.rejects(joined, refusedFor(/it has no network card/));
});

test('a restored guest is not told any name, and one that could not reseed says so', async () => {
  const { agent, asked } = agentThat({ stdout: 'reseeded no\ndone\n' });
  assert.deepEqual(await refresh({ agent, clock: systemClock }, soon()), { reseeded: false, hooks: [] });
  assert.deepEqual(asked[0]?.argv, ['/bin/sh', '-c', REFRESH_SCRIPT, 'hatch-refresh']);
  assert.match(asked[0].stdin ?? '', /^restore\n[0-9a-f]{128}\n10\n$/);
});

const hook = async (agent: GuestAgent, name: string, command: string): Promise<void> => {
  const line = `echo ${command} > /etc/hatch/after-restore.d/${name}`;
  // The pretended shell takes the last of two redirections, which is this one's.
  await agent.exec({ command: line, cwd: null, env: {}, stdin: null, timeoutMs: 5000 }, soon());
};

const clock = async (agent: GuestAgent): Promise<number> =>
  Number(await readIn(agent, '/sys/class/rtc/rtc0/since_epoch', 5000));

identitySuite('the fake hypervisor', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-identity-'));
  const driver = openFake({ folder });
  const place = async (): Promise<MachineSpec> => {
    const vmId = newId('vm');
    const own = join(folder, vmId);
    await mkdir(own);
    for (const name of ['kernel', 'disk.raw']) await writeFile(join(own, name), '');
    return {
      vmId,
      folder: own,
      vcpuCount: 1,
      memMib: 512,
      kernel: 'kernel',
      initrd: null,
      bootArgs: '',
      disks: [{ path: 'disk.raw', format: 'raw', readOnly: false }],
      network: { tap: vmId, mac: '02:fc:00:00:00:01' },
      machineType: null,
    };
  };
  const machine = await driver.launch(await place(), soon());
  await machine.pause();
  const saved = await machine.save({ statePath: join(folder, 'state'), memoryPath: join(folder, 'memory') });
  await machine.kill();
  return {
    hasCard: true,
    mostMs: 10_000,
    hook,
    clock,
    copy: async () => {
      const copy = await driver.load(await place(), saved, { mapping: 'private', resume: true }, soon());
      return openAgent({ connect: (signal) => copy.agent(signal), clock: systemClock, log: silent });
    },
    dispose: () => rm(folder, { recursive: true }),
  };
});

identitySuite("the guest of Firecracker's double", async () => {
  const memory: GuestMemory = { ...newMemory('console=ttyS0'), stage: 'up', clockMs: Date.now() - 60_000 };
  const nothing = (): undefined => undefined;
  return {
    hasCard: false,
    mostMs: 10_000,
    hook,
    clock,
    copy: async () => {
      const guest = new PretendedGuest({
        ...{ memory, say: nothing, reset: nothing, dropConnections: nothing, touch: nothing },
        ...{ bootMs: 0, shutdownMs: 0, kind: 'well', deaf: false, ctrlAltDel: 'poweroff' },
      });
      guest.wake();
      const connect = async () => {
        const stream = guest.accept(AGENT_PORT);
        if (typeof stream === 'string') throw new Error(stream);
        return stream;
      };
      return openAgent({ connect, clock: systemClock, log: silent });
    },
    dispose: async () => undefined,
  };
});
