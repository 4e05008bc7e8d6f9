import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { copyFile, readFile, truncate, writeFile } from 'node:fs/promises';
import { VmmError, type MachineSpec, type SavedMachine } from '../driver.ts';
import type { Bench, Declare, Saved, Subject } from './bench.ts';

/** Loading what was saved. */
export function loadCases(declare: Declare): void {
  declare('a saved guest goes on where it was, also when it was a copy itself', async (bench) => {
    const { spec, saved } = await savedGuest(bench);
    const first = await bench.load(await bench.host.copyOf(spec), saved);
    assert.equal(await bench.recall(first, 'word'), 'kept');
    assert.equal(first.machine.machineType, saved.machineType);
    await bench.remember(first, 'other', 'new');
    const again = await bench.save(first);
    await bench.end(first);
    const second = await bench.load(await bench.host.copyOf(first.spec), again);
    assert.equal(await bench.recall(second, 'word'), 'kept');
    assert.equal(await bench.recall(second, 'other'), 'new');
  });

  declare('many guests run from one memory file, which stays as it is', async (bench) => {
    const { spec, saved } = await bench.host.saved();
    if (!bench.driver.capabilities.privateMapping)
      return refusedLoad(bench, await bench.host.copyOf(spec), saved, 'private');
    const before = await hashes(saved);
    const specs = [
      await bench.host.copyOf(spec),
      await bench.host.copyOf(spec),
      await bench.host.copyOf(spec),
    ];
    const forks = await Promise.all(specs.map((one) => bench.load(one, saved)));
    for (const [i, fork] of forks.entries()) {
      assert.equal(fork.machine.ramFile === null || fork.machine.ramFile !== saved.memoryPath, true);
      await bench.remember(fork, 'word', `own-${i}`);
    }
    for (const [i, fork] of forks.entries()) assert.equal(await bench.recall(fork, 'word'), `own-${i}`);
    // Taken up by the next daemon it is still a private map, and saved like any other.
    const [one, ...rest] = forks;
    assert(one);
    const adopted = await bench.adopt(one);
    assert.equal(adopted.machine.ramFile, one.machine.ramFile);
    const savedFork = await bench.save(adopted);
    assert.equal(savedFork.memoryPath === null || savedFork.memoryPath !== saved.memoryPath, true);
    for (const fork of [adopted, ...rest]) await bench.end(fork);
    assert.deepEqual(await hashes(saved), before);
    assert.equal(savedFork.version, saved.version);
    const again = await bench.load(await bench.host.copyOf(one.spec), savedFork);
    assert.equal(await bench.recall(again, 'word'), 'own-0');
  });

  declare('a guest that sleeps and wakes in place goes on in its own memory file', async (bench) => {
    if (!bench.driver.capabilities.ramFile) return refusesShared(bench);
    const { spec, saved } = await withMemoryFile(bench);
    const woken = await bench.load(spec, saved, { mapping: 'shared' });
    assert.equal(woken.machine.ramFile, saved.memoryPath);
    assert.equal(await bench.recall(woken, 'word'), 'kept');
    await bench.remember(woken, 'word', 'changed');
    const adopted = await bench.adopt(woken);
    assert.equal(adopted.machine.ramFile, saved.memoryPath);
    const again = await bench.save(adopted, 'again');
    assert.equal(again.memoryPath, saved.memoryPath);
    await bench.end(adopted);
    // Elsewhere, in the very same file.
    const moved = await bench.load(await bench.host.copyOf(spec), again, { mapping: 'shared' });
    assert.equal(moved.machine.ramFile, saved.memoryPath);
    assert.equal(await bench.recall(moved, 'word'), 'changed');
    assert.equal((await bench.adopt(moved)).machine.ramFile, saved.memoryPath);
  });

  declare(
    'a guest that was loaded in its memory file and never went on is loaded again, as it was',
    async (bench) => {
      if (!bench.driver.capabilities.ramFile) return refusesShared(bench);
      const { spec, saved } = await withMemoryFile(bench);
      for (let i = 0; i < 2; i++) {
        const still = await bench.load(spec, saved, { mapping: 'shared', resume: false });
        assert.equal(still.machine.ramFile, saved.memoryPath);
        assert.equal(await still.machine.status(), 'paused');
        await bench.end(still);
      }
      const woken = await bench.load(spec, saved);
      assert.equal(await bench.recall(woken, 'word'), 'kept');
    },
  );

  declare('a guest that is not to go on at once is paused when it is loaded', async (bench) => {
    const { spec, saved } = await bench.host.saved();
    const subject = await bench.load(await bench.host.copyOf(spec), saved, { resume: false });
    assert.equal(await subject.machine.status(), 'paused');
    await subject.machine.resume();
    assert.equal(await subject.machine.status(), 'running');
    await subject.agent.ping(bench.patience());
  });

  declare.withoutGuest(
    'a machine that was just launched is saved, and loaded again and again',
    async (bench) => {
      const subject = await bench.launch(await bench.host.fresh());
      const saved = await bench.save(subject);
      await bench.end(subject);
      for (let i = 0; i < 2; i++) {
        const copy = await bench.host.copyOf(subject.spec);
        const loaded = await bench.load(copy, saved, { resume: false });
        assert.equal(await loaded.machine.status(), 'paused');
        await bench.end(loaded);
      }
    },
  );

  declare('what cannot fit is refused before anything is started, and told apart', async (bench) => {
    const { spec, saved } = await bench.host.saved();
    const copy = await bench.host.copyOf(spec);
    const misfits: readonly [Partial<MachineSpec>, Partial<SavedMachine>][] = [
      [{ vcpuCount: spec.vcpuCount + 1 }, {}],
      [{ memMib: spec.memMib * 2 }, {}],
      [{}, { driver: bench.driver.name === 'firecracker' ? 'qemu' : 'firecracker' }],
      [{}, { accel: 'another' }],
      [{}, { machineType: saved.machineType.replace(/[\d.]+$/, '9$&') }],
    ];
    for (const [wanted, made] of misfits) {
      await assert.rejects(
        load(bench, { ...copy, ...wanted }, { ...saved, ...made }),
        (error) => error instanceof VmmError && error.kind === 'incompatible',
        JSON.stringify([wanted, made]),
      );
      assert.equal(await bench.isObserved(copy), false);
    }
    await bench.load(copy, saved);
  });

  declare('a state that is damaged or gone does not load, and leaves no process', async (bench) => {
    const { spec, saved } = await bench.host.saved();
    const copy = await bench.host.copyOf(spec);
    const damaged = `${copy.folder}/damaged`;
    await copyFile(saved.statePath, damaged);
    await truncate(damaged, Math.floor((await readFile(damaged)).length / 2));
    await refusedLoad(bench, copy, { ...saved, statePath: damaged });
    await writeFile(damaged, 'not a state at all');
    await refusedLoad(bench, copy, { ...saved, statePath: damaged });
    await refusedLoad(bench, copy, { ...saved, statePath: `${copy.folder}/no-such-state` });
    await refusedLoad(bench, copy, { ...saved, memoryPath: `${copy.folder}/no-such-memory` });
    await bench.load(copy, saved);
  });

  declare('a memory file that was cut does not load', async (bench) => {
    const { spec, saved } = await bench.host.saved();
    const copy = await bench.host.copyOf(spec);
    const memoryPath = `${copy.folder}/cut.memory`;
    await writeFile(memoryPath, '{');
    await refusedLoad(bench, copy, { ...saved, memoryPath });
    await truncate(memoryPath, 1024 * 1024);
    await refusedLoad(bench, copy, { ...saved, memoryPath });
    await bench.load(copy, saved);
  });

  declare('a load that is called off leaves no process, and the next one goes on', async (bench) => {
    const { spec, saved } = await bench.host.saved();
    const copy = await bench.host.copyOf(spec);
    const reason = new Error('called off');
    const during = new AbortController();
    const loading = bench.driver.load(copy, saved, { mapping: 'private', resume: true }, during.signal);
    during.abort(reason);
    await assert.rejects(loading, reason);
    assert.equal(await bench.isObserved(copy), false);
    await bench.load(copy, saved);
  });
}

