import type { Kysely, Selectable } from 'kysely';
import { parseTemplateId, type AccountId, type ImageId, type TemplateId } from '../../base/ids.ts';
import { invalid } from '../../model/failure.ts';
import type { Template } from '../../model/records.ts';
import type { Templates } from '../store.ts';
import { fromJson, fromJsonOrNull, toJson, toJsonOrNull } from './columns.ts';
import { orTaken, transact, type Engine } from './engine.ts';
import { accountOfImage, SHARED_ACCOUNT } from './images.ts';
import { pageStart } from './page.ts';
import type { Tables, TemplatesTable } from './tables.ts';
import { policyOf } from './vm-row.ts';
import { Violation } from './violation.ts';

/** The templates' table behind its interface. */
export function templates(engine: Engine): Templates {
  const { db, clock } = engine;
  return {
    create: (template) =>
      orTaken({ templates_id: 'id' }, () =>
        transact(engine, async (trx) => {
          const now = clock.now();
          const row = await trx
            .insertInto('templates')
            .values({
              account_id: template.accountId,
              id: template.id,
              description: template.description,
              ...(await imageColumns(trx, template.accountId, template.imageId)),
              vcpu_count: template.vcpuCount,
              mem_mib: template.memMib,
              disk_mib: template.diskMib,
              boot_args: template.bootArgs,
              idle: toJsonOrNull(template.idle),
              labels: toJson(template.labels),
              user_data: toJsonOrNull(template.userData),
              created_at: now,
              updated_at: now,
            })
            .returningAll()
            .executeTakeFirstOrThrow();
          return toTemplate(row);
        }),
      ),
    async get(accountIds, id) {
      const found = await seen(db, accountIds).where('templates.id', '=', id).executeTakeFirst();
      return found ? toTemplate(found) : null;
    },
    async list(accountIds, page) {
      const start = await pageStart(page, async (after) => {
        const id = parseTemplateId(after);
        return id && seen(db, accountIds).where('templates.id', '=', id).executeTakeFirst();
      });
      const rows = await seen(db, accountIds)
        .where('templates.seq', '<', start)
        .orderBy('templates.seq', 'desc')
        .limit(page.limit)
        .execute();
      return rows.map(toTemplate);
    },
    update: (accountId, id, patch) =>
      transact(engine, async (trx) => {
        const row = await trx
          .updateTable('templates')
          .set({
            ...(patch.description === undefined ? {} : { description: patch.description }),
            ...(patch.imageId === undefined ? {} : await imageColumns(trx, accountId, patch.imageId)),
            ...(patch.vcpuCount === undefined ? {} : { vcpu_count: patch.vcpuCount }),
            ...(patch.memMib === undefined ? {} : { mem_mib: patch.memMib }),
            ...(patch.diskMib === undefined ? {} : { disk_mib: patch.diskMib }),
            ...(patch.bootArgs === undefined ? {} : { boot_args: patch.bootArgs }),
            ...(patch.idle === undefined ? {} : { idle: toJsonOrNull(patch.idle) }),
            ...(patch.labels === undefined ? {} : { labels: toJson(patch.labels) }),
            ...(patch.userData === undefined ? {} : { user_data: toJsonOrNull(patch.userData) }),
            updated_at: clock.now(),
          })
          .where('account_id', '=', accountId)
          .where('id', '=', id)
          .returningAll()
          .executeTakeFirst();
        return row ? toTemplate(row) : null;
      }),
    async remove(accountId, id) {
      try {
        const { numDeletedRows } = await db
          .deleteFrom('templates')
          .where('account_id', '=', accountId)
          .where('id', '=', id)
          .executeTakeFirst();
        return { removed: numDeletedRows > 0n, vms: [] };
      } catch (error) {
        if (!(error instanceof Violation) || error.kind !== 'foreign') throw error;
      }
      const vms = await db
        .selectFrom('vms')
        .select('id')
        .where('template_account_id', '=', accountId)
        .where('template_id', '=', id)
        .orderBy('seq')
        .execute();
      return { removed: false, vms: vms.map((vm) => vm.id) };
    },
  };
}

/** The image of a template as its columns have it. Throws `invalid_request` naming image_id when there is none. */
async function imageColumns(
  trx: Kysely<Tables>,
  accountId: AccountId,
  imageId: ImageId | null,
): Promise<{ image_account_id: AccountId | null; image_id: ImageId | null }> {
  if (imageId === null) return { image_account_id: null, image_id: null };
  const owner = await accountOfImage(trx, accountId, imageId);
  if (owner === undefined) throw invalid('image_id', `There is no image "${imageId}" (any more).`);
  return { image_account_id: owner, image_id: imageId };
}

/** The templates some accounts see: of two with one id, that of the account named first. */
function seen(db: Kysely<Tables>, accountIds: readonly AccountId[]) {
  return db
    .selectFrom('templates')
    .selectAll('templates')
    .where((eb) =>
      eb.or(
        accountIds.map((accountId, place) => {
          const earlier = accountIds.slice(0, place);
          const own = eb('templates.account_id', '=', accountId);
          if (earlier.length === 0) return own;
          return eb.and([
            own,
            eb.not(
              eb.exists(
                eb
                  .selectFrom('templates as first')
                  .select('first.id')
                  .whereRef('first.id', '=', 'templates.id')
                  .where('first.account_id', 'in', earlier),
              ),
            ),
          ]);
        }),
      ),
    );
}

/** The account of the template that an account means by an id: its own, or else the shared one. undefined: there is none. */
export async function accountOfTemplate(
  db: Kysely<Tables>,
  accountId: AccountId,
  id: TemplateId,
): Promise<AccountId | undefined> {
  const found = await db
    .selectFrom('templates')
    .innerJoin('accounts', 'accounts.id', 'templates.account_id')
    .select('templates.account_id')
    .where('templates.id', '=', id)
    .where((eb) => eb.or([eb('accounts.id', '=', accountId), eb('accounts.name', '=', SHARED_ACCOUNT)]))
    .orderBy((eb) => eb.case().when('accounts.id', '=', accountId).then(0).else(1).end())
    .executeTakeFirst();
  return found?.account_id;
}

function toTemplate(row: Selectable<TemplatesTable>): Template {
  return {
    accountId: row.account_id,
    id: row.id,
    description: row.description,
    imageId: row.image_id,
    vcpuCount: row.vcpu_count,
    memMib: row.mem_mib,
    diskMib: row.disk_mib,
    userData: fromJsonOrNull(row.user_data),
    bootArgs: row.boot_args,
    idle: policyOf(row.idle),
    labels: fromJson(row.labels),
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  };
}
