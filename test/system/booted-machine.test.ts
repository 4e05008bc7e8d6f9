import assert from 'node:assert/strict';
import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { AGENT_SEED } from '../support/agent-cases.ts';
import { bootAndSave, keepForOthers } from '../support/booted-guest.ts';
import { qemuFolder } from '../support/qemu-folder.ts';

/** The machine that the suites of driver and agent have copies of: booted and saved by the driver alone. They find it in $HATCH_TEST_BOOTED. */
test('a guest boots, comes to rest, and is saved', async (t) => {
  const { folder, open, remove } = await qemuFolder();
  try {
    const booted = await bootAndSave(await open(), folder, AGENT_SEED);
    try {
      assert.equal(booted.answered.by, 'agent');
      t.diagnostic(`agent answered after ${booted.answered.seconds.toFixed(1)} s`);
      assert.ok((await stat(booted.saved.memoryPath ?? '')).size >= booted.spec.memMib * 1024 ** 2);
      const shared = process.env['HATCH_TEST_BOOTED'] ?? join(folder, 'shared');
      await mkdir(shared, { recursive: true });
      await keepForOthers(booted, shared);
    } finally {
      await booted.remove();
    }
  } finally {
    await remove();
  }
});
