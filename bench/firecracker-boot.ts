import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { newId } from '../src/base/ids.ts';
import { silent } from '../src/base/logger.ts';
import { run } from '../src/host/run.ts';
import { bootSteps, FILES } from '../src/vmm/firecracker/boot.ts';
import { openFirecracker } from '../src/vmm/firecracker/driver.ts';
import { askVersion, featuresOf } from '../src/vmm/firecracker/versions.ts';
import type { MachineSpec } from '../src/vmm/driver.ts';
import { beside } from './lib/figures.ts';

/**
 * `node bench/firecracker-boot.ts`: from the start of a Firecracker to its InstanceStart answered, by our driver, beside a bare
 * client that starts the same program and makes the same calls over one connection. HATCH_FIRECRACKER_BIN names a real one;
 * else it is the double, which answers at once, so that the difference is what the driver adds.
 */
const bin =
  process.env['HATCH_FIRECRACKER_BIN'] ??
  join(import.meta.dirname, '../src/vmm/firecracker/testing/firecracker-double');
const RUNS = 20;

const folder = await mkdtemp(join(tmpdir(), 'bench-fc-'));
const driver = await openFirecracker({ run, log: silent, firecrackerBin: bin, folder });
const features = featuresOf(await askVersion({ run }, bin));
try {
  console.log(
    JSON.stringify(
      await beside('firecracker: launch', RUNS, byDriver, {
        what: 'the same program and calls by a bare client',
        run: byHand,
      }),
    ),
  );
} finally {
  await rm(folder, { recursive: true });
}

async function spec(): Promise<MachineSpec> {
  const vmId = newId('vm');
  const own = join(folder, vmId);
  await mkdir(own);
  await writeFile(join(own, 'vmlinux'), '\x7fELF');
  await writeFile(join(own, 'disk.raw'), Buffer.alloc(1024 * 1024));
  return {
    vmId,
    folder: own,
    vcpuCount: 1,
    memMib: 128,
    kernel: 'vmlinux',
    initrd: null,
    bootArgs: driver.defaultBootArgs,
    disks: [{ path: 'disk.raw', format: 'raw', readOnly: false }],
    network: null,
    machineType: null,
  };
}

async function byDriver(): Promise<number> {
  const machineSpec = await spec();
  const from = performance.now();
  const machine = await driver.launch(machineSpec, AbortSignal.timeout(30_000));
  const took = performance.now() - from;
  await machine.kill();
  await machine.exited;
  await machine.release();
  return took;
}

async function byHand(): Promise<number> {
  const machineSpec = await spec();
  const from = performance.now();
  const child = spawn(bin, ['--id', machineSpec.vmId, '--api-sock', FILES.api], {
    cwd: machineSpec.folder,
    stdio: 'ignore',
  });
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const socketPath = join(machineSpec.folder, FILES.api);
  while (!(await call(agent, socketPath, 'GET', '/'))) await new Promise((done) => setTimeout(done, 1));
  for (const { request: step } of bootSteps(machineSpec, features))
    if (!(await call(agent, socketPath, step.method, step.path, step.body)))
      throw new Error(`${step.path} was refused`);
  const took = performance.now() - from;
  agent.destroy();
  child.kill('SIGKILL');
  await once(child, 'exit');
  return took;
}

/** Whether a call was answered well; false when nobody listens. */
function call(
  agent: Agent,
  socketPath: string,
  method: string,
  path: string,
  body?: object,
): Promise<boolean> {
  return new Promise((resolve) => {
    const text = body === undefined ? '' : JSON.stringify(body);
    const headers = text === '' ? {} : { 'content-length': Buffer.byteLength(text) };
    const sent = request({ agent, socketPath, method, path, headers }, (answer) => {
      answer.resume().on('end', () => resolve((answer.statusCode ?? 500) < 300));
    });
    sent.on('error', () => resolve(false));
    sent.end(text);
  });
}
