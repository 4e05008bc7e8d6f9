import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, beforeEach, test } from 'node:test';
import { identify, isAlive } from '../host/process.ts';
import type { VmmProcess } from '../model/vm.ts';
import { VmmError } from './driver.ts';
import { endProcess, heldBytesOf, socketPath, usageOf, valueAfter } from './processes.ts';

let child: ChildProcess;
let process: VmmProcess;

/** A process that does nothing; its shell waits for a line that does not come. */
beforeEach(async () => {
  child = spawn('/bin/sh', ['-c', 'read line'], { stdio: ['pipe', 'ignore', 'ignore'] });
  await once(child, 'spawn');
  const found = await identify(child.pid ?? 0);
  assert(found);
  process = found;
});
afterEach(async () => {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
});

test('a VMM is ended for certain, even one that stands still, and only that very one', async () => {
  child.kill('SIGSTOP');
  await endProcess({ ...process, startTime: '1' }, 'the shell');
  assert.equal(await isAlive(process), true);
  await endProcess(process, 'the shell');
  assert.equal(await isAlive(process), false);
  await endProcess(process, 'the shell');
});

test('what a process uses is told in seconds and bytes, as long as it is there', async () => {
  const usage = await usageOf(process);
  assert.ok(usage.cpuSeconds >= 0 && usage.cpuSeconds < 60, `${usage.cpuSeconds} s`);
  assert.ok(usage.uptimeSeconds >= 0 && usage.uptimeSeconds < 600, `${usage.uptimeSeconds} s`);
  assert.ok(usage.rssBytes > 64 * 1024 && usage.rssBytes < 1024 ** 3, `${usage.rssBytes} bytes`);
  const us = await identify(globalThis.process.pid);
  assert.ok(us);
  assert.ok((await usageOf(us)).uptimeSeconds >= usage.uptimeSeconds);
  await assert.rejects(usageOf({ ...process, startTime: '1' }), VmmError);
  child.kill('SIGKILL');
  await once(child, 'exit');
  await assert.rejects(usageOf(process), VmmError);
});

test('a process holds its part of what it shares, so no more than is resident, and nothing once it has ended', async () => {
  const { rssBytes } = await usageOf(process);
  const held = await heldBytesOf(process);
  // A shell's libraries are mapped by others too.
  assert.ok(held > 4096 && held < rssBytes, `${held} of ${rssBytes} bytes`);
  assert.equal(held % 1024, 0);
  await assert.rejects(heldBytesOf({ ...process, startTime: '1' }), VmmError);
  child.kill('SIGKILL');
  await once(child, 'exit');
  await assert.rejects(heldBytesOf(process), VmmError);
});

test('the value of a flag is what follows it', () => {
  assert.equal(valueAfter(['a', '-m', '512', '-m', '1'], '-m'), '512');
  assert.equal(valueAfter(['a', '-m'], '-m'), '');
  assert.equal(valueAfter(['a'], '-m'), '');
});

test("a socket's path is short however deep its folder lies", () => {
  assert.equal(socketPath({ pid: 4_194_304 }, 'agent.vsock'), '/proc/4194304/cwd/agent.vsock');
});
