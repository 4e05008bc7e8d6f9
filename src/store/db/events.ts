import type { Selectable, Transaction } from 'kysely';
import { newId, parseId } from '../../base/ids.ts';
import type { HatchEvent } from '../../model/records.ts';
import type { Events, NewEvent } from '../store.ts';
import { fromJson, toJson, toText } from './columns.ts';
import { transact, type Engine } from './engine.ts';
import { pageStart } from './page.ts';
import { prepared } from './prepared.ts';
import type { EventsTable, Tables } from './tables.ts';

const insertEvent = prepared(
  (
    db,
    event: Pick<EventsTable, 'id' | 'kind' | 'message' | 'data' | 'at'> & {
      accountId: EventsTable['account_id'];
      vmId: EventsTable['vm_id'];
    },
  ) =>
    db
      .insertInto('events')
      .values({
        id: event.id,
        account_id: event.accountId,
        vm_id: event.vmId,
        kind: event.kind,
        message: event.message,
        data: event.data,
        at: event.at,
      })
      .returningAll(),
);

/** The events' table behind its interface. */
export function events(engine: Engine): Events {
  const { db } = engine;
  return {
    add: (event) => transact(engine, (trx) => addEvent(engine, trx, event)),
    async list({ accountId, vmId, kind, kinds }, page) {
      let query = db.selectFrom('events').selectAll();
      if (accountId !== undefined) query = query.where('account_id', '=', accountId);
      const visible = query;
      const start = await pageStart(page, async (after) => {
        const id = parseId('evt', after);
        return id && visible.where('id', '=', id).executeTakeFirst();
      });
      if (vmId !== undefined) query = query.where('vm_id', '=', vmId);
      if (kind !== undefined) query = query.where('kind', '=', kind);
      if (kinds !== undefined) query = query.where('kind', 'in', kinds);
      const rows = await query.where('seq', '<', start).orderBy('seq', 'desc').limit(page.limit).execute();
      return rows.map(toEvent);
    },
    async get(id) {
      const row = await db.selectFrom('events').selectAll().where('id', '=', id).executeTakeFirst();
      return row ? toEvent(row) : null;
    },
    async after(seq, { accountId, vmId, kind }, limit) {
      let query = db.selectFrom('events').selectAll().where('seq', '>', seq);
      if (accountId !== undefined) query = query.where('account_id', '=', accountId);
      if (vmId !== undefined) query = query.where('vm_id', '=', vmId);
      if (kind !== undefined) query = query.where('kind', '=', kind);
      return (await query.orderBy('seq').limit(limit).execute()).map(toEvent);
    },
    async newest() {
      const row = await db
        .selectFrom('events')
        .select('seq')
        .orderBy('seq', 'desc')
        .limit(1)
        .executeTakeFirst();
      return row?.seq ?? 0;
    },
    async prune(before) {
      const { numDeletedRows } = await db.deleteFrom('events').where('at', '<', before).executeTakeFirst();
      return Number(numDeletedRows);
    },
  };
}

/** Writes an event in a transaction, best as its last row: others with events wait until it ends. */
export async function addEvent(
  { clock, lineUpEvents }: Pick<Engine, 'clock' | 'lineUpEvents'>,
  trx: Transaction<Tables>,
  { accountId, vmId, kind, message, data = {} }: NewEvent,
): Promise<HatchEvent> {
  await lineUpEvents(trx);
  const [row] = await insertEvent(trx, {
    id: newId('evt'),
    accountId,
    vmId,
    kind,
    message: toText(message),
    data: toJson(data),
    at: clock.now(),
  });
  if (!row) throw new Error(`the event ${kind} is not there right after it was written`);
  return toEvent(row);
}

function toEvent(row: Selectable<EventsTable>): HatchEvent {
  return {
    id: row.id,
    seq: row.seq,
    accountId: row.account_id,
    vmId: row.vm_id,
    kind: row.kind,
    message: row.message,
    data: fromJson(row.data),
    at: row.at,
  };
}
