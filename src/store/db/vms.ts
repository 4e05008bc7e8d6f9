import { sql, type Kysely, type Transaction } from 'kysely';
import { parseId, type AccountId, type VmId } from '../../base/ids.ts';
import { invalid, notFound } from '../../model/failure.ts';
import { checkQuota } from '../../model/quota.ts';
import type { Quotas } from '../../model/records.ts';
import type { NewVm, Vm, VmPatch, VmState } from '../../model/vm.ts';
import type { Owner, VmFilter, Vms, VmUse } from '../store.ts';
import { lockAccount } from './accounts.ts';
import { claimVm } from './claim-vm.ts';
import { fromJsonOrNull, toJson } from './columns.ts';
import { orTaken, transact, type Engine } from './engine.ts';
import { addEvent } from './events.ts';
import { noteRest } from './history.ts';
import { accountOfImage } from './images.ts';
import { addOperation } from './operations.ts';
import { pageStart } from './page.ts';
import { prepared } from './prepared.ts';
import { lockSnapshot } from './snapshot-lock.ts';
import type { Tables } from './tables.ts';
import { accountOfTemplate } from './templates.ts';
import { newRow, patchColumns, selectVms, toVm } from './vm-row.ts';

const byId = prepared((db, { id }: { id: VmId }) => selectVms(db).where('vms.id', '=', id));
const idIn = prepared((db, { accountId, id }: { accountId: AccountId; id: VmId }) =>
  selectVms(db).where('vms.account_id', '=', accountId).where('vms.id', '=', id),
);
const nameIn = prepared((db, { accountId, name }: { accountId: AccountId; name: string }) =>
  selectVms(db).where('vms.account_id', '=', accountId).where('vms.name', '=', name),
);
const takenOn = prepared((db, { hostId }: { hostId: string }) =>
  db
    .selectFrom('vms')
    .select(['network_id', 'guest_ip', 'guest_mac', 'gateway_id', 'ssh_port'])
    .where((eb) => eb.or([eb('network_id', '=', hostId), eb('gateway_id', '=', hostId)])),
);
const useOf = prepared((db, { accountId }: { accountId: AccountId }) =>
  db
    .selectFrom('vms')
    .select([
      sql<number>`count(*)`.as('vms'),
      sql<number>`coalesce(sum(vcpu_count), 0)`.as('vcpus'),
      sql<number>`coalesce(sum(mem_mib), 0)`.as('memMib'),
    ])
    .where('account_id', '=', accountId),
);

/** The VMs' table behind its interface. */
export function vms(engine: Engine): Vms {
  const { db } = engine;
  const place = { vms_guest_ip: 'guest_ip', vms_guest_mac: 'guest_mac', vms_ssh_port: 'ssh_port' } as const;
  return {
    // Nobody is told of it before it runs, and that is flushed.
    create: (vm, { limits, args }) =>
      orTaken({ vms_id: 'id', vms_name: 'name', ...place }, () =>
        engine.unflushed((own) => transact({ db: own }, (trx) => create(engine, trx, vm, limits, args))),
      ),
    claim: (id, seen, to) =>
      orTaken(place, () =>
        transact(engine, async (trx) => ((await claimVm(engine, trx, id, seen, to)) ? get(trx, id) : null)),
      ),
    get: (id) => get(db, id),
    async find(accountId, idOrName) {
      const id = parseId('vm', idOrName);
      const [row] = await (id ? idIn(db, { accountId, id }) : nameIn(db, { accountId, name: idOrName }));
      return row ? toVm(row) : null;
    },
    list: (filter, page) => list(db, filter, page),
    async ofHost(hostId) {
      const rows = await selectVms(db).where('vms.host_id', '=', hostId).orderBy('vms.seq', 'desc').execute();
      return rows.map(toVm);
    },
    async userData(id) {
      const row = await db.selectFrom('vms').select('user_data').where('id', '=', id).executeTakeFirst();
      return fromJsonOrNull(row?.user_data ?? null);
    },
    update: (id, owner, patch, { unflushed = false } = {}) =>
      unflushed
        ? engine.unflushed((lax) => change({ ...engine, db: lax }, id, owner, undefined, patch))
        : change(engine, id, owner, undefined, patch),
    move: (id, owner, from, patch, options) => change(engine, id, owner, from, patch, options),
    async noteUse(id, owner, { lastActiveAt, leasedUntil }) {
      await db
        .updateTable('vms')
        .set({
          ...(lastActiveAt === undefined ? {} : { last_active_at: lastActiveAt }),
          ...(leasedUntil === undefined ? {} : { leased_until: leasedUntil }),
        })
        .where('id', '=', id)
        .where('host_id', '=', owner.hostId)
        .where('epoch', '=', owner.epoch)
        .execute();
    },
    async remove(id, owner) {
      const { numDeletedRows } = await db
        .deleteFrom('vms')
        .where('id', '=', id)
        .where('host_id', '=', owner.hostId)
        .where('epoch', '=', owner.epoch)
        .executeTakeFirst();
      return numDeletedRows > 0n;
    },
    async taken(hostId) {
      const rows = await takenOn(db, { hostId });
      const inNetwork = rows.filter((row) => row.network_id === hostId);
      const atGateway = rows.filter((row) => row.gateway_id === hostId);
      return {
        ips: new Set(inNetwork.map((row) => row.guest_ip).filter((ip) => ip !== null)),
        macs: new Set(inNetwork.map((row) => row.guest_mac).filter((mac) => mac !== null)),
        sshPorts: new Set(atGateway.map((row) => row.ssh_port).filter((port) => port !== null)),
      };
    },
    use: (accountId) => use(db, accountId),
  };
}

