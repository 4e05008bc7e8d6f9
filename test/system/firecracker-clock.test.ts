import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import { crc64 } from '../../src/vmm/firecracker/testing/state-file.ts';
import { Bench } from '../../src/vmm/suite/bench.ts';
import { firecrackerHost } from '../support/firecracker-host.ts';

/** What a guest's clock says after it was saved for a long time, on the doubles of several releases. */

const AWAY_S = 1_000_000;

/** Changes when the state says it was saved, by the host's clock; null: as a host does that keeps no time. */
async function rewrite(path: string, change: (realtimeMs: number | null) => number | null): Promise<void> {
  const state = JSON.parse((await readFile(path)).subarray(0, -8).toString()) as {
    realtimeMs: number | null;
  };
  const text = Buffer.from(JSON.stringify({ ...state, realtimeMs: change(state.realtimeMs) }));
  const trailer = Buffer.alloc(8);
  trailer.writeBigUInt64LE(crc64(text));
  await writeFile(path, Buffer.concat([text, trailer]));
}

/** By how many seconds a guest's clock is ahead of where it stood when it was saved. */
async function aheadAfterLoad(
  version: string,
  more: string,
  change: (realtimeMs: number | null) => number | null,
): Promise<number> {
  const host = await firecrackerHost({}, version);
  const bench = new Bench(host);
  try {
    const fresh = await host.fresh();
    const spec = { ...fresh, bootArgs: `${fresh.bootArgs}${more}` };
    const subject = await bench.launch(spec);
    const clock = 'cat /sys/class/rtc/rtc0/since_epoch';
    const before = Number(await bench.exec(subject, clock));
    const saved = await bench.save(subject);
    await bench.end(subject);
    await rewrite(saved.statePath, change);
    const copy = { ...(await host.copyOf(spec)), bootArgs: spec.bootArgs };
    const after = Number(await bench.exec(await bench.load(copy, saved), clock));
    return after - before;
  } finally {
    await bench.tidy();
    await host.dispose();
  }
}

const longAgo = (realtimeMs: number | null): number | null =>
  realtimeMs === null ? null : realtimeMs - AWAY_S * 1000;

test('on 1.16 a guest that reads kvm-clock wakes with the right time', async () => {
  const ahead = await aheadAfterLoad('v1.16.1', ' clocksource=kvm-clock', longAgo);
  assert.ok(ahead >= AWAY_S && ahead < AWAY_S + 60, `${ahead} s`);
});

test('one that reads another clock goes on where it stood: that clock cannot be moved', async () => {
  const ahead = await aheadAfterLoad('v1.16.1', '', longAgo);
  assert.ok(ahead >= 0 && ahead < 60, `${ahead} s`);
});

test('a state without the time, of a host too old to keep it, is loaded all the same', async () => {
  const ahead = await aheadAfterLoad('v1.16.1', ' clocksource=kvm-clock', () => null);
  assert.ok(ahead >= 0 && ahead < 60, `${ahead} s`);
});

for (const version of ['v1.13.1', 'v1.15.0'])
  test(`as ${version} knows no clock_realtime, it is not asked for`, async () => {
    const ahead = await aheadAfterLoad(version, ' clocksource=kvm-clock', longAgo);
    assert.ok(ahead >= 0 && ahead < 60, `${ahead} s`);
  });
