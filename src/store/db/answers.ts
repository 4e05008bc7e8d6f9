import type { Selectable } from 'kysely';
import type { Answers, Repeatable } from '../answers.ts';
import { transact, type Engine } from './engine.ts';
import type { AnswersTable } from './tables.ts';

/** The table of answers behind its interface. */
export function answers(engine: Engine): Answers {
  const { db, clock } = engine;
  return {
    claim: ({ accountId, key, fingerprint, secret, worker }, since) =>
      transact(engine, async (trx) => {
        await trx
          .deleteFrom('answers')
          .where('account_id', '=', accountId)
          .where('key', '=', key)
          .where('created_at', '<=', since)
          .execute();
        await trx
          .insertInto('answers')
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
          .selectFrom('answers')
          .selectAll()
          .where('account_id', '=', accountId)
          .where('key', '=', key)
          .executeTakeFirstOrThrow();
        return toRepeatable(row);
      }),
    async takeUp({ accountId, key }, from, worker) {
      const query = db
        .updateTable('answers')
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
        .updateTable('answers')
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
        .deleteFrom('answers')
        .where('created_at', '<', before)
        .executeTakeFirst();
      return Number(numDeletedRows);
    },
  };
}

function toRepeatable(row: Selectable<AnswersTable>): Repeatable {
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
