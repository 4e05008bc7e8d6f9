import type { Hosts } from '../store.ts';
import type { Engine } from './engine.ts';

/** The hosts table behind its interface. */
export function hosts({ db, clock }: Engine): Hosts {
  return {
    async register({ id, bootId }) {
      const row = { boot_id: bootId, seen_at: clock.now() };
      await db
        .insertInto('hosts')
        .values({ id, ...row })
        .onConflict((conflict) => conflict.column('id').doUpdateSet(row))
        .execute();
    },
    async get(id) {
      const row = await db.selectFrom('hosts').selectAll().where('id', '=', id).executeTakeFirst();
      return row ? { id: row.id, bootId: row.boot_id, seenAt: row.seen_at } : null;
    },
  };
}
