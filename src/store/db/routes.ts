import type { Kysely, Selectable } from 'kysely';
import { parseId, type AccountId, type RouteId } from '../../base/ids.ts';
import { notFound } from '../../model/failure.ts';
import type { Route, RoutePatch } from '../../model/route.ts';
import type { Routes } from '../store.ts';
import { fromJsonOrNull, toFlag, toJsonOrNull } from './columns.ts';
import { orTaken, transact, type Engine } from './engine.ts';
import { addEvent } from './events.ts';
import { pageStart } from './page.ts';
import type { RoutesTable, Tables } from './tables.ts';

/** The routes' table behind its interface. */
export function routes(engine: Engine): Routes {
  const { db, clock } = engine;
  return {
    create: (route, event) =>
      orTaken({ routes_subdomain: 'subdomain', routes_domain: 'domain' }, () =>
        transact(engine, async (trx) => {
          const { vmId, accountId } = route;
          const vm = await trx
            .selectFrom('vms')
            .select('account_id')
            .where('id', '=', vmId)
            .executeTakeFirst();
          if (vm?.account_id !== accountId) throw notFound('vm', vmId);
          const now = clock.now();
          const row = await trx
            .insertInto('routes')
            .values({
              id: route.id,
              account_id: accountId,
              vm_id: vmId,
              subdomain: route.subdomain,
              domain: route.domain,
              target_port: route.targetPort,
              auto_wake: toFlag(route.autoWake),
              wake: toJsonOrNull(route.wake),
              created_at: now,
              updated_at: now,
            })
            .returningAll()
            .executeTakeFirstOrThrow();
          await addEvent(engine, trx, event);
          return toRoute(row);
        }),
      ),
    get: (accountId, id) => get(db, accountId, id),
    async byName({ subdomain, domain }) {
      const found = db.selectFrom('routes').selectAll();
      const row = await (
        subdomain === null ? found.where('domain', '=', domain) : found.where('subdomain', '=', subdomain)
      ).executeTakeFirst();
      return row ? toRoute(row) : null;
    },
    async list({ accountId, vmId }, page) {
      let query = db.selectFrom('routes').selectAll();
      if (accountId !== undefined) query = query.where('account_id', '=', accountId);
      const visible = query;
      const start = await pageStart(page, async (after) => {
        const id = parseId('rt', after);
        return id && visible.where('id', '=', id).executeTakeFirst();
      });
      if (vmId !== undefined) query = query.where('vm_id', '=', vmId);
      const rows = await query.where('seq', '<', start).orderBy('seq', 'desc').limit(page.limit).execute();
      return rows.map(toRoute);
    },
    async update(accountId, id, patch) {
      const columns = patchColumns(patch);
      if (Object.keys(columns).length > 0)
        await db
          .updateTable('routes')
          .set({ ...columns, updated_at: clock.now() })
          .where('account_id', '=', accountId)
          .where('id', '=', id)
          .execute();
      return get(db, accountId, id);
    },
    remove: (accountId, id, event) =>
      transact(engine, async (trx) => {
        const { numDeletedRows } = await trx
          .deleteFrom('routes')
          .where('account_id', '=', accountId)
          .where('id', '=', id)
          .executeTakeFirst();
        if (numDeletedRows === 0n) return false;
        await addEvent(engine, trx, event);
        return true;
      }),
  };
}

async function get(db: Kysely<Tables>, accountId: AccountId, id: RouteId): Promise<Route | null> {
  const row = await db
    .selectFrom('routes')
    .selectAll()
    .where('account_id', '=', accountId)
    .where('id', '=', id)
    .executeTakeFirst();
  return row ? toRoute(row) : null;
}

function patchColumns({ targetPort, autoWake, wake }: RoutePatch) {
  return {
    ...(targetPort === undefined ? {} : { target_port: targetPort }),
    ...(autoWake === undefined ? {} : { auto_wake: toFlag(autoWake) }),
    ...(wake === undefined ? {} : { wake: toJsonOrNull(wake) }),
  };
}

function toRoute(row: Selectable<RoutesTable>): Route {
  const { subdomain, domain } = row;
  const rest = {
    id: row.id,
    accountId: row.account_id,
    vmId: row.vm_id,
    targetPort: row.target_port,
    autoWake: row.auto_wake === 1,
    wake: fromJsonOrNull(row.wake),
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  };
  if (subdomain !== null) return { ...rest, subdomain, domain: null };
  if (domain !== null) return { ...rest, subdomain: null, domain };
  throw new Error(`route ${row.id} has no name`);
}
