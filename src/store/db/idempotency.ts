import type { Selectable } from 'kysely';
import type { Idempotency, IdempotentRequest } from '../idempotency.ts';
import { transact, type Engine } from './engine.ts';
import type { IdempotencyKeysTable } from './tables.ts';

/** The table of answers behind its interface. */
export function idempotency(engine: Engine): Idempotency {
  const { db, clock } = engine;
  return {
    claim: ({ accountId, key, fingerprint, secret, worker }, since) =>
      transact(engine, async (trx) => {
        await trx
          .deleteFrom('idempotency_keys')
          .where('account_id', '=', accountId)
          .where('key', '=', key)
          .where('created_at', '<=', since)
          .execute();
        await trx
          .insertInto('idempotency_keys')
          .values({
            account_id: accountId,
            key,
            fingerprint,
            secret,
            worker,
            status: null,
            body: null,
            location: null,
            created_at: clock.now(),
          })
          .onConflict((conflict) => conflict.columns(['account_id', 'key']).doNothing())
          .execute();
        const row = await trx
          .selectFrom('idempotency_keys')
          .selectAll()
          .where('account_id', '=', accountId)
          .where('key', '=', key)
          .executeTakeFirstOrThrow();
        return toIdempotentRequest(row);
      }),
    async takeUp({ accountId, key }, from, worker) {
      const query = db
        .updateTable('idempotency_keys')
        .set({ worker })
        .where('account_id', '=', accountId)
        .where('key', '=', key)
        .where('status', 'is', null);
      const { numUpdatedRows } = await (
        from === null ? query.where('worker', 'is', null) : query.where('worker', '=', from)
      ).executeTakeFirst();
      return numUpdatedRows > 0n;
    },
    async settle({ accountId, key, worker }, answer) {
      await db
        .updateTable('idempotency_keys')
        .set({
          worker: null,
          status: answer?.status ?? null,
          body: answer?.body ?? null,
          location: answer?.location ?? null,
        })
        .where('account_id', '=', accountId)
        .where('key', '=', key)
        .where('worker', '=', worker)
        .execute();
    },
    async prune(before) {
      const { numDeletedRows } = await db
        .deleteFrom('idempotency_keys')
        .where('created_at', '<', before)
        .executeTakeFirst();
      return Number(numDeletedRows);
    },
  };
}

function toIdempotentRequest(row: Selectable<IdempotencyKeysTable>): IdempotentRequest {
  const { status, body, location } = row;
  return {
    accountId: row.account_id,
    key: row.key,
    fingerprint: row.fingerprint,
    secret: row.secret,
    worker: row.worker,
    answer: status === null ? null : { status, body: body ?? '', location },
    createdAt: row.created_at,
  };
}
