import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { identify, signalProcess, spawnDetached } from '../../src/host/process.ts';
import { run } from '../../src/host/run.ts';
import { leaks, lookAtHost } from '../support/leaks.ts';

test('a process, a link, a namespace and a mount that stay are named; what goes again is not', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'leak-'));
  const before = await lookAtHost(folder);
  const name = `hleak${process.pid}`;
  await run(['ip', 'netns', 'add', name]);
  const sleeper = await spawnDetached(['sleep', '60'], { cwd: folder, log: join(folder, 'log') });
  try {
    const found = leaks(before, await lookAtHost(folder));
    assert.ok(
      found.some((line) => line === `network namespace ${name}`),
      found.join('\n'),
    );
    assert.ok(
      found.some((line) => line === `mount /run/netns/${name}`),
      found.join('\n'),
    );
    assert.ok(
      found.some((line) => line.startsWith(`process ${sleeper.identity.pid} `) && line.includes('sleep 60')),
      found.join('\n'),
    );
  } finally {
    await signalProcess(sleeper.identity, 'SIGKILL');
    await sleeper.exited;
    await run(['ip', 'netns', 'del', name]);
  }
  assert.equal(await identify(sleeper.identity.pid), undefined);
  const after = leaks(before, await lookAtHost(folder));
  assert.deepEqual(
    after.filter((line) => line.includes(name) || line.includes('sleep 60')),
    [],
  );
  await rm(folder, { recursive: true });
});
