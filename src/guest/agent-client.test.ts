import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import { FakeClock, systemClock } from '../base/clock.ts';
import { silent } from '../base/logger.ts';
import { run } from '../host/run.ts';
import { AgentGone, AgentRefused, type GuestAgent } from './agent.ts';
import { openAgent } from './agent-client.ts';
import { agentSuite } from './agent-suite.ts';
import { PERL_RUNNER } from './exec-runners.ts';
import { FakeGuestAgent, type FakeOutcome, type FakeProgram } from './fake-agent.ts';

/** Runs it on this machine and reports as the real agent does: when the program has ended and its outputs have. */
const onThisMachine: FakeProgram = ({ path, args, stdin }) =>
  new Promise((resolve, reject) => {
    const child = spawn(path, args, {
      cwd: '/',
      stdio: 'pipe',
      env: { PATH: '/usr/bin:/bin', LANG: 'C.UTF-8' },
    });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
    child.stdin.on('error', () => undefined);
    child.stdin.end(stdin ?? '');
    child.on('error', reject);
    child.on('close', (exitCode, signal) =>
      resolve({
        exitCode,
        signal: signal === null ? null : constants.signals[signal],
        out: Buffer.concat(out),
        err: Buffer.concat(err),
      }),
    );
  });

const nothing: FakeProgram = () => new Promise<FakeOutcome>(() => undefined);
const never = new AbortController().signal;
const COMMAND = { command: 'true', cwd: null, env: {}, stdin: null, timeoutMs: 1000 };

function fake(program: FakeProgram = nothing): {
  guest: FakeGuestAgent;
  clock: FakeClock;
  agent: GuestAgent;
} {
  const guest = new FakeGuestAgent(program);
  const clock = new FakeClock();
  return { guest, clock, agent: openAgent({ connect: guest.connect, clock, log: silent }) };
}

/** Lets everything happen that can without time going on. */
async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** Moves the clock on in small steps until the work is done. */
async function hurry<T>(clock: FakeClock, work: Promise<T>): Promise<T> {
  let done = false;
  const finish = work.finally(() => (done = true));
  finish.catch(() => undefined);
  while (!done) {
    await settle();
    if (!done) await clock.advance(50);
  }
  return finish;
}

for (const runner of ['perl', 'sh'] as const) {
  const machine = new FakeGuestAgent(onThisMachine);
  machine.pieceBytes = 1000;
  machine.inside.onThisMachine = true;
  if (runner === 'sh') machine.lacks.add('perl');
  agentSuite(`in memory, commands run by ${runner}`, {
    open: () => openAgent({ connect: machine.connect, clock: systemClock, log: silent }),
    mostMs: 20_000,
    files: runner === 'perl',
  });
}

test('the runner in perl is strict and says nothing of its own', async () => {
  const checked = await run(['perl', '-Mstrict', '-c', '-e', PERL_RUNNER]);
  assert.equal(checked.stderr, '-e syntax OK\n');
});

test('a guest without perl is asked for it once', async () => {
  const { guest, clock, agent } = fake(async ({ args }) => {
    const nonce = args[3] ?? '';
    return { exitCode: 0, signal: null, out: Buffer.from('out'), err: Buffer.from(`\n${nonce} 3 0\n`) };
  });
  guest.lacks.add('perl');
  for (let i = 0; i < 2; i++) {
    const { exitCode, stdout } = await hurry(clock, agent.exec(COMMAND, never));
    assert.deepEqual([exitCode, stdout], [3, 'out']);
  }
  assert.equal(guest.asked.filter((command) => command === 'guest-exec').length, 3);
});

test('a guest that is not up yet is asked again and again, and answers the newest question', async () => {
  const { guest, clock, agent } = fake();
  guest.up = false;
  const ping = agent.ping(never);
  let answered = false;
  void ping.then(() => (answered = true));
  for (let i = 0; i < 100; i++) {
    await clock.advance(100);
    await settle();
  }
  assert.equal(answered, false);
  guest.up = true;
  await hurry(clock, ping);
  assert.equal(guest.connections, 1);
  assert.equal(clock.sleepers, 0);
});

