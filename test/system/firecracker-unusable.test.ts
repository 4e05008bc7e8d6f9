import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { run, type RunResult } from '../../src/host/run.ts';
import { FIRECRACKER_DOUBLE, JAILER_DOUBLE, wrapDouble } from '../../src/vmm/firecracker/testing/wrapper.ts';
import { startHatchd, type Hatchd } from '../support/hatchd.ts';

/**
 * A Firecracker that cannot be used on this host: one that is asked for ends hatchd with a sentence that says what to do; with
 * HATCH_VMM=auto it is QEMU's turn, and log and `hatchd doctor` say why.
 */
const HATCHD = join(import.meta.dirname, '../../bin/hatchd');
let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fcu-'));
});
after(() => rm(folder, { recursive: true, force: true }));

interface Unusable {
  readonly what: string;
  /** Makes it and gives its path. */
  readonly make: () => Promise<string>;
  readonly says: RegExp;
}

const file = async (name: string, bytes: string | Buffer, mode: number): Promise<string> => {
  const path = join(folder, name);
  await writeFile(path, bytes, { mode });
  return path;
};

const UNUSABLE: readonly Unusable[] = [
  {
    what: 'missing',
    make: async () => join(folder, 'nowhere'),
    says: /Firecracker \(.*nowhere\) is not installed; put its binary there or set HATCH_FIRECRACKER_BIN/,
  },
  {
    what: 'too old',
    make: () => wrapDouble(join(folder, 'old'), { FC_DOUBLE_VERSION: 'v1.12.0' }),
    says: /Firecracker 1\.12\.0 is too old; install 1\.13 or newer/,
  },
  {
    what: 'not executable',
    make: () => file('plain', '#!/bin/sh\n', 0o644),
    says: /Firecracker \(.*plain\) may not be executed; make it executable: chmod \+x/,
  },
  { what: 'of another architecture', make: foreign, says: /no program of this machine's architecture/ },
  {
    what: 'another program',
    make: () => file('other', '#!/bin/sh\necho hello\n', 0o755),
    says: /is no Firecracker: it says .*hello/,
  },
];

/** This very machine's program, but that its header says EM_S390 (elf(5)). */
async function foreign(): Promise<string> {
  const program = Buffer.from(await readFile('/bin/true'));
  program.writeUInt16LE(22, 18);
  return file('foreign', program, 0o755);
}

const settings = (vmm: string, bin: string): Readonly<Record<string, string>> => ({
  HATCH_VMM: vmm,
  HATCH_FIRECRACKER_BIN: bin,
  HATCH_DATA_DIR: join(folder, 'data'),
});

/** `hatchd` with these arguments, to its end. */
const toItsEnd = (args: readonly string[], env: Readonly<Record<string, string>>): Promise<RunResult> =>
  run([HATCHD, ...args], { env, okExitCodes: [0, 1], timeoutMs: 30_000 });

describe('asked for', () => {
  for (const { what, make, says } of UNUSABLE) {
    test(`a Firecracker that is ${what} ends hatchd, which says what to do`, async () => {
      const { exitCode, stderr } = await toItsEnd([], settings('firecracker', await make()));
      assert.equal(exitCode, 1);
      assert.match(stderr, /hatchd could not start: /);
      assert.match(stderr, says);
    });
  }

  test('a jailer of another architecture, or of another release, ends it as well', async () => {
    const env = { ...settings('firecracker', FIRECRACKER_DOUBLE), HATCH_JAILER: 'on' };
    const other = await wrapDouble(join(folder, 'jailer'), { FC_DOUBLE_VERSION: 'v1.15.0' }, JAILER_DOUBLE);
    for (const [bin, says] of [
      [await foreign(), /The jailer .* is no program of this machine's architecture/],
      [other, /The jailer is 1\.15\.0 and Firecracker is 1\.16\.1; install both of one release/],
    ] as const) {
      const { exitCode, stderr } = await toItsEnd([], { ...env, HATCH_JAILER_BIN: bin });
      assert.equal(exitCode, 1);
      assert.match(stderr, says);
    }
  });
});

describe('with HATCH_VMM=auto', () => {
  let hatchd: Hatchd | undefined;
  before(async () => {
    hatchd = await startHatchd(folder, { HATCH_VMM: 'auto', HATCH_FIRECRACKER_BIN: '/nowhere/fc' });
  });
  after(async () => {
    await hatchd?.down();
  });

  test('a Firecracker that cannot be used, or cannot use KVM, leaves guests to QEMU; the log says why', async () => {
    assert.ok(hatchd);
    const noKvm = await wrapDouble(join(folder, 'no-kvm'), { FC_DOUBLE_KVM: 'denied' });
    assert.match(
      await hatchd.log(),
      /"why":"Firecracker \(\/nowhere\/fc\) is not installed.*guests run on QEMU/,
    );
    assert.match(await hatchd.log(), /"vmm":"qemu".*"msg":"ready"/);
    await hatchd.end('SIGTERM');
    // QEMU has found out about KVM meanwhile, and what is known is not tried again.
    await rm(join(hatchd.data, 'kvm.json'), { force: true });
    await hatchd.start({ HATCH_FIRECRACKER_BIN: noKvm, HATCH_JAILER: 'off' });
    const log = (await hatchd.log()).slice((await hatchd.log()).indexOf('"msg":"ready"'));
    // What of it the machine shows: the device is not there at all, or Firecracker was refused it.
    assert.match(log, /"kvm":"(refused|no \/dev\/kvm|no right to \/dev\/kvm)".*guests run on QEMU/);
    if (log.includes('"refused"')) assert.match(log, /Error creating KVM object: Permission denied/);
    assert.match(log, /"vmm":"qemu".*"msg":"ready"/);
  });

  test('`hatchd doctor` says why of each', async () => {
    for (const { what, make, says } of UNUSABLE) {
      const { stdout } = await toItsEnd(['doctor'], settings('auto', await make()));
      const line = stdout.split('\n').find((one) => / firecracker /.test(one)) ?? '';
      assert.match(line, /^warn /, what);
      assert.match(line, says, what);
      assert.match(line, /Until then guests run on QEMU\.$/, what);
    }
  });
});
