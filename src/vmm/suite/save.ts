import assert from 'node:assert/strict';
import { exists } from '../../host/files.ts';
import { VmmError } from '../driver.ts';
import type { Declare } from './bench.ts';

/** Saving a machine. */
export function saveCases(declare: Declare): void {
  declare('a guest that runs is not saved, and runs on', async (bench) => {
    const { spec, machine, agent } = await bench.guest();
    const statePath = `${spec.folder}/never.state`;
    await assert.rejects(machine.save({ statePath, memoryPath: `${spec.folder}/never.memory` }), VmmError);
    assert.equal(await exists(statePath), false);
    assert.equal(await machine.status(), 'running');
    await agent.ping(bench.patience());
  });

  declare('a saved guest says all that is needed to load it, and goes on', async (bench) => {
    const subject = await bench.guest();
    const { spec, machine } = subject;
    const saved = await bench.save(subject);
    assert.equal(await machine.status(), 'paused');
    assert.equal(saved.driver, bench.driver.name);
    assert.equal(saved.version, bench.driver.version);
    assert.equal(saved.accel, bench.driver.accel);
    assert.equal(saved.machineType, machine.machineType);
    assert.deepEqual([saved.vcpuCount, saved.memMib], [spec.vcpuCount, spec.memMib]);
    assert.equal(saved.statePath, `${spec.folder}/saved.state`);
    assert.equal(await exists(saved.statePath), true);
    // In the machine's own file, or where it was asked to be, or in the state.
    assert([machine.ramFile, `${spec.folder}/saved.memory`, null].includes(saved.memoryPath));
    assert.equal(saved.memoryPath === null || (await exists(saved.memoryPath)), true);
    await machine.resume();
    assert.equal(await machine.status(), 'running');
    if (!bench.driver.capabilities.resumeKeepsAgent) return;
    const agent = bench.host.agent(machine);
    await agent.ping(bench.patience());
    agent.close();
    // And again, now that it has gone on.
    await bench.save(subject, 'again');
  });

  declare('a state that cannot be written is no state, and the guest goes on', async (bench) => {
    const { spec, machine, agent } = await bench.guest();
    await machine.pause();
    const nowhere = `${spec.folder}/no-such-folder/state`;
    await assert.rejects(
      machine.save({ statePath: nowhere, memoryPath: `${spec.folder}/some.memory` }),
      VmmError,
    );
    assert.equal(await exists(nowhere), false);
    await machine.resume();
    assert.equal(await machine.status(), 'running');
    if (bench.driver.capabilities.resumeKeepsAgent) await agent.ping(bench.patience());
  });
}
