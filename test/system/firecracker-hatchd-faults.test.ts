import assert from 'node:assert/strict';
import { chmod, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ApiError } from '../../src/clients/http.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { run } from '../../src/host/run.ts';
import {
  BOOT_CALLS,
  makeFaultyDouble,
  smallImage,
  type FaultyDouble,
} from '../support/firecracker-double.ts';
import { firecrackerOf, firecrackers, startHatchd, untilVm, type Hatchd } from '../support/hatchd.ts';
import { assertHostMatches } from '../support/host-matches.ts';

/**
 * What goes wrong with Firecracker (its double) as a client of hatchd sees it: the right code and sentence, the VM in the right
 * state with its reason, nothing left on the host, and the next attempt works. firecracker-faults.test.ts has the driver alone.
 */
let folder: string;
let hatchd: Hatchd;
let double: FaultyDouble;
/** One for each call of a boot, stopped. */
const vms: string[] = [];

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fcb-'));
  double = await makeFaultyDouble(folder);
  hatchd = await startHatchd(folder, {
    ...(await smallImage(folder)),
    HATCH_VMM: 'firecracker',
    HATCH_FIRECRACKER_BIN: double.bin,
    HATCH_JAILER: 'off',
  });
  const { client } = hatchd;
  const made = await Promise.all(BOOT_CALLS.map(() => client.vms.create()));
  vms.push(...made.map(({ id }) => id));
  await Promise.all(vms.map((id) => client.vms.stop(id, { grace_seconds: 0 })));
});
after(async () => {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
});

const nth = (n: number): string => vms[n % vms.length] ?? assert.fail('there are no VMs');

interface Refusal {
  readonly code: string;
  readonly status: number;
  readonly message: string;
}

async function refusal(asked: Promise<unknown>): Promise<Refusal> {
  const error: unknown = await asked.then(
    () => assert.fail('it was let through'),
    (refused: unknown) => refused,
  );
  assert.ok(error instanceof ApiError, String(error));
  const { code, status, message } = error;
  assert.ok(!message.includes(folder), `no path of the host is told: ${message}`);
  return { code, status, message };
}

/** A start that fails with this code; the VM says the same of itself, and is stopped in `error`. */
async function cannotStart(id: string, code: string, says: RegExp): Promise<void> {
  const { client } = hatchd;
  const refused = await refusal(client.vms.start(id));
  assert.equal(refused.code, code, refused.message);
  assert.match(refused.message, says);
  const vm = await client.vms.get(id);
  assert.deepEqual(
    [vm.state, vm.state_reason?.code, vm.state_reason?.message],
    ['error', code, refused.message],
  );
}

async function works(id: string): Promise<void> {
  const vm = await hatchd.client.vms.start(id, { wait: 'ready', timeout: 60 });
  assert.deepEqual([vm.state, vm.state_reason], ['running', undefined]);
  assert.equal((await hatchd.client.vms.stop(id, { grace_seconds: 0 })).state, 'stopped');
}

const matches = (when: string): Promise<void> => assertHostMatches(hatchd, firecrackers, when);

/** What an answer of a Firecracker that goes wrong so is told as. */
const WRONGS: Readonly<Record<string, RegExp>> = {
  kill: /did not answer|ended/,
  // Each for as long as an answer may take, all at the same time.
  hang: /longer than 10/,
  rubbish: /did not answer/,
  'after exit 1': /did not answer|ended/,
  reset: /did not answer/,
  'refuse It does not suit me.': /refused (GET|PUT) \/.*: It does not suit me\./,
  busy: /refused (GET|PUT) \/.*Too many open connections/,
};
const [DIES, HANGS, RUBBISH, ...OTHERS] = Object.keys(WRONGS);

for (const [i, whats] of [[DIES], [HANGS], [RUBBISH], OTHERS].entries()) {
  test(`a Firecracker that does "${whats.join('" or "')}" at whichever call of a boot is a 502; nothing is left, and the VM starts next`, async () => {
    await Promise.all(
      BOOT_CALLS.map(async (call, n) => {
        const what = whats[n % whats.length] ?? '';
        await double.tell(nth(n), { FC_DOUBLE_FAULTS: `${call} ${what}` });
        await cannotStart(nth(n), 'vmm_failed', WRONGS[what] ?? assert.fail(what));
      }),
    );
    await matches(whats.join());
    await double.forget();
    await works(nth(i));
  });
}

test('after all that, each of them starts', async () => {
  await Promise.all(vms.map(works));
  await matches('all have started');
});

test('a VM that cannot be created is there, in error, with its reason; it starts, and is deleted', async () => {
  const { client } = hatchd;
  await rename(double.bin, `${double.bin}.away`);
  const refused = await refusal(client.vms.create({ name: 'ill' }));
  await rename(`${double.bin}.away`, double.bin);
  assert.deepEqual([refused.code, refused.status], ['unavailable', 503]);
  assert.match(refused.message, /no longer where it was when the server started.*hatchd doctor/);
  const vm = await client.vms.get('ill');
  assert.deepEqual([vm.state, vm.state_reason?.code], ['error', 'unavailable']);
  await matches('not created');
  assert.equal((await client.vms.start('ill')).state, 'running');
  await client.vms.delete('ill');
  await matches('deleted');
});

