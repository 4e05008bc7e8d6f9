import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { openToStrangers, rightsOf, whereSeen } from './confined.ts';

test('what strangers may open is found by the rights of it and of all above, and secrets in it and in processes', async () => {
  const data = await mkdtemp(join(tmpdir(), 'confined-'));
  const secret = `canary-${process.pid}`;
  const child = spawn('cat', { stdio: ['pipe', 'pipe', 'inherit'], env: { KEY: `${secret}-given` } });
  try {
    await chmod(data, 0o755);
    for (const [path, mode] of [
      ['closed', 0o700],
      ['through', 0o711],
    ] as const)
      await mkdir(join(data, path), { mode });
    for (const [path, mode] of [
      ['hatchd.pid', 0o600],
      ['ours', 0o600],
      ['read', 0o644],
      ['written', 0o602],
      ['closed/read', 0o644],
      ['through/read', 0o604],
    ] as const) {
      const text = path === 'hatchd.pid' ? JSON.stringify({ pid: 1 }) : `${secret}-kept`;
      await writeFile(join(data, path), text);
      await chmod(join(data, path), mode);
    }
    assert.deepEqual(await openToStrangers(data), ['read', 'through/read', 'written']);
    child.stdin.write('x');
    await once(child.stdout, 'data');
    const log = async (): Promise<string> => `{"msg":"${secret}-logged"}\nshown once: ${secret}-shown\n`;
    assert.deepEqual(
      await whereSeen(
        ['given', 'kept', 'logged', 'shown'].map((how) => `${secret}-${how}`),
        { data, log },
      ),
      [
        "secret 2 in hatchd's log",
        `secret 0 in /proc/${child.pid ?? ''}/environ`,
        ...['read', 'through/read', 'written'].map((name) => `secret 1 in ${name}`),
      ],
    );
  } finally {
    child.kill();
    await once(child, 'close');
    await rm(data, { recursive: true });
  }
});

test('the rights of a process are read of it', async () => {
  const { uids, seccomp } = await rightsOf(process.pid);
  assert.deepEqual(new Set(uids), new Set([process.getuid?.()]));
  assert.ok(seccomp >= 0);
});
