import type { Kysely, Selectable } from 'kysely';
import type { Clock } from '../../base/clock.ts';
import type { LayerId } from '../../base/ids.ts';
import type { Layer } from '../../model/records.ts';
import type { Layers } from '../store.ts';
import { toFlag } from './columns.ts';
import { orTaken, type Engine } from './engine.ts';
import { prepared } from './prepared.ts';
import type { LayersTable, Tables } from './tables.ts';
import { Violation } from './violation.ts';

const byId = prepared((db, { id }: { id: LayerId }) =>
  db.selectFrom('layers').selectAll().where('id', '=', id),
);

/** The layers' table behind its interface. */
export function layers({ db, clock }: Engine): Layers {
  const get = async (id: LayerId): Promise<Layer | null> => {
    const [row] = await byId(db, { id });
    return row ? toLayer(row) : null;
  };
  return {
    create: (layer) => orTaken({ layers_id: 'id' }, () => insertLayer(db, clock, layer)),
    get,
    async chain(id) {
      // A layer's parent was there before it, so there is an end.
      const chain: Layer[] = [];
      for (let next = await get(id); next; next = next.parentId === null ? null : await get(next.parentId)) {
        chain.push(next);
      }
      return chain;
    },
    async put(id, { path, frozen }) {
      await db
        .updateTable('layers')
        .set({ path, frozen: toFlag(frozen) })
        .where('id', '=', id)
        .execute();
    },
    async removeIfUnused(id) {
      try {
        await db
          .deleteFrom('layers')
          .where('id', '=', id)
          .where((eb) =>
            eb.not(eb.exists(eb.selectFrom('vms').select('vms.id').where('vms.layer_id', '=', id))),
          )
          .where((eb) =>
            eb.not(eb.exists(eb.selectFrom('vms').select('vms.id').where('vms.memory_layer_id', '=', id))),
          )
          .where((eb) =>
            eb.not(
              eb.exists(
                eb
                  .selectFrom('snapshots')
                  .select('snapshots.id')
                  .where((or) =>
                    or.or([
                      or('disk_layer_id', '=', id),
                      or('memory_layer_id', '=', id),
                      or('state_layer_id', '=', id),
                    ]),
                  ),
              ),
            ),
          )
          .where((eb) =>
            eb.not(
              eb.exists(
                eb.selectFrom('layers as above').select('above.id').where('above.parent_id', '=', id),
              ),
            ),
          )
          .execute();
      } catch (error) {
        // Somebody began to use it in this very moment.
        if (error instanceof Violation && error.kind === 'foreign') return false;
        throw error;
      }
      return (await get(id)) === null;
    },
    async ofHost(hostId) {
      const rows = await db
        .selectFrom('layers')
        .selectAll()
        .where('host_id', '=', hostId)
        .orderBy('seq', 'desc')
        .execute();
      return rows.map(toLayer);
    },
  };
}

/** Writes the row of a layer. */
export async function insertLayer(
  db: Kysely<Tables>,
  clock: Clock,
  layer: Omit<Layer, 'createdAt'>,
): Promise<Layer> {
  return toLayer(
    await db
      .insertInto('layers')
      .values({
        id: layer.id,
        host_id: layer.hostId,
        kind: layer.kind,
        path: layer.path,
        format: layer.format,
        parent_id: layer.parentId,
        image_account_id: layer.imageAccountId,
        image_id: layer.imageId,
        frozen: toFlag(layer.frozen),
        created_at: clock.now(),
      })
      .returningAll()
      .executeTakeFirstOrThrow(),
  );
}

function toLayer(row: Selectable<LayersTable>): Layer {
  return {
    id: row.id,
    hostId: row.host_id,
    kind: row.kind,
    path: row.path,
    format: row.format,
    parentId: row.parent_id,
    imageAccountId: row.image_account_id,
    imageId: row.image_id,
    frozen: row.frozen === 1,
    createdAt: row.created_at,
  };
}
