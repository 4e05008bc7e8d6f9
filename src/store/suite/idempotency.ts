import assert from 'node:assert/strict';
import { furnish } from '../fixtures.ts';
import type { Declare } from './support.ts';

/** Requests that may be sent again. */
export function idempotencyTests(test: Declare): void {
  test('a key is claimed once in an account, its answer kept, and given to whoever claims it again', async ({
    store,
  }) => {
    const [{ account }, { account: other }] = [await furnish(store), await furnish(store)];
    const request = { key: 'one', fingerprint: 'f', secret: 's' };
    const mine = { ...request, accountId: account.id, worker: 'me' };
    const claimed = await store.idempotency.claim(mine, 0);
    assert.deepEqual([claimed.worker, claimed.answer, claimed.secret], ['me', null, 's']);
    const again = await store.idempotency.claim({ ...mine, secret: 'another', worker: 'you' }, 0);
    assert.deepEqual([again.worker, again.secret], ['me', 's']);
    const theirs = await store.idempotency.claim({ ...mine, accountId: other.id, worker: 'you' }, 0);
    assert.equal(theirs.worker, 'you');
    const answer = { status: 201, body: '{"id":"é"}', location: '/vms/x' };
    await store.idempotency.settle({ ...mine, worker: 'you' }, answer);
    assert.equal((await store.idempotency.claim(mine, 0)).answer, null, 'only who is at it answers');
    await store.idempotency.settle(mine, answer);
    const known = await store.idempotency.claim({ ...mine, worker: 'you' }, 0);
    assert.deepEqual([known.worker, known.answer], [null, answer]);
    assert.equal(await store.idempotency.takeUp(mine, null, 'you'), false, 'it is answered');
  });

  test('one that was left is taken up by one, and those that are old are forgotten', async ({
    store,
    clock,
  }) => {
    const { account } = await furnish(store);
    const mine = { accountId: account.id, key: 'two', fingerprint: 'f', secret: 's', worker: 'me' };
    await store.idempotency.claim(mine, 0);
    const takers = ['a', 'b', 'c'].map((worker) => store.idempotency.takeUp(mine, 'me', worker));
    assert.equal((await Promise.all(takers)).filter(Boolean).length, 1);
    const { worker } = await store.idempotency.claim(mine, 0);
    await store.idempotency.settle({ ...mine, worker: worker ?? '' }, null);
    assert.equal((await store.idempotency.claim(mine, 0)).worker, null);
    assert.equal(await store.idempotency.takeUp(mine, null, 'd'), true);
    const now = clock.now();
    await clock.advance(1000);
    const fresh = await store.idempotency.claim({ ...mine, secret: 'new', worker: 'e' }, now);
    assert.deepEqual([fresh.worker, fresh.secret], ['e', 'new']);
    assert.ok((await store.idempotency.prune(now + 1)) >= 0);
    assert.equal((await store.idempotency.claim(mine, now)).worker, 'e');
    assert.equal((await store.idempotency.prune(clock.now() + 1)) > 0, true);
  });
}
