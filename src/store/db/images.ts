import type { Kysely, Selectable } from 'kysely';
import { parseImageId, type AccountId, type ImageId } from '../../base/ids.ts';
import type { Image } from '../../model/records.ts';
import type { Images } from '../store.ts';
import { toFlag } from './columns.ts';
import { orTaken, type Engine } from './engine.ts';
import { pageStart } from './page.ts';
import type { ImagesTable, Tables } from './tables.ts';
import { Violation } from './violation.ts';

/** The account whose images and templates every account sees. */
export const SHARED_ACCOUNT = 'default';

/** The images' table behind its interface. */
export function images(engine: Engine): Images {
  const { db, clock } = engine;
  const row = (image: Omit<Image, 'createdAt'>) => ({
    kernel_path: image.kernelPath,
    vmlinux_path: image.vmlinuxPath,
    initrd_path: image.initrdPath,
    rootfs_path: image.rootfsPath,
    rootfs_format: image.rootfsFormat,
    boot_args: image.bootArgs,
    default_user: image.defaultUser,
    agent: image.agent === null ? null : toFlag(image.agent),
    size_bytes: image.sizeBytes,
    sha256: image.sha256,
  });
  const insert = (image: Omit<Image, 'createdAt'>) =>
    db
      .insertInto('images')
      .values({ account_id: image.accountId, id: image.id, ...row(image), created_at: clock.now() });
  return {
    create: (image) =>
      orTaken({ images_id: 'id' }, async () =>
        toImage(await insert(image).returningAll().executeTakeFirstOrThrow()),
      ),
    async put(image) {
      const made = await insert(image)
        .onConflict((conflict) => conflict.columns(['account_id', 'id']).doUpdateSet(row(image)))
        .returningAll()
        .executeTakeFirstOrThrow();
      return toImage(made);
    },
    async get(accountIds, id) {
      const found = await seen(db, accountIds).where('images.id', '=', id).executeTakeFirst();
      return found ? toImage(found) : null;
    },
    async list(accountIds, page) {
      const start = await pageStart(page, async (after) => {
        const id = parseImageId(after);
        return id && seen(db, accountIds).where('images.id', '=', id).executeTakeFirst();
      });
      const rows = await seen(db, accountIds)
        .where('images.seq', '<', start)
        .orderBy('images.seq', 'desc')
        .limit(page.limit)
        .execute();
      return rows.map(toImage);
    },
    async remove(accountId, id) {
      const removed = await removeUnused(engine, accountId, id);
      if (removed) return { removed, vms: [], templates: [] };
      const [vms, templates] = await Promise.all([
        db
          .selectFrom('vms')
          .select('id')
          .where('image_account_id', '=', accountId)
          .where('image_id', '=', id)
          .orderBy('seq')
          .execute(),
        db
          .selectFrom('templates')
          .select('id')
          .where('image_account_id', '=', accountId)
          .where('image_id', '=', id)
          .orderBy('seq')
          .execute(),
      ]);
      return { removed, vms: vms.map((vm) => vm.id), templates: templates.map((one) => one.id) };
    },
    async setSha256(accountId, id, sha256) {
      await db
        .updateTable('images')
        .set({ sha256 })
        .where('account_id', '=', accountId)
        .where('id', '=', id)
        .execute();
    },
  };
}

/** The images some accounts see: of two with one id, that of the account named first. */
function seen(db: Kysely<Tables>, accountIds: readonly AccountId[]) {
  return db
    .selectFrom('images')
    .selectAll('images')
    .where((eb) =>
      eb.or(
        accountIds.map((accountId, place) => {
          const earlier = accountIds.slice(0, place);
          const own = eb('images.account_id', '=', accountId);
          if (earlier.length === 0) return own;
          return eb.and([
            own,
            eb.not(
              eb.exists(
                eb
                  .selectFrom('images as first')
                  .select('first.id')
                  .whereRef('first.id', '=', 'images.id')
                  .where('first.account_id', 'in', earlier),
              ),
            ),
          ]);
        }),
      ),
    );
}

/** Removes an image nothing names. The foreign keys decide: who names it in this very moment is heard too. */
async function removeUnused({ db }: Engine, accountId: AccountId, id: ImageId): Promise<boolean> {
  try {
    const { numDeletedRows } = await db
      .deleteFrom('images')
      .where('account_id', '=', accountId)
      .where('id', '=', id)
      .executeTakeFirst();
    return numDeletedRows > 0n;
  } catch (error) {
    if (error instanceof Violation && error.kind === 'foreign') return false;
    throw error;
  }
}

/**
 * The account of the image that an account means by an id: its own, or else the shared one. undefined: there is none.
 */
export async function accountOfImage(
  db: Kysely<Tables>,
  accountId: AccountId,
  id: ImageId,
): Promise<AccountId | undefined> {
  const found = await db
    .selectFrom('images')
    .innerJoin('accounts', 'accounts.id', 'images.account_id')
    .select('images.account_id')
    .where('images.id', '=', id)
    .where((eb) => eb.or([eb('accounts.id', '=', accountId), eb('accounts.name', '=', SHARED_ACCOUNT)]))
    .orderBy((eb) => eb.case().when('accounts.id', '=', accountId).then(0).else(1).end())
    .executeTakeFirst();
  return found?.account_id;
}

function toImage(row: Selectable<ImagesTable>): Image {
  return {
    accountId: row.account_id,
    id: row.id,
    kernelPath: row.kernel_path,
    vmlinuxPath: row.vmlinux_path,
    initrdPath: row.initrd_path,
    rootfsPath: row.rootfs_path,
    rootfsFormat: row.rootfs_format,
    bootArgs: row.boot_args,
    defaultUser: row.default_user,
    agent: row.agent === null ? null : row.agent === 1,
    sizeBytes: row.size_bytes,
    sha256: row.sha256,
    createdAt: row.created_at,
  };
}
