import assert from 'node:assert/strict';
import { copyFile, stat } from 'node:fs/promises';
import { exists } from '../../host/files.ts';
import { VmmError, type SavedMachine } from '../driver.ts';
import type { Bench, Declare, Subject } from './bench.ts';

/** Saving a guest that goes on in the same process. */
export function saveRunningCases(declare: Declare): void {
  declare(
    'a guest is saved while it runs, also on a private map, and goes on in the same process',
    async (bench) => {
      const { capabilities } = bench.driver;
      if (!capabilities.savesRunning) return refusesRunning(bench);
      for (const mapped of [false, true]) {
        const subject = mapped ? await bench.guest() : await onItsOwn(bench);
        await bench.remember(subject, 'word', 'kept');
        const { spec, machine } = subject;
        const saveNow = (name: string): Promise<SavedMachine> =>
          machine.saveRunning(
            { statePath: `${spec.folder}/${name}.state`, memoryPath: `${spec.folder}/${name}.memory` },
            async () => {
              assert.equal(await machine.status(), 'paused');
              await machine.resume();
            },
          );
        await saveNow('live');
        assert.equal(await machine.status(), 'running');
        await bench.remember(subject, 'word', 'later');
        const saved = await saveNow('again');
        if (machine.ramFile !== null)
          assert.notEqual(saved.memoryPath, machine.ramFile, 'what goes on does not change it');
        await bench.remember(subject, 'word', 'last');
        // Its disk is not frozen here: nobody else may stand on it while it is written to.
        await bench.end(subject);
        const still = await bench.load(await bench.host.copyOf(spec), saved, { resume: false });
        assert.equal(await still.machine.status(), 'paused', 'though it ran when it was saved');
        await still.machine.resume();
        assert.equal(await bench.recall(still, 'word'), 'later');
        await bench.end(still);
      }
    },
  );

  declare('a running guest that cannot be written is no state, and goes on', async (bench) => {
    if (!bench.driver.capabilities.savesRunning) return refusesRunning(bench);
    const { spec, machine, agent } = await bench.guest();
    const statePath = `${spec.folder}/no-such-folder/state`;
    await assert.rejects(
      machine.saveRunning({ statePath, memoryPath: `${spec.folder}/some.memory` }, () =>
        assert.fail('it stood still'),
      ),
      VmmError,
    );
    assert.equal(await exists(statePath), false);
    await machine.resume();
    await agent.ping(bench.patience());
  });
}

async function refusesRunning(bench: Bench): Promise<void> {
  const { spec, machine, agent } = await bench.guest();
  const to = { statePath: `${spec.folder}/a.state`, memoryPath: `${spec.folder}/a.memory` };
  await assert.rejects(
    machine.saveRunning(to, () => assert.fail('it stood still')),
    VmmError,
  );
  await agent.ping(bench.patience());
}

/** A guest whose memory lies in a file of its own. */
export async function onItsOwn(bench: Bench): Promise<Subject> {
  const { spec, saved } = await bench.host.saved();
  const copy = await bench.host.copyOf(spec);
  assert(saved.memoryPath !== null);
  const memoryPath = `${copy.folder}/own.memory`;
  await copyFile(saved.memoryPath, memoryPath);
  assert.equal((await stat(memoryPath)).size, (await stat(saved.memoryPath)).size);
  const subject = await bench.load(copy, { ...saved, memoryPath }, { mapping: 'shared' });
  assert.equal(subject.machine.ramFile, memoryPath);
  return subject;
}