test('a guest that is silent for too long is gone, and is spoken to again when it is back', async () => {
  const { guest, clock, agent } = fake();
  guest.up = false;
  const start = clock.now();
  await assert.rejects(hurry(clock, agent.info(never)), AgentGone);
  assert(clock.now() - start >= 20_000);
  guest.up = true;
  assert.equal((await hurry(clock, agent.info(never))).version, '7.2.22');
});

test('what a client before us left unread is not taken for our answer', async () => {
  const { guest, clock, agent } = fake();
  guest.up = false;
  const ping = agent.ping(never);
  await settle();
  guest.blurt('{"return": {"version": "of another"}}\n{"return"');
  guest.up = true;
  await hurry(clock, ping);
  guest.blurt('{"return": {"version": "of another"}}\n');
  await settle();
  assert.equal((await hurry(clock, agent.info(never))).version, '7.2.22');
});

test('an answer that comes after we gave up is not taken for the next one', async () => {
  const { guest, clock, agent } = fake();
  guest.lacks.add('date');
  guest.lateAt = 'guest-get-time';
  guest.refused.set('guest-set-time', 'hwclock failed');
  await assert.rejects(hurry(clock, agent.setTime(never)), AgentGone);
  assert.equal((await hurry(clock, agent.info(never))).version, '7.2.22');
});

test('a caller who gives up in the middle leaves the channel in step for the next', async () => {
  const { guest, clock, agent } = fake();
  await hurry(clock, agent.ping(never));
  guest.lateAt = 'guest-info';
  const stop = new AbortController();
  const first = agent.info(stop.signal);
  const second = agent.info(never);
  await settle();
  stop.abort(new Error('enough'));
  await assert.rejects(first, /enough/);
  assert.equal((await hurry(clock, second)).version, '7.2.22');
  assert.equal(clock.sleepers, 0);
});

test('an agent that answers an older question is given time for the newest', async () => {
  const { guest, clock, agent } = fake();
  guest.lateAt = 'guest-sync-delimited';
  await hurry(clock, agent.ping(never));
  assert.equal(guest.asked.filter((command) => command === 'guest-sync-delimited').length, 2);
});

test('a broken channel is made anew when it is next needed, one at a time', async () => {
  const { guest, clock, agent } = fake();
  assert.equal(guest.connections, 0);
  await hurry(clock, agent.ping(never));
  guest.drop();
  await settle();
  assert.equal(guest.connections, 1);
  await Promise.all([hurry(clock, agent.info(never)), hurry(clock, agent.ping(never))]);
  assert.equal(guest.connections, 2);
});

test('a channel that ends in the middle of a question is AgentGone, not silence', async () => {
  const { guest, clock, agent } = fake();
  guest.dropAt = 'guest-info';
  await assert.rejects(hurry(clock, agent.info(never)), /ended|closed/);
});

test('a program goes on while the channel is broken, and its end is told on the next', async () => {
  let end: (outcome: FakeOutcome) => void = () => undefined;
  let nonce = '';
  const { guest, clock, agent } = fake(({ args }) => {
    // What the runner in perl is told first, after its own text.
    nonce = args[2] ?? '';
    return new Promise((resolve) => (end = resolve));
  });
  const running = hurry(clock, agent.exec({ ...COMMAND, timeoutMs: 60_000 }, never));
  await settle();
  guest.drop();
  await settle();
  end({ exitCode: 0, signal: null, out: Buffer.from('done'), err: Buffer.from(`\n${nonce} 7 0\n`) });
  assert.deepEqual(await running, {
    exitCode: 7,
    stdout: 'done',
    stderr: '',
    truncated: false,
    timedOut: false,
  });
});

test('a result that was lost with the channel is an error, not a wait without end', async () => {
  const { guest, clock, agent } = fake(async () => ({
    exitCode: 0,
    signal: null,
    out: Buffer.alloc(0),
    err: Buffer.alloc(0),
  }));
  guest.dropAt = 'guest-exec-status';
  await assert.rejects(hurry(clock, agent.exec(COMMAND, never)), AgentRefused);
});

