import type { Selectable } from 'kysely';
import { newId, parseId } from '../../base/ids.ts';
import type { ApiKey } from '../../model/records.ts';
import type { Keys } from '../store.ts';
import { fromJson, toJson } from './columns.ts';
import type { Engine } from './engine.ts';
import { pageStart } from './page.ts';
import { prepared } from './prepared.ts';
import type { KeysTable } from './tables.ts';

const withHash = prepared((db, { hash }: { hash: string }) =>
  db.selectFrom('api_keys').selectAll().where('hash', '=', hash),
);

/** The API keys' table behind its interface; it holds hashes, never a secret. */
export function keys({ db, clock }: Engine): Keys {
  return {
    async create({ accountId, name, scopes, prefix, expiresAt, hash }) {
      const row = await db
        .insertInto('api_keys')
        .values({
          id: newId('key'),
          account_id: accountId,
          name,
          scopes: toJson(scopes),
          prefix,
          hash,
          expires_at: expiresAt,
          revoked_at: null,
          last_used_at: null,
          created_at: clock.now(),
        })
        .returningAll()
        .executeTakeFirstOrThrow();
      return toKey(row);
    },
    async byHash(hash) {
      const [row] = await withHash(db, { hash });
      return row ? toKey(row) : null;
    },
    async get(accountId, id) {
      const row = await db
        .selectFrom('api_keys')
        .selectAll()
        .where('account_id', '=', accountId)
        .where('id', '=', id)
        .executeTakeFirst();
      return row ? toKey(row) : null;
    },
    async list(accountId, page) {
      const start = await pageStart(page, async (after) => {
        const id = parseId('key', after);
        if (!id) return undefined;
        return db
          .selectFrom('api_keys')
          .select('seq')
          .where('account_id', '=', accountId)
          .where('id', '=', id)
          .executeTakeFirst();
      });
      const rows = await db
        .selectFrom('api_keys')
        .selectAll()
        .where('account_id', '=', accountId)
        .where('seq', '<', start)
        .orderBy('seq', 'desc')
        .limit(page.limit)
        .execute();
      return rows.map(toKey);
    },
    async revoke(accountId, id) {
      const row = await db
        .updateTable('api_keys')
        .set((eb) => ({ revoked_at: eb.fn.coalesce('revoked_at', eb.val(clock.now())) }))
        .where('account_id', '=', accountId)
        .where('id', '=', id)
        .returningAll()
        .executeTakeFirst();
      return row ? toKey(row) : null;
    },
    async used(id, at) {
      await db
        .updateTable('api_keys')
        .set({ last_used_at: at })
        .where('id', '=', id)
        .where((eb) => eb.or([eb('last_used_at', 'is', null), eb('last_used_at', '<', at)]))
        .execute();
    },
  };
}

function toKey(row: Selectable<KeysTable>): ApiKey {
  return {
    id: row.id,
    accountId: row.account_id,
    name: row.name,
    scopes: fromJson(row.scopes),
    prefix: row.prefix,
    expiresAt: row.expires_at,
    revokedAt: row.revoked_at,
    lastUsedAt: row.last_used_at,
    createdAt: row.created_at,
  };
}
