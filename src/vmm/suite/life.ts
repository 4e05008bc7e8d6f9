import assert from 'node:assert/strict';
import { readFile, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { until } from '../../base/until.ts';
import { CONSOLE_FILE, VmmError } from '../driver.ts';
import type { Bench, Declare } from './bench.ts';

/** What a guest that is up does, and what can be seen of it. */
export function lifeCases(declare: Declare): void {
  declare('a paused guest stands still until it is resumed, however often either is said', async (bench) => {
    const subject = await bench.guest();
    const { machine, agent } = subject;
    await machine.resume();
    assert.equal(await machine.status(), 'running');
    await bench.remember(subject, 'word', 'kept');
    await machine.pause();
    await machine.pause();
    assert.equal(await machine.status(), 'paused');
    await assert.rejects(agent.ping(AbortSignal.timeout(bench.host.patience.silenceMs)));
    await machine.resume();
    await machine.resume();
    assert.equal(await machine.status(), 'running');
    if (bench.driver.capabilities.resumeKeepsAgent) assert.equal(await bench.recall(subject, 'word'), 'kept');
  });

  declare('its agent is reached again and again, by one after another', async (bench) => {
    const { machine, agent } = await bench.guest();
    await agent.ping(bench.patience());
    agent.close();
    for (let i = 0; i < 3; i++) {
      const next = bench.host.agent(machine);
      await next.ping(bench.patience());
      next.close();
    }
    await assert.rejects(machine.agent(AbortSignal.abort(new Error('given up'))), /given up/);
  });

  declare('what it writes to its console is in the file, which may be cut meanwhile', async (bench) => {
    const subject = await bench.guest();
    const path = join(subject.spec.folder, CONSOLE_FILE);
    await bench.exec(subject, 'echo before > /dev/ttyS0');
    await until(waiting(bench), async () => ((await text(path)).includes('before') ? true : undefined));
    await truncate(path, 0);
    await bench.exec(subject, 'echo afterwards > /dev/ttyS0');
    await until(waiting(bench), async () => ((await text(path)).includes('afterwards') ? true : undefined));
    // Appended at the new end: at the old place there would be zeros before it.
    assert.doesNotMatch(await text(path), /before|\0/);
  });

  declare('its counters are plausible and never go back', async (bench) => {
    const subject = await bench.guest();
    const first = await subject.machine.counters();
    for (const [name, value] of Object.entries(first)) assert(value >= 0 && Number.isFinite(value), name);
    assert(first.rssBytes > 1024 * 1024, `${first.rssBytes} bytes resident`);
    assert(first.rssBytes < 16 * 1024 ** 3, `${first.rssBytes} bytes resident`);
    const held = await subject.machine.heldBytes();
    assert(held > 1024 * 1024 && held < 16 * 1024 ** 3, `${held} bytes held`);
    assert(first.cpuSeconds < 600, `${first.cpuSeconds} s`);
    assert(first.uptimeSeconds < 3600, `${first.uptimeSeconds} s`);
    await bench.remember(subject, 'word', 'work');
    const second = await subject.machine.counters();
    for (const name of ['uptimeSeconds', 'cpuSeconds', 'blockReadBytes', 'blockWriteBytes'] as const)
      assert(second[name] >= first[name], `${name}: ${second[name]} after ${first[name]}`);
  });

  declare.withoutGuest('written pages are told, or refused, as the capabilities say', async (bench) => {
    const subject = await bench.guest();
    await subject.machine.pause();
    if (!bench.driver.capabilities.dirtyPages) return assert.rejects(subject.machine.dirtyPages(), VmmError);
    const bytes = subject.spec.memMib * 1024 * 1024;
    for (const { offset, length } of await subject.machine.dirtyPages())
      assert(offset >= 0 && length > 0 && offset + length <= bytes);
  });
}

function waiting(bench: Bench): Parameters<typeof until>[0] {
  return { clock: systemClock, signal: bench.patience() };
}

function text(path: string): Promise<string> {
  return readFile(path, 'utf8');
}
