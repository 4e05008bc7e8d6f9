import type { Selectable, Transaction } from 'kysely';
import { newId, parseId, type AccountId } from '../../base/ids.ts';
import type { Account } from '../../model/records.ts';
import type { Accounts } from '../store.ts';
import { fromJson, toJson } from './columns.ts';
import { orTaken, type Engine } from './engine.ts';
import { pageStart } from './page.ts';
import type { AccountsTable, Tables } from './tables.ts';

/** The accounts table behind its interface. */
export function accounts({ db, clock }: Engine): Accounts {
  return {
    create: ({ name, quotas }) =>
      orTaken({ accounts_name: 'name', accounts_id: 'id' }, async () =>
        toAccount(
          await db
            .insertInto('accounts')
            .values({ id: newId('acct'), name, quotas: toJson(quotas), created_at: clock.now() })
            .returningAll()
            .executeTakeFirstOrThrow(),
        ),
      ),
    async get(id) {
      const row = await db.selectFrom('accounts').selectAll().where('id', '=', id).executeTakeFirst();
      return row ? toAccount(row) : null;
    },
    async byName(name) {
      const row = await db.selectFrom('accounts').selectAll().where('name', '=', name).executeTakeFirst();
      return row ? toAccount(row) : null;
    },
    async list(page) {
      const start = await pageStart(page, async (after) => {
        const id = parseId('acct', after);
        if (!id) return undefined;
        return db.selectFrom('accounts').select('seq').where('id', '=', id).executeTakeFirst();
      });
      const rows = await db
        .selectFrom('accounts')
        .selectAll()
        .where('seq', '<', start)
        .orderBy('seq', 'desc')
        .limit(page.limit)
        .execute();
      return rows.map(toAccount);
    },
    async update(id, { name, quotas }) {
      if (name === undefined && quotas === undefined) return this.get(id);
      const row = await orTaken({ accounts_name: 'name' }, () =>
        db
          .updateTable('accounts')
          .set({
            ...(name === undefined ? {} : { name }),
            ...(quotas === undefined ? {} : { quotas: toJson(quotas) }),
          })
          .where('id', '=', id)
          .returningAll()
          .executeTakeFirst(),
      );
      return row ? toAccount(row) : null;
    },
  };
}

/**
 * Holds an account's row until the transaction ends, so that what is counted in it stays counted. False: there is none.
 * Writing a row to itself locks it on both engines.
 */
export async function lockAccount(trx: Transaction<Tables>, id: AccountId): Promise<boolean> {
  const { numUpdatedRows } = await trx
    .updateTable('accounts')
    .set((row) => ({ created_at: row.ref('created_at') }))
    .where('id', '=', id)
    .executeTakeFirst();
  return numUpdatedRows > 0n;
}

function toAccount(row: Selectable<AccountsTable>): Account {
  return { id: row.id, name: row.name, quotas: fromJson(row.quotas), createdAt: row.created_at };
}