/** A guest that kept a word and was saved and ended. */
async function savedGuest(bench: Bench): Promise<Saved> {
  const subject = await bench.guest();
  await bench.remember(subject, 'word', 'kept');
  return saveAndEnd(bench, subject);
}

async function saveAndEnd(bench: Bench, subject: Subject): Promise<Saved> {
  const saved = await bench.save(subject);
  await bench.end(subject);
  return { spec: subject.spec, saved };
}

/** The same, saved so that its memory lies in a file: a guest saved from a private map may have it in its state. */
async function withMemoryFile(bench: Bench): Promise<Saved> {
  const first = await savedGuest(bench);
  if (first.saved.memoryPath !== null) return first;
  const subject = await bench.load(await bench.host.copyOf(first.spec), first.saved);
  assert.notEqual(subject.machine.ramFile, null);
  const second = await saveAndEnd(bench, subject);
  assert.notEqual(second.saved.memoryPath, null);
  return second;
}

async function refusesShared(bench: Bench): Promise<void> {
  const { spec, saved } = await bench.host.saved();
  await refusedLoad(bench, await bench.host.copyOf(spec), saved, 'shared');
}

async function refusedLoad(
  bench: Bench,
  spec: MachineSpec,
  saved: SavedMachine,
  mapping: 'private' | 'shared' = 'private',
): Promise<void> {
  await assert.rejects(load(bench, spec, saved, mapping), (error) => {
    assert(error instanceof VmmError, String(error));
    assert(!error.message.includes(spec.folder), error.message);
    return true;
  });
  assert.equal(await bench.isObserved(spec), false);
}

function load(
  bench: Bench,
  spec: MachineSpec,
  saved: SavedMachine,
  mapping: 'private' | 'shared' = 'private',
): Promise<unknown> {
  return bench.driver.load(spec, saved, { mapping, resume: true }, bench.patience());
}

/** Of the files a saved machine consists of, by content. */
async function hashes({ statePath, memoryPath }: SavedMachine): Promise<readonly string[]> {
  return Promise.all([statePath, ...(memoryPath === null ? [] : [memoryPath])].map(hashOf));
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024 }))
    hash.update(chunk as Buffer);
  return hash.digest('hex');
}
