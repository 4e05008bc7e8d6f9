import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { run } from '../host/run.ts';
import { newHostKeys } from './host-keys.ts';

const HEAD = '-----BEGIN OPENSSH PRIVATE KEY-----';
const FOOT = '-----END OPENSSH PRIVATE KEY-----';

test('ssh-keygen reads each private half, and finds the public one and the comment in it', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-keys-'));
  try {
    // The private number of one key in 256 begins with a zero, and that of every other with a high bit.
    for (let round = 0; round < 12; round++) {
      const keys = await newHostKeys('root@copy');
      assert.deepEqual(
        keys.map(({ kind }) => kind),
        ['ed25519', 'ecdsa'],
      );
      for (const { kind, privateBody, publicLine } of keys) {
        const path = join(folder, `${kind}-${round}`);
        await writeFile(path, `${HEAD}\n${privateBody}\n${FOOT}\n`, { mode: 0o600 });
        const { stdout } = await run(['ssh-keygen', '-y', '-f', path]);
        assert.equal(stdout.trim(), publicLine);
      }
    }
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('what one key signs its public half verifies', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-keys-'));
  try {
    for (const { kind, privateBody, publicLine } of await newHostKeys('root@copy')) {
      const path = join(folder, kind);
      await writeFile(path, `${HEAD}\n${privateBody}\n${FOOT}\n`, { mode: 0o600 });
      await writeFile(join(folder, 'signers'), `copy ${publicLine}\n`);
      const { stdout } = await run(['ssh-keygen', '-Y', 'sign', '-q', '-n', 'file', '-f', path], {
        input: 'x',
      });
      await writeFile(join(folder, 'sig'), stdout);
      const signers = ['-f', join(folder, 'signers'), '-s', join(folder, 'sig')];
      await run(['ssh-keygen', '-Y', 'verify', '-q', '-n', 'file', '-I', 'copy', ...signers], { input: 'x' });
    }
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('no two keys are the same', async () => {
  const keys = (await Promise.all(Array.from({ length: 4 }, () => newHostKeys('root@copy')))).flat();
  assert.equal(new Set(keys.map(({ publicLine }) => publicLine)).size, 8);
});