async function create(
  engine: Engine,
  trx: Transaction<Tables>,
  vm: NewVm,
  limits: Quotas,
  args: Readonly<Record<string, unknown>>,
): Promise<Awaited<ReturnType<Vms['create']>>> {
  const { clock } = engine;
  const { accountId, hostId } = vm;
  if (hostId === null) throw new Error('a VM that is made needs a host to make it on');
  if (!(await lockAccount(trx, accountId))) throw notFound('account', accountId);
  const failure = checkQuota(await use(trx, accountId), limits, {
    vms: 1,
    vcpus: vm.vcpuCount,
    memMib: vm.memMib,
  });
  if (failure) throw failure;
  const copyOf = vm.parentSnapshotId ?? null;
  // Whoever would remove the snapshot waits for us here, and then sees that it is being copied.
  if (copyOf !== null && !(await lockSnapshot(trx, copyOf))) throw notFound('snapshot', copyOf);
  const imageAccountId = await accountOfImage(trx, accountId, vm.imageId);
  if (imageAccountId === undefined)
    throw invalid('image_id', `There is no image "${vm.imageId}" (any more).`);
  const templateAccountId =
    vm.templateId === null ? null : await accountOfTemplate(trx, accountId, vm.templateId);
  if (templateAccountId === undefined)
    throw invalid('template_id', `There is no template "${vm.templateId}" (any more).`);
  const row = newRow(vm, { hostId, imageAccountId, templateAccountId, now: clock.now() });
  await trx.insertInto('vms').values(row).execute();
  await addLabels(trx, vm.id, vm.labels);
  const operation = await addOperation(engine, trx, {
    vmId: vm.id,
    accountId,
    owner: { hostId, epoch: row.epoch },
    verb: 'create',
    args,
  });
  const made = await get(trx, vm.id);
  if (!made) throw new Error(`the row of ${vm.id} is not there right after it was made`);
  await addEvent(engine, trx, {
    accountId,
    vmId: vm.id,
    kind: 'vm.creating',
    message: 'The VM is being created.',
    data: { operation: operation.id, name: vm.name, image_id: vm.imageId },
  });
  return { vm: made, operation };
}

async function get(db: Kysely<Tables>, id: VmId): Promise<Vm | null> {
  const [row] = await byId(db, { id });
  return row ? toVm(row) : null;
}