test('a Firecracker that may not be executed any more is a 503 that says so', async () => {
  await chmod(double.bin, 0o644);
  await cannotStart(nth(0), 'unavailable', /may no longer be executed/);
  await chmod(double.bin, 0o755);
  await works(nth(0));
  await matches('executable again');
});

test('KVM that is not there, or not to be opened, is told in its own words', async () => {
  for (const [kvm, why] of [
    ['denied', /Error creating KVM object: Permission denied.*ACL/],
    ['missing', /Error creating KVM object: No such file/],
  ] as const) {
    await double.tell(nth(0), { FC_DOUBLE_KVM: kvm });
    await cannotStart(nth(0), 'vmm_failed', why);
  }
  await double.forget();
  await works(nth(0));
  await matches('with KVM again');
});

test('a tap that somebody else holds is told as busy, and the next start has it', async () => {
  const [ready, holder] = [join(folder, 'holds'), join(folder, 'holder')];
  await run(['mkfifo', ready]);
  // TUNSETIFF (linux/if_tun.h) before Firecracker does it.
  await double.tellShell(
    nth(0),
    `perl -e 'open(my $tun, "+<", "/dev/net/tun") or die; ioctl($tun, 0x400454ca, pack("a16 s x22", $ARGV[0], 0x5002)) or die;
open(my $told, ">", $ARGV[1]); close $told; sleep 60' "$id" '${ready}' & echo $! > '${holder}'; read -r _ < '${ready}'\n`,
  );
  await cannotStart(nth(0), 'vmm_failed', /Resource busy/);
  await double.forget();
  await works(nth(0));
  process.kill(Number(await readFile(holder, 'utf8')), 'SIGKILL');
  await matches('the tap is free');
});

test("a compressed kernel is the caller's to mend, and an image with a good one works", async () => {
  const { client } = hatchd;
  const [kernel, rootfs] = [join(hatchd.data, 'images', 'bz'), join(hatchd.data, 'images', 'root.ext4')];
  // The Linux/x86 boot protocol: what makes a file a bzImage.
  const bzImage = Buffer.alloc(4096);
  bzImage.writeUInt16LE(0xaa55, 0x1fe);
  bzImage.write('HdrS', 0x202, 'latin1');
  await writeFile(kernel, bzImage);
  await run(['mkfs.ext4', '-q', rootfs, '8M']);
  await client.images.create({ name: 'packed', kernel_path: kernel, rootfs_path: rootfs });
  const refused = await refusal(client.vms.create({ name: 'packed', image_id: 'img-packed' }));
  assert.ok(refused.status >= 400 && refused.status < 500, `${refused.status} ${refused.code}`);
  assert.match(refused.message, /kernel is compressed/);
  await matches('compressed');
  const { id } = await client.vms.create({ name: 'unpacked' });
  await client.vms.delete(id);
});

test('a guest that hears nothing is cut off, whatever Firecracker does at ctrl-alt-del, and hatchd goes on', async () => {
  const told = ['kill', 'hang', 'rubbish', 'refuse no'];
  const { client } = hatchd;
  await Promise.all(
    told.map(async (what, n) => {
      const id = nth(n);
      await double.tell(id, { FC_DOUBLE_GUEST: 'silent', FC_DOUBLE_FAULTS: `PUT /actions#2 ${what}` });
      await client.vms.start(id);
      const stopped = await client.vms.stop(id, { grace_seconds: 5 });
      assert.equal(stopped.state, 'stopped', what);
      if (what !== 'kill') assert.equal(stopped.state_reason?.code, 'forced_stop', what);
    }),
  );
  await matches('cut off');
  await double.forget();
  await works(nth(1));
});

test('one that answers for its metrics with rubbish is a 502 there, and its guest runs on', async () => {
  const { client } = hatchd;
  const id = nth(0);
  await double.tell(id, { FC_DOUBLE_FAULTS: 'PUT /actions#2 rubbish' });
  await client.vms.start(id, { wait: 'ready', timeout: 60 });
  const refused = await refusal(client.vms.metrics(id));
  assert.deepEqual([refused.code, refused.status], ['vmm_failed', 502]);
  assert.ok((await client.vms.metrics(id)).memory.resident_bytes > 0);
  assert.equal((await client.vms.get(id)).state, 'running');
  await double.forget();
  await client.vms.stop(id, { grace_seconds: 0 });
});

test('after kill -9 of hatchd, one that does not answer as it should is ended, its VM is lost and says so, and starts again', async () => {
  const { client } = hatchd;
  const told = ['hang', 'rubbish', 'exit 1', 'refuse no', 'freeze'];
  for (const [n, what] of told.entries()) {
    await double.tell(nth(n), { FC_DOUBLE_FAULTS: `GET /#2 ${what}` });
    await client.vms.start(nth(n));
  }
  await hatchd.end('SIGKILL');
  await hatchd.start();
  for (const [n, what] of told.entries()) {
    const vm: Vm = await untilVm(hatchd, nth(n), ({ state }) => state === 'error');
    assert.equal(vm.state_reason?.code, 'lost', what);
    assert.match(vm.state_reason?.message ?? '', /Start it again; its disk is as it was\.$/);
    assert.equal(await firecrackerOf(nth(n)), undefined, what);
  }
  await matches('lost');
  await double.forget();
  await Promise.all(told.map((_, n) => works(nth(n))));
});
