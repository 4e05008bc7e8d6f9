import { sql, type Selectable, type Transaction } from 'kysely';
import { newId, parseId, type AccountId, type OperationId, type VmId } from '../../base/ids.ts';
import { notFound } from '../../model/failure.ts';
import type { JournalRow, Operation, StepPhase } from '../../model/records.ts';
import type { Verb } from '../../model/vm.ts';
import { Busy, type Operations, type Owner } from '../store.ts';
import { fromJson, fromJsonOrNull, toJson, toJsonOrNull } from './columns.ts';
import { transact, type Engine } from './engine.ts';
import { pageStart } from './page.ts';
import { prepared } from './prepared.ts';
import type { OperationStepsTable, OperationsTable, Tables } from './tables.ts';

/** How long a host is trusted to be at an operation after the last row of its journal. */
const LEASE_MS = 60_000;

const addStep = prepared(
  (db, { id, step, phase, at }: { id: OperationId; step: string; phase: StepPhase; at: number }) =>
    db
      .insertInto('operation_steps')
      .values((eb) => ({
        operation_id: id,
        seq: eb
          .selectFrom('operation_steps')
          .select(sql<number>`coalesce(max(seq), 0) + 1`.as('next'))
          .where('operation_id', '=', id),
        step,
        phase,
        at,
      }))
      .returningAll(),
);
const endOf = prepared(
  (db, end: Pick<OperationsTable, 'outcome' | 'error'> & { id: OperationId; finishedAt: number }) =>
    db
      .updateTable('operations')
      .set({ outcome: end.outcome, error: end.error, finished_at: end.finishedAt })
      .where('id', '=', end.id)
      .where('finished_at', 'is', null)
      .returning('id'),
);

/** The operations and their journal behind their interface. */
export function operations(engine: Engine): Operations {
  const { db, clock, now } = engine;
  const renewLease = prepared((any, { id }: { id: OperationId }) =>
    any
      .updateTable('operations')
      .set({ lease_until: sql<number>`${now} + ${sql.lit(LEASE_MS)}` })
      .where('id', '=', id)
      .returning('id'),
  );
  return {
    begin: ({ id, owner }, verb, args) =>
      transact(engine, async (trx) => {
        const vm = await lockVm(trx, id, owner);
        if (!vm) throw notFound('vm', id);
        const underWay = await trx
          .selectFrom('operations')
          .selectAll()
          .where('vm_id', '=', id)
          .where('finished_at', 'is', null)
          .executeTakeFirst();
        if (underWay) throw new Busy(toOperation(underWay));
        return addOperation(engine, trx, { vmId: id, accountId: vm.account_id, owner, verb, args });
      }),
    async get(id) {
      const row = await db.selectFrom('operations').selectAll().where('id', '=', id).executeTakeFirst();
      return row ? toOperation(row) : null;
    },
    async setArgs(id, args) {
      await db
        .updateTable('operations')
        .set({ args: toJson(args) })
        .where('id', '=', id)
        .where('finished_at', 'is', null)
        .execute();
    },
    // Recovery goes by the operation and its VM; the rows say how far it came.
    record: (id, step, phase, ended = []) =>
      engine.unflushed((db) =>
        transact({ db }, async (trx) => {
          const at = clock.now();
          // Holds the operation's row: its journal has one writer at a time.
          const [held] = await renewLease(trx, { id });
          const none = { operationId: id, seq: 0, step, phase, at };
          // The last step of a deletion removes the VM with this journal; there is nothing left to recover.
          if (!held) return none;
          for (const row of ended) await addStep(trx, { id, ...row, at });
          const [written] = await addStep(trx, { id, step, phase, at });
          return written ? toJournalRow(written) : none;
        }),
      ),
    async journal(id) {
      const rows = await db
        .selectFrom('operation_steps')
        .selectAll()
        .where('operation_id', '=', id)
        .orderBy('seq')
        .execute();
      return rows.map(toJournalRow);
    },
    // One that is unfinished although all of it was done is what a crash leaves, too.
    async finish(id, outcome, error = null) {
      await engine.unflushed((lax) =>
        endOf(lax, { id, outcome, error: toJsonOrNull(error), finishedAt: clock.now() }),
      );
    },
    async unfinished(hostId) {
      const rows = await db
        .selectFrom('operations')
        .selectAll()
        .where('host_id', '=', hostId)
        .where('finished_at', 'is', null)
        .orderBy('seq')
        .execute();
      return rows.map(toOperation);
    },
    async list(vmId, page) {
      const ofVm = db.selectFrom('operations').selectAll().where('vm_id', '=', vmId);
      const start = await pageStart(page, async (after) => {
        const id = parseId('op', after);
        return id && ofVm.where('id', '=', id).executeTakeFirst();
      });
      const rows = await ofVm.where('seq', '<', start).orderBy('seq', 'desc').limit(page.limit).execute();
      return rows.map(toOperation);
    },
  };
}

/** Holds a VM's row until the transaction ends, if `owner` owns it. Writing a row to itself locks it on both engines. */
export async function lockVm(
  trx: Transaction<Tables>,
  id: VmId,
  owner: Owner,
): Promise<{ account_id: AccountId } | undefined> {
  return trx
    .updateTable('vms')
    .set((row) => ({ epoch: row.ref('epoch') }))
    .where('id', '=', id)
    .where('host_id', '=', owner.hostId)
    .where('epoch', '=', owner.epoch)
    .returning('account_id')
    .executeTakeFirst();
}

/** Writes the row of an operation that begins. */
export async function addOperation(
  { clock, now }: Pick<Engine, 'clock' | 'now'>,
  trx: Transaction<Tables>,
  operation: {
    readonly vmId: VmId;
    readonly accountId: AccountId;
    readonly owner: Owner;
    readonly verb: Verb;
    readonly args: Operation['args'];
  },
): Promise<Operation> {
  const row = await trx
    .insertInto('operations')
    .values({
      id: newId('op'),
      vm_id: operation.vmId,
      account_id: operation.accountId,
      host_id: operation.owner.hostId,
      epoch: operation.owner.epoch,
      verb: operation.verb,
      args: toJson(operation.args),
      outcome: 'running',
      error: null,
      lease_until: sql<number>`${now} + ${sql.lit(LEASE_MS)}`,
      created_at: clock.now(),
      finished_at: null,
    })
    .returningAll()
    .executeTakeFirstOrThrow();
  return toOperation(row);
}

function toOperation(row: Selectable<OperationsTable>): Operation {
  return {
    id: row.id,
    vmId: row.vm_id,
    accountId: row.account_id,
    hostId: row.host_id,
    epoch: row.epoch,
    verb: row.verb,
    args: fromJson(row.args),
    outcome: row.outcome,
    error: fromJsonOrNull(row.error),
    createdAt: row.created_at,
    finishedAt: row.finished_at,
  };
}

function toJournalRow(row: Selectable<OperationStepsTable>): JournalRow {
  return { operationId: row.operation_id, seq: row.seq, step: row.step, phase: row.phase, at: row.at };
}
