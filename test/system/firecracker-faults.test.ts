import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { newId } from '../../src/base/ids.ts';
import { silent } from '../../src/base/logger.ts';
import { run } from '../../src/host/run.ts';
import { VmmError, type Driver, type MachineSpec } from '../../src/vmm/driver.ts';
import { bootSteps } from '../../src/vmm/firecracker/boot.ts';
import { openFirecracker } from '../../src/vmm/firecracker/driver.ts';
import { FIRECRACKER_DOUBLE, wrapDouble } from '../../src/vmm/firecracker/testing/wrapper.ts';
import { featuresOf } from '../../src/vmm/firecracker/versions.ts';

/** A Firecracker (its double) that does wrong at each call of a boot: told in a sentence, nothing left, and the next boot works. */
let root: string;
let folder: string;
before(async () => {
  root = await mkdtemp(join(tmpdir(), 'fcf-'));
  folder = join(root, 'vms');
  await mkdir(folder);
});
after(() => rm(root, { recursive: true }));

/** Short, so that a call that hangs is soon given up; the double answers in a few milliseconds. */
const ANSWER_MS = 1500;
const open = (firecrackerBin: string): Promise<Driver> =>
  openFirecracker({ run, log: silent, firecrackerBin, folder, answerMs: ANSWER_MS });

async function place(kernel: Buffer | string = '\x7fELF'): Promise<MachineSpec> {
  const vmId = newId('vm');
  const own = join(folder, vmId);
  await mkdir(own);
  await writeFile(join(own, 'vmlinux'), kernel);
  for (const name of ['initrd', 'disk.raw', 'seed.iso'])
    await writeFile(join(own, name), Buffer.alloc(64 * 1024));
  return {
    vmId,
    folder: own,
    vcpuCount: 1,
    memMib: 128,
    kernel: 'vmlinux',
    initrd: 'initrd',
    bootArgs: 'console=ttyS0',
    disks: [
      { path: 'disk.raw', format: 'raw', readOnly: false },
      { path: 'seed.iso', format: 'raw', readOnly: true },
    ],
    network: null,
    machineType: null,
  };
}

async function refused(driver: Driver, spec: MachineSpec): Promise<VmmError> {
  const error: unknown = await driver.launch(spec, AbortSignal.timeout(30_000)).then(
    () => assert.fail('it was launched'),
    (failed: unknown) => failed,
  );
  assert.ok(error instanceof VmmError, String(error));
  assert.ok(!error.message.includes(folder), error.message);
  const observed = (await driver.observe()).filter(({ vmId }) => vmId === spec.vmId);
  assert.deepEqual(observed, []);
  const left = (await readdir(spec.folder)).filter((name) => /sock|vsock|fc\.state|fc\.mem/.test(name));
  assert.deepEqual(left, []);
  return error;
}

async function works(driver: Driver, spec: MachineSpec): Promise<void> {
  const machine = await driver.launch(spec, AbortSignal.timeout(30_000));
  assert.equal(await machine.status(), 'running');
  await machine.kill();
  await machine.exited;
}

const WRONGS: readonly { readonly what: string; readonly kind: VmmError['kind']; readonly says: RegExp }[] = [
  { what: 'kill', kind: 'failed', says: /did not answer|ended/ },
  { what: 'exit 1', kind: 'failed', says: /did not answer|ended/ },
  { what: 'after kill', kind: 'failed', says: /did not answer|ended/ },
  { what: 'hang', kind: 'timeout', says: /longer than/ },
  { what: 'reset', kind: 'failed', says: /did not answer/ },
  { what: 'truncated', kind: 'failed', says: /did not answer|Firecracker/ },
  { what: 'rubbish', kind: 'failed', says: /did not answer/ },
  { what: 'refuse It does not suit me.', kind: 'failed', says: /It does not suit me\./ },
  { what: 'busy', kind: 'failed', says: /Too many open connections/ },
];

describe('at each call of a boot', { concurrency: 2 }, () => {
  for (const { what, kind, says } of WRONGS) {
    test(`a Firecracker that does "${what}" is told of, leaves nothing, and the next boot works`, async () => {
      const good = await open(FIRECRACKER_DOUBLE);
      const spec = await place();
      for (const { name, request } of bootSteps(spec, featuresOf({ minor: 16 }))) {
        const bin = await wrapDouble(join(root, `${spec.vmId}-double`), {
          FC_DOUBLE_FAULTS: `${request.method} ${request.path} ${what}`,
        });
        // A call with an answer that has no body cannot have it cut.
        const error = await refusedOrDone(await open(bin), spec, what);
        if (error === undefined) continue;
        assert.equal(error.kind, kind, `${name}: ${error.message}`);
        assert.match(error.message, says, name);
      }
      await works(good, spec);
      await rm(spec.folder, { recursive: true });
    });
  }
});

async function refusedOrDone(driver: Driver, spec: MachineSpec, what: string): Promise<VmmError | undefined> {
  if (what !== 'truncated') return refused(driver, spec);
  const machine = await driver.launch(spec, AbortSignal.timeout(30_000)).catch((error: unknown) => {
    assert.ok(error instanceof VmmError, String(error));
    return error;
  });
  if (machine instanceof VmmError) return machine;
  await machine.kill();
  await machine.exited;
  return undefined;
}

test('a compressed kernel is refused before anything is started', async () => {
  const error = await refused(await open(FIRECRACKER_DOUBLE), await place(Buffer.from([0x1f, 0x8b, 8, 0])));
  assert.equal(error.kind, 'unbootable');
  assert.match(error.message, /compressed.*vmlinux/);
});

test('one that ends before it listens, or never listens, is told of', async () => {
  for (const [start, says] of [
    ['exit 1', /ended/],
    ['kill', /ended|killed/],
  ] as const) {
    const bin = await wrapDouble(join(root, 'starts-badly'), { FC_DOUBLE_START: start });
    // It says its version all the same.
    assert.match((await refused(await open(bin), await place())).message, says);
  }
});

test('a tap that somebody else has is told of, and the next boot with a free one works', async () => {
  const tap = 'busytap0';
  await run(['ip', 'tuntap', 'add', 'dev', tap, 'mode', 'tap']);
  try {
    const driver = await open(FIRECRACKER_DOUBLE);
    const network = { tap, mac: '02:fc:00:00:00:09' };
    const holder = await driver.launch({ ...(await place()), network }, AbortSignal.timeout(30_000));
    const spec = { ...(await place()), network };
    const error = await driver.launch(spec, AbortSignal.timeout(30_000)).then(
      () => assert.fail('it was launched'),
      (failed: unknown) => failed,
    );
    assert.ok(error instanceof VmmError);
    assert.match(error.message, /busy/i);
    await holder.kill();
    await holder.exited;
    await works(driver, spec);
  } finally {
    await run(['ip', 'link', 'del', 'dev', tap]);
  }
});