test('a runner that the guest killed is told from a command that failed', async () => {
  const { clock, agent } = fake(async () => ({
    exitCode: null,
    signal: 9,
    out: Buffer.alloc(0),
    err: Buffer.from('out of memory'),
  }));
  await assert.rejects(hurry(clock, agent.exec(COMMAND, never)), /did not finish.*out of memory/);
});

test('a guest that never says how the command ended is gone some time after the command had to', async () => {
  const { clock, agent } = fake();
  const start = clock.now();
  await assert.rejects(hurry(clock, agent.exec(COMMAND, never)), AgentGone);
  assert(clock.now() - start >= 21_000 && clock.now() - start < 25_000);
});

test('the result of a command nobody waits for any more is collected all the same', async () => {
  let end: (outcome: FakeOutcome) => void = () => undefined;
  const { guest, clock, agent } = fake(() => new Promise((resolve) => (end = resolve)));
  const stop = new AbortController();
  const running = agent.exec(COMMAND, stop.signal);
  running.catch(() => undefined);
  await hurry(clock, agent.ping(never));
  await settle();
  assert.equal(guest.uncollected, 1);
  stop.abort(new Error('hung up'));
  await assert.rejects(running, /hung up/);
  end({ exitCode: 0, signal: null, out: Buffer.alloc(0), err: Buffer.alloc(0) });
  for (let i = 0; i < 20; i++) {
    await clock.advance(100);
    await settle();
  }
  assert.equal(guest.uncollected, 0);
});

test('the clock is set by the date of the guest, which need not know of fractions', async () => {
  const { guest, clock, agent } = fake();
  for (const date of ['gnu', 'busybox'] as const) {
    [guest.date, guest.timeNs] = [date, 0n];
    await hurry(clock, agent.setTime(never));
    assert.ok(Math.abs(Number(guest.timeNs / 1_000_000n) - clock.now()) < 2000);
  }
  assert.ok(!guest.asked.includes('guest-set-time'));
  assert.equal(guest.uncollected, 0);
});

test('without a date the clock is set by the agent itself, and a guest without hwclock counts as set', async () => {
  const { guest, clock, agent } = fake();
  guest.lacks.add('date');
  await hurry(clock, agent.setTime(never));
  assert.equal(guest.timeNs % 1_000_000n, 0n);
  assert(Math.abs(Number(guest.timeNs / 1_000_000n) - clock.now()) < 2000);
  guest.refused.set('guest-set-time', 'hwclock failed to set hardware clock to system time');
  guest.timeNs = 0n;
  await hurry(clock, agent.setTime(never));
  assert(guest.timeNs > 0n);
});

test('a program of our own that does not end in time is no longer waited for', async () => {
  const { clock, agent } = fake();
  const { ended } = await hurry(
    clock,
    agent.start({ argv: ['sleep', '9'], stdin: null, timeoutMs: 3000 }, never),
  );
  const start = clock.now();
  const { exitCode, timedOut } = await hurry(clock, ended);
  assert.deepEqual([exitCode, timedOut], [null, true]);
  assert.ok(clock.now() - start >= 2900);
  assert.equal(clock.sleepers, 0);
});

test('a program of our own that is not there is refused, and its channel that ends does not end it', async () => {
  const { guest, clock, agent } = fake(async () => ({
    ...{ exitCode: null, signal: 9, out: Buffer.from('é'), err: Buffer.alloc(0) },
  }));
  guest.lacks.add('date');
  await assert.rejects(
    hurry(clock, agent.start({ argv: ['date'], stdin: null, timeoutMs: 1000 }, never)),
    AgentRefused,
  );
  guest.dropAt = 'guest-exec-status';
  const { ended } = await hurry(
    clock,
    agent.start({ argv: ['killed'], stdin: null, timeoutMs: 9000 }, never),
  );
  await assert.rejects(hurry(clock, ended), AgentRefused);
  const again = await hurry(clock, agent.start({ argv: ['killed'], stdin: null, timeoutMs: 9000 }, never));
  const { exitCode, stdout, timedOut } = await hurry(clock, again.ended);
  assert.deepEqual([exitCode, stdout, timedOut], [137, 'é', false]);
});