async function list(
  db: Kysely<Tables>,
  { accountId, state, labels = {} }: VmFilter,
  page: Parameters<Vms['list']>[1],
): Promise<readonly Vm[]> {
  const start = await pageStart(page, async (after) => {
    const id = parseId('vm', after);
    if (!id) return undefined;
    const last = db.selectFrom('vms').select('seq').where('id', '=', id);
    return (accountId === undefined ? last : last.where('account_id', '=', accountId)).executeTakeFirst();
  });
  let query = selectVms(db).where('vms.seq', '<', start);
  if (accountId !== undefined) query = query.where('vms.account_id', '=', accountId);
  if (state !== undefined) query = query.where('vms.state', '=', state);
  for (const label of Object.entries(labels)) {
    query = query.where('vms.id', 'in', (eb) =>
      eb.selectFrom('vm_labels').select('vm_labels.vm_id').where('vm_labels.label', '=', toJson(label)),
    );
  }
  const rows = await query.orderBy('vms.seq', 'desc').limit(page.limit).execute();
  return rows.map(toVm);
}

/** Changes a VM its owner still owns, in one of the states `from`; null when there is no such row. */
async function change(
  engine: Engine,
  id: VmId,
  owner: Owner,
  from: readonly VmState[] | undefined,
  patch: VmPatch,
  { limits, event }: NonNullable<Parameters<Vms['move']>[4]> = {},
): Promise<Vm | null> {
  return orTaken({ vms_name: 'name' }, () =>
    transact(engine, async (trx) => {
      if (limits !== undefined) await checkGrowth(trx, id, patch, limits);
      const changed = await changeVm(engine, trx, id, owner, from, patch);
      if (changed && event) await addEvent(engine, trx, { ...event, accountId: changed.accountId, vmId: id });
      return changed;
    }),
  );
}

/** Changes a VM in a transaction of somebody's, as `change` does. */
export async function changeVm(
  engine: Pick<Engine, 'clock'>,
  trx: Transaction<Tables>,
  id: VmId,
  owner: Owner,
  from: readonly VmState[] | undefined,
  patch: VmPatch,
): Promise<Vm | null> {
  if (from?.length === 0) return null;
  let query = trx
    .updateTable('vms')
    .set({ ...patchColumns(patch), updated_at: engine.clock.now() })
    .where('id', '=', id)
    .where('host_id', '=', owner.hostId)
    .where('epoch', '=', owner.epoch);
  if (from !== undefined) query = query.where('state', 'in', from);
  const { numUpdatedRows } = await query.executeTakeFirst();
  if (numUpdatedRows === 0n) return null;
  if (patch.labels !== undefined) {
    await trx.deleteFrom('vm_labels').where('vm_id', '=', id).execute();
    await addLabels(trx, id, patch.labels);
  }
  const changed = await get(trx, id);
  if (changed && (patch.state !== undefined || patch.stoppedBy !== undefined))
    await noteRest(engine, trx, changed);
  return changed;
}

/** Refuses what a VM would grow by over a quota of its account; who grows or makes VMs in it does so one after the other. */
async function checkGrowth(
  trx: Transaction<Tables>,
  id: VmId,
  { vcpuCount, memMib }: VmPatch,
  limits: Quotas,
): Promise<void> {
  const accountId = (await get(trx, id))?.accountId;
  if (accountId === undefined || !(await lockAccount(trx, accountId))) return;
  const now = await get(trx, id);
  if (!now) return;
  const failure = checkQuota(await use(trx, accountId), limits, {
    vms: 0,
    vcpus: (vcpuCount ?? now.vcpuCount) - now.vcpuCount,
    memMib: (memMib ?? now.memMib) - now.memMib,
  });
  if (failure) throw failure;
}

async function addLabels(trx: Transaction<Tables>, id: VmId, labels: Vm['labels']): Promise<void> {
  const rows = Object.entries(labels).map((label) => ({ vm_id: id, label: toJson(label) }));
  if (rows.length > 0) await trx.insertInto('vm_labels').values(rows).execute();
}

async function use(db: Kysely<Tables>, accountId: AccountId): Promise<VmUse> {
  const [row] = await useOf(db, { accountId });
  return { vms: row?.vms ?? 0, vcpus: row?.vcpus ?? 0, memMib: row?.memMib ?? 0 };
}
