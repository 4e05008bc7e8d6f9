import { hash, randomBytes } from 'node:crypto';
import type { Clock } from '../base/clock.ts';
import { parseId, type AccountId } from '../base/ids.ts';
import { errorFields, type Logger } from '../base/logger.ts';
import { Failure, invalid, notFound } from '../model/failure.ts';
import { effectiveLimits } from '../model/quota.ts';
import { SCOPES, type Account, type ApiKey, type Quotas, type Scope } from '../model/records.ts';
import { Taken, type Store } from '../store/store.ts';
import type { Caller, Hatch } from './hatch.ts';
import type { Settings } from './settings.ts';

interface Deps {
  readonly store: Store;
  readonly clock: Clock;
  readonly log: Logger;
  readonly settings: Pick<Settings, 'limits' | 'sharedAccountId'>;
}

/** A key's last use is written at most this often. */
const USED_EVERY_MS = 60_000;
const NO_QUOTAS: Quotas = { vms: null, vcpus: null, memMib: null };

/** Makes a key's secret: 256 random bits, shown once; the store keeps only its hash. */
export function newSecret(): { readonly secret: string; readonly hash: string; readonly prefix: string } {
  const secret = `hatch_${randomBytes(32).toString('base64url')}`;
  return { secret, hash: hashOf(secret), prefix: secret.slice(0, 12) };
}

function hashOf(secret: string): string {
  return hash('sha256', secret, 'hex');
}

/**
 * Makes account `default` if there is none and, while no key was ever made in it, one of every scope. Its secret is given to
 * `keep` before its row is there: a crash in between costs a secret that opens nothing, never the only way in.
 */
export async function ensureDefaultAccount(
  { store }: Pick<Deps, 'store'>,
  keep: (secret: string) => Promise<void> = async () => undefined,
): Promise<{ readonly account: Account; readonly secret: string | undefined }> {
  const account = (await store.accounts.byName('default')) ?? (await makeDefault(store));
  if ((await store.keys.list(account.id, { limit: 1 })).length > 0) return { account, secret: undefined };
  const made = newSecret();
  await keep(made.secret);
  await store.keys.create({
    accountId: account.id,
    name: 'admin',
    scopes: SCOPES,
    prefix: made.prefix,
    expiresAt: null,
    hash: made.hash,
  });
  return { account, secret: made.secret };
}

async function makeDefault(store: Store): Promise<Account> {
  try {
    return await store.accounts.create({ name: 'default', quotas: NO_QUOTAS });
  } catch (error) {
    // Another daemon on the same database was faster.
    const theirs = error instanceof Taken ? await store.accounts.byName('default') : null;
    if (!theirs) throw error;
    return theirs;
  }
}

/** Makes a key in an account and gives its secret, this once. */
export async function addKey(
  { store }: Pick<Deps, 'store'>,
  accountId: AccountId,
  name: string,
  scopes: readonly Scope[],
  expiresAt: number | null = null,
): Promise<{ readonly key: ApiKey; readonly secret: string }> {
  const { secret, hash, prefix } = newSecret();
  return { key: await store.keys.create({ accountId, name, scopes, prefix, expiresAt, hash }), secret };
}

/** Whether a key opens anything now: there is one, neither revoked nor expired. */
export function isGood(key: ApiKey | null, clock: Pick<Clock, 'now'>): key is ApiKey {
  return key !== null && key.revokedAt === null && (key.expiresAt === null || key.expiresAt > clock.now());
}