test('a shutdown is asked once, its silence is no failure, a refusal is', async () => {
  const { guest, clock, agent } = fake();
  await hurry(clock, agent.shutdown('reboot', never));
  assert.deepEqual(guest.shutdowns, ['reboot']);
  guest.dropAt = 'guest-shutdown';
  await hurry(clock, agent.shutdown('powerdown', never));
  assert.deepEqual(guest.shutdowns, ['reboot', 'powerdown']);
  guest.refused.set('guest-shutdown', 'child process has failed to shutdown');
  await assert.rejects(hurry(clock, agent.shutdown('powerdown', never)), AgentRefused);
  assert.equal(clock.sleepers, 0);
});

test('one who sends without end or measure is cut off', async () => {
  const { guest, clock, agent } = fake();
  guest.lateAt = 'guest-info';
  const info = agent.info(never);
  info.catch(() => undefined);
  await settle();
  guest.blurt('x'.repeat(9 * 1024 * 1024));
  await assert.rejects(hurry(clock, info), /more than it may/);
});

test('a channel that cannot be opened is AgentGone with its cause; one that opens too late is closed', async () => {
  const clock = new FakeClock();
  const refused = openAgent({
    connect: () => Promise.reject(new Error('ECONNREFUSED')),
    clock,
    log: silent,
  });
  await assert.rejects(
    refused.ping(never),
    (error: unknown) => error instanceof AgentGone && String(error.cause).includes('ECONNREFUSED'),
  );
  const late = Promise.withResolvers<PassThrough>();
  const slow = openAgent({ connect: () => late.promise, clock, log: silent });
  const stop = new AbortController();
  const ping = slow.ping(stop.signal);
  await settle();
  stop.abort(new Error('enough'));
  await assert.rejects(ping, /enough/);
  const stream = new PassThrough();
  late.resolve(stream);
  await settle();
  assert.equal(stream.destroyed, true);
});

test('closing ends what is under way, and leaves no timer', async () => {
  const { clock, agent } = fake();
  const running = agent.exec(COMMAND, never);
  running.catch(() => undefined);
  await settle();
  agent.close();
  await assert.rejects(running, AgentGone);
  await settle();
  assert.equal(clock.sleepers, 0);
});

test('a file of the guest is read and written without a program, and no handle stays open', async () => {
  const { guest, agent } = fake();
  guest.inside.files.set('/run/a', 'what is there\n');
  assert.equal(await agent.read('/run/a', never), 'what is there\n');
  assert.equal(await agent.write('/run/a', 'something else', never), true);
  assert.equal(await agent.read('/run/a', never), 'something else');
  await agent.ping(never);
  assert.equal(guest.inside.openFiles, 0);
  assert.ok(!guest.asked.includes('guest-exec'));
});

test('a file that is not there, or that the agent may not open, is no error', async () => {
  const { guest, agent } = fake();
  assert.equal(await agent.read('/run/a', never), undefined);
  assert.equal(await agent.write('/run/a', 'x', never), false);
  guest.inside.files.set('/run/a', '');
  guest.refused.set('guest-file-open', 'The command guest-file-open has been disabled');
  assert.equal(await agent.read('/run/a', never), undefined);
  assert.equal(await agent.write('/run/a', 'x', never), false);
});

test('a pipe without room is not written to', async () => {
  const { guest, agent } = fake();
  guest.inside.files.set('/run/pipe', '');
  guest.refused.set('guest-file-write', 'failed to write to file: Resource temporarily unavailable');
  assert.equal(await agent.write('/run/pipe', 'x', never), false);
  await agent.ping(never);
  assert.equal(guest.inside.openFiles, 0);
});
