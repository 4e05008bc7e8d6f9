import type { Transaction } from 'kysely';
import type { VmId } from '../../base/ids.ts';
import type { Owner } from '../store.ts';
import type { Engine } from './engine.ts';
import { addEvent } from './events.ts';
import { lockVm } from './operations.ts';
import { lockSnapshot } from './snapshot-lock.ts';
import type { Tables } from './tables.ts';
import { selectVms } from './vm-row.ts';

/**
 * Makes a sleeping VM another host's, if `seen` owns it, nothing is under way on it and its snapshot is durable, or there; false when that is
 * not so. Who begins an operation holds the VM first, who changes a snapshot the snapshot: each thing is looked at in a statement of
 * its own once its row is held.
 */
export async function claimVm(
  engine: Engine,
  trx: Transaction<Tables>,
  id: VmId,
  seen: Owner,
  to: string,
): Promise<boolean> {
  const asleepAs = (await trx.selectFrom('vms').select('snapshot_id').where('id', '=', id).executeTakeFirst())
    ?.snapshot_id;
  if (!asleepAs || !(await lockSnapshot(trx, asleepAs)) || !(await lockVm(trx, id, seen))) return false;
  const vm = await selectVms(trx).where('vms.id', '=', id).executeTakeFirst();
  if (vm?.state !== 'snapshotted' || vm.snapshot_id !== asleepAs || vm.operation_id !== null) return false;
  const snapshot = await trx
    .selectFrom('snapshots')
    .select(['state', 'host_id'])
    .where('id', '=', asleepAs)
    .executeTakeFirst();
  if (snapshot?.state !== 'durable' && snapshot?.host_id !== to) return false;
  const place = vm.guest_ip === null ? null : to;
  await trx
    .updateTable('vms')
    .set({
      host_id: to,
      epoch: vm.epoch + 1,
      network_id: place,
      gateway_id: place,
      // Its files stay where they are, and are nobody's there.
      layer_id: null,
      memory_layer_id: null,
      process: null,
      ready_at: null,
      updated_at: engine.clock.now(),
    })
    .where('id', '=', id)
    .execute();
  await addEvent(engine, trx, {
    accountId: vm.account_id,
    vmId: id,
    kind: 'vm.moved',
    message: `The VM, which slept on ${seen.hostId}, is on ${to} from now on.`,
    data: { from: seen.hostId, to, snapshot: asleepAs },
  });
  return true;
}
