import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { bootId } from '../host/process.ts';
import { kvmVerdict } from './kvm-verdict.ts';

async function inFolder(body: (file: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-verdict-'));
  try {
    await body(join(folder, 'kvm.json'));
  } finally {
    await rm(folder, { recursive: true });
  }
}
const never = (): Promise<never> => assert.fail('KVM was tried again');

test('a verdict of this boot is kept and not found again', () =>
  inFolder(async (file) => {
    await writeFile(file, JSON.stringify({ usable: true, reason: 'runs code', bootId: await bootId() }));
    assert.deepEqual(await kvmVerdict(file, never), { usable: true, reason: 'runs code' });
  }));

test('a verdict of another boot, or one that cannot be read, counts for nothing', () =>
  inFolder(async (file) => {
    for (const text of [JSON.stringify({ usable: true, reason: 'runs code', bootId: 'another' }), '{"us']) {
      await writeFile(file, text);
      const { usable } = await kvmVerdict(file, async () => 'opens but runs nothing');
      assert.equal(usable, false);
    }
  }));

test('without a device KVM is not usable; with one, what was seen to run is kept and a refusal is not', () =>
  inFolder(async (file) => {
    if (!existsSync('/dev/kvm')) {
      assert.deepEqual(await kvmVerdict(file, never), { usable: false, reason: 'no /dev/kvm' });
      return;
    }
    const refused = await kvmVerdict(file, async () => 'refused');
    assert.equal(refused.usable, false);
    assert.equal(existsSync(file), false);
    if (refused.reason !== 'refused') return assert.equal(refused.reason, 'no right to /dev/kvm');
    assert.equal((await kvmVerdict(file, async () => 'runs code')).usable, true);
    assert.match(await readFile(file, 'utf8'), /"runs code"/);
    assert.equal((await kvmVerdict(file, never)).usable, true);
  }));
