import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import { newId } from '../base/ids.ts';
import type { ApiKey } from '../model/records.ts';
import type { Keys } from '../store/store.ts';
import { keyBook } from './key-book.ts';

/** A table of one key, which counts how often it is read; `slow`: the next read ends when that does. */
class OneKey {
  reads = 0;
  slow: Promise<void> | undefined;
  readonly key: ApiKey;
  #now: ApiKey;
  constructor() {
    this.key = {
      id: newId('key'),
      accountId: newId('acct'),
      name: 'one',
      scopes: ['read'],
      prefix: 'hatch_abcdef',
      expiresAt: null,
      revokedAt: null,
      lastUsedAt: null,
      createdAt: 0,
    };
    this.#now = this.key;
  }
  change(to: Partial<ApiKey>): ApiKey {
    return (this.#now = { ...this.#now, ...to });
  }
  get table(): Keys {
    const never = (): never => {
      throw new Error('nobody asked for this');
    };
    return {
      create: never,
      get: never,
      list: never,
      byHash: async (hash) => {
        this.reads++;
        const found = hash === 'its hash' ? this.#now : null;
        await this.slow;
        return found;
      },
      revoke: async () => this.change({ revokedAt: 1 }),
      used: async (_id, at) => void this.change({ lastUsedAt: at }),
    };
  }
}

test('a key is read once for the requests of half a second, and what another host revoked is seen then', async () => {
  const [one, clock] = [new OneKey(), new FakeClock()];
  const book = keyBook(one.table, clock);
  for (let i = 0; i < 10; i++) assert.deepEqual(await book.byHash('its hash'), one.key);
  assert.equal(one.reads, 1);
  one.change({ revokedAt: 5 });
  await clock.advance(499);
  assert.equal((await book.byHash('its hash'))?.revokedAt, null);
  await clock.advance(1);
  assert.equal((await book.byHash('its hash'))?.revokedAt, 5);
  assert.equal(one.reads, 2);
});

test('a key is believed for no longer when the time of day is set back', async () => {
  const [one, clock] = [new OneKey(), new FakeClock()];
  const book = keyBook(one.table, clock);
  await book.byHash('its hash');
  one.change({ revokedAt: 5 });
  clock.jump(-24 * 3_600_000);
  await clock.advance(500);
  assert.equal((await book.byHash('its hash'))?.revokedAt, 5);
});

test('one that is revoked here is forgotten at once, also by whoever was just reading it', async () => {
  const [one, clock] = [new OneKey(), new FakeClock()];
  const book = keyBook(one.table, clock);
  await book.byHash('its hash');
  await book.revoke(one.key.accountId, one.key.id);
  assert.equal((await book.byHash('its hash'))?.revokedAt, 1);

  const other = new OneKey();
  const { promise, resolve } = Promise.withResolvers<void>();
  other.slow = promise;
  const again = keyBook(other.table, clock);
  const reading = again.byHash('its hash');
  other.slow = undefined;
  await again.revoke(other.key.accountId, other.key.id);
  resolve();
  await reading;
  assert.equal((await again.byHash('its hash'))?.revokedAt, 1);
});

test('one that is not there is looked for each time, and a use is noted in what is remembered', async () => {
  const [one, clock] = [new OneKey(), new FakeClock()];
  const book = keyBook(one.table, clock);
  for (let i = 0; i < 3; i++) assert.equal(await book.byHash('another'), null);
  assert.equal(one.reads, 3);
  await book.byHash('its hash');
  await book.used(one.key.id, 7);
  assert.equal((await book.byHash('its hash'))?.lastUsedAt, 7);
  assert.equal(one.reads, 4);
});
