import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { FakeClock, systemClock } from '../base/clock.ts';
import { silent } from '../base/logger.ts';
import { Failure } from '../model/failure.ts';
import { SCOPES } from '../model/records.ts';
import { openStore } from '../store/db/open.ts';
import type { Store } from '../store/store.ts';
import { over } from '../../test/support/fake-world.ts';
import { accounts, addKey, ensureDefaultAccount, keys } from './accounts.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-accounts-'));
});
after(() => rm(folder, { recursive: true, force: true }));

async function withStore(name: string, body: (store: Store) => Promise<void>): Promise<void> {
  const store = await openStore(`sqlite:${join(folder, name)}`, { clock: systemClock, log: silent });
  try {
    await body(store);
  } finally {
    await store.close();
  }
}

test('the first key is kept before it opens anything, so that a crash never locks everybody out', () =>
  withStore('crash.db', async (store) => {
    const kept: string[] = [];
    const crash = ensureDefaultAccount({ store }, async (secret) => {
      kept.push(secret);
      throw new Error('the disk is full');
    });
    await assert.rejects(crash, /the disk is full/);
    const account = await store.accounts.byName('default');
    assert.ok(account);
    assert.deepEqual(await store.keys.list(account.id, { limit: 10 }), []);

    const { secret } = await ensureDefaultAccount({ store }, async (fresh) => void kept.push(fresh));
    assert.equal(kept[1], secret);
    const keys = await store.keys.list(account.id, { limit: 10 });
    assert.deepEqual(
      keys.map(({ name, scopes }) => [name, scopes.length]),
      [['admin', 4]],
    );
  }));

test('where a key was ever made there is no other, also when it was revoked', () =>
  withStore('revoked.db', async (store) => {
    const { account, secret } = await ensureDefaultAccount({ store });
    assert.match(secret ?? '', /^hatch_/);
    const [key] = await store.keys.list(account.id, { limit: 10 });
    assert.ok(key);
    await store.keys.revoke(account.id, key.id);
    const again = await ensureDefaultAccount({ store }, async () => assert.fail('no second key'));
    assert.deepEqual([again.account.id, again.secret], [account.id, undefined]);
  }));

test("the server's own account keeps its name, by which the next start finds it", () =>
  withStore('own.db', async (store) => {
    const { account } = await ensureDefaultAccount({ store });
    const settings = { sharedAccountId: account.id, limits: { vms: null, vcpus: null, memMib: null } };
    const deps = { store, clock: systemClock, log: silent, settings };
    const [key] = await store.keys.list(account.id, { limit: 1 });
    assert.ok(key);
    const caller = { accountId: account.id, keyId: key.id, scopes: new Set(SCOPES) };
    const part = accounts(deps);
    await assert.rejects(
      part.patch(caller, account.id, { name: 'mine', quotas: { vms: 1 } }),
      refused('name'),
    );
    assert.equal((await store.accounts.get(account.id))?.quotas.vms, null);
    assert.equal(
      (await part.patch(caller, account.id, { name: 'default', quotas: { vms: 5 } })).quotas.vms,
      5,
    );
    const team = await part.create(caller, { name: 'team', quotas: {} });
    assert.equal((await part.patch(caller, team.id, { name: 'crew' })).name, 'crew');

    // Neither a name nor an id that is no account's is an account to make keys for.
    for (const accountId of ['acct-abc123def456', 'crew'])
      await assert.rejects(
        keys(deps).create(caller, { name: 'x', scopes: ['read'], accountId }),
        refused('account_id'),
      );
  }));

/** Whether what was thrown is a refusal that names the field. */
function refused(field: string): (error: unknown) => boolean {
  return (error) =>
    error instanceof Failure && error.code === 'invalid_request' && error.details['field'] === field;
}

test('a key opens also when its use cannot be noted', () =>
  withStore('full.db', async (store) => {
    const { account, secret } = await ensureDefaultAccount({ store });
    const full = over(store, {
      keys: over(store.keys, { used: () => Promise.reject(new Failure('no_space', 'The disk is full.')) }),
    });
    const limits = { vms: null, vcpus: null, memMib: null };
    const settings = { limits, sharedAccountId: account.id };
    const hatch = accounts({ store: full, clock: systemClock, log: silent, settings });
    assert.equal((await hatch.authenticate(secret ?? ''))?.accountId, account.id);
  }));

test('when a key was last used is written once a minute at most, and a key is dead from the moment it ends', () =>
  withStore('used.db', async (store) => {
    const clock = new FakeClock();
    const { account } = await ensureDefaultAccount({ store });
    const limits = { vms: null, vcpus: null, memMib: null };
    const own = accounts({ store, clock, log: silent, settings: { limits, sharedAccountId: account.id } });
    const { key, secret } = await addKey({ store }, account.id, 'short', ['read'], clock.now() + 300_000);
    const lastUsed = async (): Promise<unknown> => (await store.keys.get(account.id, key.id))?.lastUsedAt;
    const from = clock.now();
    assert.ok(await own.authenticate(secret));
    assert.equal(await lastUsed(), from);
    await clock.advance(59_999);
    assert.ok(await own.authenticate(secret));
    assert.equal(await lastUsed(), from);
    await clock.advance(1);
    assert.ok(await own.authenticate(secret));
    assert.equal(await lastUsed(), from + 60_000);
    await clock.advance(239_999);
    assert.ok(await own.authenticate(secret));
    await clock.advance(1);
    assert.equal(await own.authenticate(secret), undefined);
  }));