/** The accounts part of Hatch. */
export function accounts({ store, clock, log, settings }: Deps): Hatch['accounts'] {
  return {
    async authenticate(secret) {
      if (!secret.startsWith('hatch_') || secret.length > 100) return undefined;
      const key = await store.keys.byHash(hashOf(secret));
      const now = clock.now();
      if (!isGood(key, clock)) return undefined;
      if (key.lastUsedAt === null || now - key.lastUsedAt >= USED_EVERY_MS) {
        // On a full disk one must still be let in, to make room.
        await store.keys
          .used(key.id, now)
          .catch((error: unknown) =>
            log.warn({ key: key.id, ...errorFields(error) }, 'could not note a key’s use'),
          );
      }
      return { accountId: key.accountId, keyId: key.id, scopes: new Set(key.scopes) };
    },
    isGood: async ({ accountId, keyId }) => isGood(await store.keys.get(accountId, keyId), clock),
    async own(caller) {
      const account = await store.accounts.get(caller.accountId);
      if (!account) throw notFound('account', caller.accountId);
      return {
        account,
        limits: effectiveLimits(account.quotas, settings.limits),
        use: await store.vms.use(account.id),
      };
    },
    async create(_caller, { name, quotas }) {
      return orTaken(name, () => store.accounts.create({ name, quotas: { ...NO_QUOTAS, ...quotas } }));
    },
    list: (_caller, page) => store.accounts.list(page),
    async patch(_caller, id, { name, quotas }) {
      const account = await accountNamed(store, id);
      // The next start finds it by its name, and would make another one, and another admin key.
      if (account.id === settings.sharedAccountId && name !== undefined && name !== account.name)
        throw invalid('name', `"name" of the server's own account stays "${account.name}".`);
      const patched = await orTaken(name ?? '', () =>
        store.accounts.update(account.id, {
          ...(name === undefined ? {} : { name }),
          ...(quotas === undefined ? {} : { quotas: { ...account.quotas, ...quotas } }),
        }),
      );
      if (!patched) throw notFound('account', id);
      return patched;
    },
  };
}

/** The keys part of Hatch. */
export function keys({ store, clock }: Pick<Deps, 'store' | 'clock'>): Hatch['keys'] {
  return {
    async create(caller, { name, scopes, expiresAt, accountId }) {
      const missing = scopes.find((scope) => !caller.scopes.has(scope));
      if (missing) {
        throw new Failure('forbidden', `A key cannot give what it does not have: scope "${missing}".`, {
          details: { scope: missing },
        });
      }
      if (expiresAt !== undefined && expiresAt <= clock.now())
        throw invalid('expires_at', '"expires_at" must lie in the future.');
      const owner = await accountFor(store, caller, accountId);
      return addKey({ store }, owner, name, scopes, expiresAt ?? null);
    },
    list: async (caller, page, accountId) =>
      store.keys.list(await accountFor(store, caller, accountId), page),
    async revoke(caller, id, accountId) {
      const parsed = parseId('key', id);
      const owner = await accountFor(store, caller, accountId);
      const revoked = parsed && (await store.keys.revoke(owner, parsed));
      if (!revoked) throw notFound('key', id);
    },
  };
}

/** The account whose keys are meant: the caller's own, or for an operator any. */
async function accountFor(store: Store, caller: Caller, accountId: string | undefined): Promise<AccountId> {
  if (accountId === undefined || accountId === caller.accountId) return caller.accountId;
  if (!caller.scopes.has('operator'))
    throw new Failure('forbidden', 'Only an operator has to do with keys of another account.', {
      details: { scope: 'operator' },
    });
  const named = parseId('acct', accountId);
  const other = named && (await store.accounts.get(named));
  if (!other)
    throw invalid('account_id', `There is no account "${accountId}"; \`GET /accounts\` lists them.`);
  return other.id;
}

async function accountNamed(store: Store, idOrName: string): Promise<Account> {
  const id = parseId('acct', idOrName);
  const found = id ? await store.accounts.get(id) : await store.accounts.byName(idOrName);
  if (!found) throw notFound('account', idOrName);
  return found;
}

async function orTaken<T>(name: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Taken)) throw error;
    throw new Failure('already_exists', `There is an account "${name}" already.`, {
      details: { field: 'name', value: name },
    });
  }
}
