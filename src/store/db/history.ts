import type { Transaction } from 'kysely';
import type { VmId } from '../../base/ids.ts';
import { restOf } from '../../model/history.ts';
import type { Vm } from '../../model/vm.ts';
import type { History } from '../store.ts';
import { transact, type Engine } from './engine.ts';
import { prepared } from './prepared.ts';
import type { Tables } from './tables.ts';

/** The migration that made its tables. */
const MADE_BY = '005-idle';

const openRest = prepared((db, { id }: { id: VmId }) =>
  db.selectFrom('vm_rests').select(['seq', 'how']).where('vm_id', '=', id).where('until_at', 'is', null),
);

/** What VMs did over time, behind its interface. */
export function history(engine: Engine): History {
  const { db } = engine;
  return {
    async rests(vmId) {
      const rows = await db
        .selectFrom('vm_rests')
        .selectAll()
        .where('vm_id', '=', vmId)
        .orderBy('seq')
        .execute();
      return rows.map((row) => ({
        vmId: row.vm_id,
        how: row.how,
        memMib: row.mem_mib,
        from: row.from_at,
        until: row.until_at,
      }));
    },
    async uses(vmId, since) {
      const rows = await db
        .selectFrom('vm_uses')
        .selectAll()
        .where('vm_id', '=', vmId)
        .where('until_at', '>=', since)
        .orderBy('from_at')
        .orderBy('seq')
        .execute();
      return rows.map((row) => ({
        vmId: row.vm_id,
        by: row.way,
        from: row.from_at,
        until: row.until_at,
      }));
    },
    addUses: (spans, mergeMs) =>
      transact(engine, async (trx) => {
        for (const { vmId, by, from, until } of spans) {
          const last = await trx
            .selectFrom('vm_uses')
            .select(['seq', 'from_at', 'until_at'])
            .where('vm_id', '=', vmId)
            .where('way', '=', by)
            .orderBy('until_at', 'desc')
            .limit(1)
            .executeTakeFirst();
          if (last && from - last.until_at < mergeMs)
            await trx
              .updateTable('vm_uses')
              .set({ from_at: Math.min(from, last.from_at), until_at: Math.max(until, last.until_at) })
              .where('seq', '=', last.seq)
              .execute();
          else if (await trx.selectFrom('vms').select('id').where('id', '=', vmId).executeTakeFirst())
            await trx
              .insertInto('vm_uses')
              .values({ vm_id: vmId, way: by, from_at: from, until_at: until })
              .execute();
        }
      }),
    async since() {
      const row = await db
        .withTables<{ hatch_migrations: { name: string; timestamp: string } }>()
        .selectFrom('hatch_migrations')
        .select('timestamp')
        .where('name', '=', MADE_BY)
        .executeTakeFirst();
      return row === undefined ? 0 : Date.parse(row.timestamp);
    },
    async pruneUses(before) {
      const { numDeletedRows } = await db
        .deleteFrom('vm_uses')
        .where('until_at', '<', before)
        .executeTakeFirst();
      return Number(numDeletedRows);
    },
  };
}

/** Writes down that a VM has come to rest, or does so no more, in the transaction that changed it. */
export async function noteRest(
  { clock }: Pick<Engine, 'clock'>,
  trx: Transaction<Tables>,
  vm: Vm,
): Promise<void> {
  const how = restOf(vm);
  const [open] = await openRest(trx, { id: vm.id });
  if ((open?.how ?? null) === how) return;
  const now = clock.now();
  if (open) await trx.updateTable('vm_rests').set({ until_at: now }).where('seq', '=', open.seq).execute();
  if (how !== null)
    await trx
      .insertInto('vm_rests')
      .values({ vm_id: vm.id, how, mem_mib: vm.memMib, from_at: now, until_at: null })
      .execute();
}
