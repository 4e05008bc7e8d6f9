import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { newId } from '../../base/ids.ts';
import { SCOPES } from '../../model/records.ts';
import { NO_LIMITS } from '../fixtures.ts';
import type { Store } from '../store.ts';
import { fails, isTaken, listsInPages, type Declare } from './support.ts';

/** Hosts, accounts and keys. */
export function accountTests(test: Declare): void {
  test('a host is registered, and again with another boot', async ({ store, clock }) => {
    assert.equal(await store.hosts.get('host-a'), null);
    await store.hosts.register({ id: 'host-a', bootId: 'one' });
    assert.deepEqual(await store.hosts.get('host-a'), { id: 'host-a', bootId: 'one', seenAt: clock.now() });
    await clock.advance(1000);
    await store.hosts.register({ id: 'host-a', bootId: 'two' });
    assert.deepEqual(await store.hosts.get('host-a'), { id: 'host-a', bootId: 'two', seenAt: clock.now() });
  });

  test('an account is made, found by id and name, and changed', async ({ store, clock }) => {
    const quotas = { vms: 3, vcpus: null, memMib: 0 };
    const account = await store.accounts.create({ name: 'team-a', quotas });
    assert.deepEqual(account, { id: account.id, name: 'team-a', quotas, createdAt: clock.now() });
    assert.deepEqual(await store.accounts.get(account.id), account);
    assert.deepEqual(await store.accounts.byName('team-a'), account);
    assert.equal(await store.accounts.get(newId('acct')), null);
    assert.equal(await store.accounts.byName('team-b'), null);
    const renamed = await store.accounts.update(account.id, { name: 'team-b' });
    assert.deepEqual(renamed, { ...account, name: 'team-b' });
    assert.deepEqual((await store.accounts.update(account.id, { quotas: NO_LIMITS }))?.quotas, NO_LIMITS);
    assert.deepEqual(await store.accounts.update(account.id, {}), { ...renamed, quotas: NO_LIMITS });
    assert.equal(await store.accounts.update(newId('acct'), { name: 'x' }), null);
  });

  test('an account name is taken exactly as it is written, by creation and by renaming', async ({
    store,
  }) => {
    const one = await store.accounts.create({ name: 'taken', quotas: NO_LIMITS });
    const other = await store.accounts.create({ name: 'Taken', quotas: NO_LIMITS });
    assert.equal((await store.accounts.byName('Taken'))?.id, other.id);
    await isTaken(store.accounts.create({ name: 'taken', quotas: NO_LIMITS }), 'name');
    await isTaken(store.accounts.update(other.id, { name: 'taken' }), 'name');
    assert.equal((await store.accounts.byName('taken'))?.id, one.id);
    const racers = Array.from({ length: 4 }, () =>
      store.accounts.create({ name: 'raced', quotas: NO_LIMITS }),
    );
    const won = (await Promise.allSettled(racers)).filter((result) => result.status === 'fulfilled');
    assert.equal(won.length, 1);
  });

  test('accounts are listed newest first in pages of any size', async ({ store }) => {
    const before = (await store.accounts.list({ limit: 1000 })).map((account) => account.id);
    const made = [];
    for (let i = 0; i < 5; i++)
      made.push(await store.accounts.create({ name: `listed-${i}`, quotas: NO_LIMITS }));
    const ids = made.map((account) => account.id).toReversed();
    await listsInPages((page) => store.accounts.list(page), [...ids, ...before]);
    await fails(store.accounts.list({ limit: 5, after: newId('acct') }), 'invalid_request');
    const failure = await fails(store.accounts.list({ limit: 5, after: 'nonsense' }), 'invalid_request');
    assert.equal(failure.details['field'], 'after');
  });

  test('a key is found by its hash and its account, used, and revoked once', async ({ store, clock }) => {
    const { accountId, hash } = await holder(store);
    const key = await store.keys.create({
      accountId,
      name: 'laptop',
      scopes: SCOPES,
      prefix: 'hatch_abc',
      expiresAt: clock.now() + 5,
      hash,
    });
    assert.deepEqual(key, {
      id: key.id,
      accountId,
      name: 'laptop',
      scopes: SCOPES,
      prefix: 'hatch_abc',
      expiresAt: clock.now() + 5,
      revokedAt: null,
      lastUsedAt: null,
      createdAt: clock.now(),
    });
    assert.equal(JSON.stringify(key).includes(hash), false);
    assert.deepEqual(await store.keys.byHash(hash), key);
    assert.equal(await store.keys.byHash(hash.toUpperCase()), null);
    await store.keys.used(key.id, 2000);
    await store.keys.used(key.id, 1000);
    assert.equal((await store.keys.get(accountId, key.id))?.lastUsedAt, 2000);
    const revokedAt = clock.now();
    assert.equal((await store.keys.revoke(accountId, key.id))?.revokedAt, revokedAt);
    await clock.advance(1000);
    assert.equal((await store.keys.revoke(accountId, key.id))?.revokedAt, revokedAt);
    assert.equal((await store.keys.byHash(hash))?.revokedAt, revokedAt);
  });

  test("a key is of no use to another account's hands", async ({ store }) => {
    const mine = await holder(store);
    const theirs = await holder(store);
    const key = await store.keys.create({
      ...plain(mine.accountId),
      hash: mine.hash,
    });
    assert.equal(await store.keys.get(theirs.accountId, key.id), null);
    assert.equal(await store.keys.revoke(theirs.accountId, key.id), null);
    assert.deepEqual(await store.keys.list(theirs.accountId, { limit: 10 }), []);
    await fails(store.keys.list(theirs.accountId, { limit: 10, after: key.id }), 'invalid_request');
    assert.equal((await store.keys.get(mine.accountId, key.id))?.revokedAt, null);
  });

  test('keys are listed newest first in pages of any size', async ({ store }) => {
    const { accountId } = await holder(store);
    const ids = [];
    for (let i = 0; i < 6; i++)
      ids.unshift((await store.keys.create({ ...plain(accountId), hash: secretHash() })).id);
    await listsInPages((page) => store.keys.list(accountId, page), ids);
  });

  test('two keys of one hash cannot be', async ({ store }) => {
    const { accountId, hash } = await holder(store);
    await store.keys.create({ ...plain(accountId), hash });
    await assert.rejects(store.keys.create({ ...plain(accountId), hash }), /api_keys_hash/);
  });
}

const plain = (accountId: Awaited<ReturnType<typeof holder>>['accountId']) => ({
  accountId,
  name: 'key',
  scopes: ['read'] as const,
  prefix: 'hatch_abc',
  expiresAt: null,
});

function secretHash(): string {
  return createHash('sha256').update(randomBytes(32)).digest('hex');
}

async function holder(store: Store) {
  const account = await store.accounts.create({ name: newId('acct'), quotas: NO_LIMITS });
  return { accountId: account.id, hash: secretHash() };
}
