import assert from 'node:assert/strict';
import { raceAbort } from '../../base/deadline.ts';
import { newId } from '../../base/ids.ts';
import type { Declare } from './bench.ts';
import { panic } from './ends.ts';

/** What becomes of a guest whose daemon ends, and how the next daemon finds it. */
export function adoptionCases(declare: Declare): void {
  declare('a guest that was let go of runs on, and is as it was when it is taken up', async (bench) => {
    const before = await bench.guest();
    await bench.remember(before, 'word', 'kept');
    const after = await bench.adopt(before);
    assert.deepEqual(after.machine.process, before.machine.process);
    assert.equal(after.machine.vmId, before.spec.vmId);
    assert.equal(after.machine.machineType, before.machine.machineType);
    assert.equal(after.machine.ramFile, before.machine.ramFile);
    assert.equal(await after.machine.status(), 'running');
    assert.equal(await bench.recall(after, 'word'), 'kept');
    await after.machine.kill();
    assert.deepEqual(await bench.exit(after.machine), { kind: 'killed' });
    // The one that was released has nothing more to say.
    const silence = AbortSignal.timeout(bench.host.patience.silenceMs);
    await assert.rejects(raceAbort(before.machine.exited, silence), { name: 'TimeoutError' });
  });

  declare.withoutGuest('a guest that was just launched can be taken up', async (bench) => {
    const before = await bench.launch(await bench.host.fresh());
    const after = await bench.adopt(before);
    assert.equal(await after.machine.status(), 'running');
    assert.equal(after.machine.ramFile, before.machine.ramFile);
  });

  declare.withoutGuest('a paused guest is still paused when it is taken up', async (bench) => {
    const before = await bench.guest();
    await before.machine.pause();
    const after = await bench.adopt(before);
    assert.equal(await after.machine.status(), 'paused');
    await after.machine.resume();
    assert.equal(await after.machine.status(), 'running');
  });

  declare('the end of an adopted guest is told as of any other', async (bench) => {
    const [one, two, three] = [
      await bench.adopt(await bench.guest()),
      await bench.adopt(await bench.guest()),
      await bench.adopt(await bench.guest()),
    ];
    await bench.host.killVmm(one.machine.process);
    assert.equal((await bench.exit(one.machine)).kind, 'crashed');
    await panic(bench, two);
    assert.equal((await bench.exit(two.machine)).kind, 'panic');
    await three.agent.shutdown('powerdown', bench.patience());
    assert.deepEqual(await bench.exit(three.machine), { kind: 'poweroff' });
  });

  declare('a process that is not exactly this one is not taken up, nor harmed', async (bench) => {
    const subject = await bench.guest();
    const other = await bench.guest();
    const { process } = subject.machine;
    subject.agent.close();
    await subject.machine.release();
    const { driver } = bench;
    const adopt = (spec: typeof subject.spec, who: typeof process): Promise<unknown> =>
      driver.adopt(spec, who, bench.patience());
    assert.equal(await adopt(subject.spec, { ...process, startTime: `${process.startTime}1` }), undefined);
    assert.equal(await adopt(subject.spec, { ...process, bootId: 'another boot' }), undefined);
    assert.equal(
      await adopt(subject.spec, { ...process, pid: other.machine.process.pid }),
      undefined,
      'a pid of another',
    );
    assert.equal(await adopt(subject.spec, other.machine.process), undefined, "another VM's process");
    assert.equal(
      await adopt({ ...subject.spec, vmId: newId('vm') }, process),
      undefined,
      'a VM of another name',
    );
    assert.equal(await bench.isObserved(subject.spec), true);
    assert.equal(await bench.isObserved(other.spec), true);
    assert.equal(await other.machine.status(), 'running');
    const found = await bench.adopt(subject);
    await found.agent.ping(bench.patience());
  });

  declare.withoutGuest('a VMM that no row names is observed and reaped', async (bench) => {
    const [lost, kept] = [await bench.guest(), await bench.guest()];
    lost.agent.close();
    await lost.machine.release();
    const next = await bench.host.reopen();
    const ids = async (): Promise<readonly string[]> => (await next.observe()).map(({ vmId }) => vmId).sort();
    assert.deepEqual(await ids(), [lost.spec.vmId, kept.spec.vmId].sort());
    const found = (await next.observe()).find(({ vmId }) => vmId === lost.spec.vmId);
    assert.deepEqual(found?.process, lost.machine.process);
    await next.reap(lost.machine.process);
    assert.deepEqual(await ids(), [kept.spec.vmId]);
    await next.reap(lost.machine.process);
    // A pid that is used again is nobody's.
    await next.reap({ ...kept.machine.process, startTime: '1' });
    assert.equal(await kept.machine.status(), 'running');
  });
}
