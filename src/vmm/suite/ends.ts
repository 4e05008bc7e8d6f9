import assert from 'node:assert/strict';
import { VmmError } from '../driver.ts';
import type { Bench, Declare, Subject } from './bench.ts';

/** How a machine ends, and what is known of it then. */
export function endCases(declare: Declare): void {
  declare('a guest whose power button is pressed powers off, where it has one', async (bench) => {
    const subject = await bench.guest();
    if (!bench.driver.capabilities.powerButton)
      return assert.rejects(subject.machine.powerButton(), VmmError);
    await subject.machine.powerButton();
    assert.deepEqual(await bench.exit(subject.machine), { kind: 'poweroff' });
    await isOver(bench, subject);
  });

  declare('a guest that powers itself off has powered off', async (bench) => {
    const subject = await bench.guest();
    await subject.agent.shutdown('powerdown', bench.patience());
    assert.deepEqual(await bench.exit(subject.machine), { kind: 'poweroff' });
    await isOver(bench, subject);
  });

  declare('a guest that reboots itself ends its VMM, and has rebooted', async (bench) => {
    const subject = await bench.guest();
    await subject.agent.shutdown('reboot', bench.patience());
    assert.deepEqual(await bench.exit(subject.machine), { kind: 'reboot' });
    await isOver(bench, subject);
  });

  declare('a guest whose kernel panics has panicked, and said why', async (bench) => {
    const subject = await bench.guest();
    await panic(bench, subject);
    const exit = await bench.exit(subject.machine);
    assert.equal(exit.kind, 'panic');
    assert.match(exit.console, /Kernel panic - not syncing: sysrq triggered crash/);
    await isOver(bench, subject);
  });

  declare.withoutGuest('a guest that is killed was killed; killing it again does nothing', async (bench) => {
    const subject = await bench.guest();
    await subject.machine.kill();
    assert.equal(await bench.isObserved(subject.spec), false);
    assert.deepEqual(await bench.exit(subject.machine), { kind: 'killed' });
    await isOver(bench, subject);
  });

  declare.withoutGuest('a paused guest can be killed', async (bench) => {
    const { machine } = await bench.guest();
    await machine.pause();
    await machine.kill();
    assert.deepEqual(await bench.exit(machine), { kind: 'killed' });
  });

  declare.withoutGuest('a VMM that is killed by somebody else has crashed', async (bench) => {
    const subject = await bench.guest();
    await bench.host.killVmm(subject.machine.process);
    const exit = await bench.exit(subject.machine);
    assert.equal(exit.kind, 'crashed');
    await isOver(bench, subject);
  });
}

/** Has the guest's kernel panic; the guest never says how that command ended. */
export async function panic(bench: Bench, subject: Subject): Promise<void> {
  const gone = bench.exec(subject, 'echo c > /proc/sysrq-trigger').catch(() => undefined);
  await bench.exit(subject.machine);
  subject.agent.close();
  await gone;
}

/** After its end a machine answers nothing, in VmmErrors, and can be killed and released as often as one likes. */
async function isOver(bench: Bench, { spec, machine }: Subject): Promise<void> {
  assert.equal(await bench.isObserved(spec), false);
  await assert.rejects(machine.status(), VmmError);
  await assert.rejects(machine.pause(), VmmError);
  await assert.rejects(machine.resume(), VmmError);
  await assert.rejects(machine.counters(), VmmError);
  await assert.rejects(machine.heldBytes(), VmmError);
  await assert.rejects(machine.agent(bench.patience()), VmmError);
  await machine.kill();
  await machine.release();
  await machine.release();
  assert.equal(await bench.driver.adopt(spec, machine.process, bench.patience()), undefined);
}
