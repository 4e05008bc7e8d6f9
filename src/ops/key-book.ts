import type { Clock } from '../base/clock.ts';
import type { ApiKey } from '../model/records.ts';
import type { Keys } from '../store/store.ts';

/** How long a key that was read is believed: one that another host revoked opens nothing a second later. */
const BELIEVED_MS = 500;
/** Keys that are remembered, those of the last half second; more are read again. */
const MOST = 10_000;

/**
 * The keys of a store, those just used remembered: most requests come with the key of the one before. What is revoked here is
 * forgotten at once.
 */
export function keyBook(keys: Keys, clock: Pick<Clock, 'steady'>): Keys {
  const known = new Map<string, { readonly key: ApiKey; readonly until: number }>();
  let revocations = 0;
  const forget = (id: ApiKey['id']): void => {
    revocations++;
    for (const [hash, { key }] of known) if (key.id === id) known.delete(hash);
  };
  return {
    ...keys,
    async byHash(hash) {
      const found = known.get(hash);
      if (found && clock.steady() < found.until) return found.key;
      const [from, before] = [clock.steady(), revocations];
      const key = await keys.byHash(hash);
      known.delete(hash);
      if (known.size >= MOST) known.clear();
      // What was read while one was revoked may be from before.
      if (key && before === revocations) known.set(hash, { key, until: from + BELIEVED_MS });
      return key;
    },
    async revoke(accountId, id) {
      const revoked = await keys.revoke(accountId, id);
      forget(id);
      return revoked;
    },
    async used(id, at) {
      await keys.used(id, at);
      for (const [hash, entry] of known)
        if (entry.key.id === id) known.set(hash, { ...entry, key: { ...entry.key, lastUsedAt: at } });
    },
  };
}
