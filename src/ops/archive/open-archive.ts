import { parseId } from '../../base/ids.ts';
import { BlobError } from '../../store/blobs/blob-error.ts';
import {
  accountKeys,
  newAccountSecret,
  rewrapAccountSecret,
  wrappedBy,
  type AccountKeys,
  type KeyRing,
  type MasterKey,
} from '../../store/blobs/keys.ts';
import { openChunkStore } from '../../store/blobs/open.ts';
import type { ThreadPool } from '../../store/blobs/threads/pool.ts';
import type { Store } from '../../store/store.ts';
import { Archive } from './archive.ts';
import type { ArchiveDeps } from './deps.ts';

/**
 * Opens the archive over a home of blobs. `master`: the operator's key, when what is stored is to be encrypted; `pool`: threads that
 * others use too, instead of its own.
 */
export function openArchive({
  pool,
  ...deps
}: Omit<ArchiveDeps, 'chunks' | 'keys'> & {
  readonly master: MasterKey | undefined;
  readonly pool?: ThreadPool;
}): Archive {
  const keys = keyRing(deps.store, deps.master);
  return new Archive({ ...deps, keys, chunks: openChunkStore({ home: deps.home, keys, pool }) });
}

/** The keys of accounts, made where an account has none yet; a secret from before there was a master key is wrapped by it now. */
export function keyRing({ ledger }: Pick<Store, 'ledger'>, master: MasterKey | undefined): KeyRing {
  const known = new Map<string, AccountKeys>();
  return async (account) => {
    const found = known.get(account);
    if (found) return found;
    const accountId = parseId('acct', account);
    if (!accountId) throw new BlobError('damaged', `"${account.slice(0, 80)}" is no account`);
    let secret = await ledger.secret(accountId, () => newAccountSecret(account, master));
    if (master && wrappedBy(secret) === undefined) {
      const wrapped = rewrapAccountSecret(account, secret, undefined, master);
      // Another daemon may have been faster; what it wrote is as good.
      if (await ledger.changeSecret(accountId, secret, wrapped)) secret = wrapped;
      else secret = await ledger.secret(accountId, () => wrapped);
    }
    const keys = accountKeys(account, secret, master);
    known.set(account, keys);
    return keys;
  };
}
