import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { buffer } from 'node:stream/consumers';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { ApiError } from '../../src/clients/http.ts';
import type { Hatchd } from './hatchd.ts';

const MIB = 1024 * 1024;
const SMALL_DISK = '/mnt/small';

/**
 * Copies files into a real guest and out of it over the API: their bytes, mode and owner are the guest's, others are answered meanwhile, and
 * a disk that is full or a caller who hangs up leave what was there.
 */
export async function takesAndGivesFiles({ client: { vms } }: Hatchd, vm: string): Promise<void> {
  const inside = async (command: string): Promise<string> => (await vms.exec(vm, { command })).stdout;
  const bytes = randomBytes(3 * MIB + 77);
  const path = '/srv/hatch/files/it is';
  const writing = vms.writeFile(vm, path, bytes, {
    mode: '4750',
    owner: 'nobody',
    group: 'daemon',
    parents: true,
  });
  assert.equal(await inside('echo meanwhile'), 'meanwhile\n');
  const written = await writing;
  const sum = createHash('sha256').update(bytes).digest('hex');
  assert.equal(
    await inside(`cd /srv/hatch/files; sha256sum <'it is'; stat -c '%a %U %G %s' *; ls -A`),
    `${sum}  -\n4750 nobody daemon ${bytes.length}\nit is\n`,
  );
  const file = await vms.readFile(vm, path);
  assert.deepEqual([file.size_bytes, file.mode, file.uid, file.gid], [bytes.length, '4750', written.uid, 1]);
  assert.ok((await buffer(file.content)).equals(bytes));

  const stop = new AbortController();
  const broken = async function* (): AsyncGenerator<Uint8Array> {
    yield bytes.subarray(0, MIB);
    stop.abort(new Error('enough'));
  };
  await assert.rejects(vms.writeFile(vm, path, broken(), { signal: stop.signal }), /enough/);
  await inside(
    `mkdir -p ${SMALL_DISK}; mount -t tmpfs -o size=1m tmpfs ${SMALL_DISK}; echo old >${SMALL_DISK}/a`,
  );
  await assert.rejects(
    vms.writeFile(vm, `${SMALL_DISK}/a`, bytes),
    (error) =>
      error instanceof ApiError && error.code === 'no_space' && /guest's disk is full/.test(error.message),
  );
  assert.equal(await inside(`cat ${SMALL_DISK}/a; ls -A ${SMALL_DISK}; umount ${SMALL_DISK}`), 'old\na\n');
  // Nobody waited for the end of the upload that was given up.
  await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () =>
    (await inside('ls -A /srv/hatch/files')) === 'it is\n' ? true : undefined,
  );
}
