import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { FIRECRACKER_DOUBLE, JAILER_DOUBLE } from '../../src/vmm/firecracker/testing/wrapper.ts';
import { openCrashHost, VERBS, type CrashHost } from '../support/crash-host.ts';
import {
  BOOT_CALLS,
  makeFaultyDouble,
  smallImage,
  type FaultyDouble,
} from '../support/firecracker-double.ts';
import { firecrackers } from '../support/hatchd.ts';
import { assertHostMatches } from '../support/host-matches.ts';

/**
 * hatchd killed (SIGKILL) at every step of a boot and of a stop of VMs on Firecracker (its double; hatchd, network, disks and jails
 * are real): after every row of the journal, and inside of one while Firecracker is at each of its calls. The next one must
 * leave nothing that should not be there, and the VMs must start.
 */
for (const jailed of [false, true]) {
  describe(jailed ? 'jailed' : 'not jailed', () => {
    let folder: string;
    let host: CrashHost;
    let double: FaultyDouble;

    before(async () => {
      folder = await mkdtemp(join(tmpdir(), 'fcc-'));
      double = await makeFaultyDouble(folder, jailed ? JAILER_DOUBLE : FIRECRACKER_DOUBLE);
      host = await openCrashHost(folder, firecrackers, {
        ...(await smallImage(folder)),
        HATCH_VMM: 'firecracker',
        HATCH_FIRECRACKER_BIN: jailed ? FIRECRACKER_DOUBLE : double.bin,
        HATCH_JAILER: jailed ? 'on' : 'off',
        HATCH_JAILER_BIN: double.bin,
      });
    });
    after(async () => {
      await host.hatchd.down();
      await rm(folder, { recursive: true, force: true });
    });

    // A create makes all that a start does and the disk besides; each is tried in one of the two.
    for (const verb of jailed ? [VERBS.start] : [VERBS.create, VERBS.stop]) {
      test(`${verb.name}: killed after any row of its journal, nothing is left and the VM starts`, () =>
        host.crashAfterEachRow(verb, { startable: true }));
    }

    test('killed while Firecracker is at any call of a boot, all are taken back, and all start', async () => {
      const { hatchd } = host;
      const { client } = hatchd;
      const ids: string[] = [];
      for (const call of BOOT_CALLS) {
        const { id } = await client.vms.create({ name: `at-${ids.length}` });
        await client.vms.stop(id, { grace_seconds: 0 });
        await double.tell(id, { FC_DOUBLE_FAULTS: `${call} freeze` });
        ids.push(id);
      }
      const starts = ids.map((id) => client.vms.start(id).catch(() => undefined));
      await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () =>
        (await Promise.all(ids.map(isFrozen))).every(Boolean) ? true : undefined,
      );
      await hatchd.end('SIGKILL');
      await Promise.all(starts);
      await hatchd.start();
      for (const id of ids) {
        const vm = await client.vms.get(id);
        assert.deepEqual([vm.state, vm.state_reason?.code], ['error', 'interrupted']);
        assert.match(vm.state_reason?.message ?? '', /stopped while the VM was starting; start it again/);
      }
      await assertHostMatches(hatchd, firecrackers, 'killed within a boot');
      await double.forget();
      const started = await Promise.all(
        ids.map((id) => client.vms.start(id, { wait: 'ready', timeout: 60 })),
      );
      assert.ok(started.every((vm) => vm.state === 'running'));
      await assertHostMatches(hatchd, firecrackers, 'started again');
      for (const id of ids) await client.vms.delete(id);
    });

    test('killed while a guest takes its time to shut down, the next one stops it', async () => {
      const { hatchd } = host;
      const { client } = hatchd;
      const { id } = await client.vms.create({ name: 'slow' });
      await client.vms.stop(id, { grace_seconds: 0 });
      await double.tell(id, { FC_DOUBLE_SHUTDOWN_MS: '1500' });
      await client.vms.start(id, { wait: 'ready', timeout: 60 });
      await double.forget();
      const asked = client.vms.stop(id).catch(() => undefined);
      await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () =>
        (await client.vms.events(id, { kind: 'vm.stopping' })).length > 0 ? true : undefined,
      );
      await hatchd.end('SIGKILL');
      await asked;
      await hatchd.start();
      const stopped = await client.vms.stop(id);
      assert.deepEqual([stopped.state, stopped.state_reason], ['stopped', undefined]);
      await assertHostMatches(hatchd, firecrackers, 'stopped by the next');
      assert.equal((await client.vms.start(id)).state, 'running');
      await client.vms.delete(id);
    });
  });
}

/** Whether a VM's Firecracker is there and stands still. */
async function isFrozen(id: string): Promise<boolean> {
  const pid = (await firecrackers()).get(id);
  const status = pid === undefined ? '' : await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return /^State:\tT/m.test(status);
}
