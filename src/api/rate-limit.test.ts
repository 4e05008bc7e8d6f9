import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import { silent } from '../base/logger.ts';
import { Failure } from '../model/failure.ts';
import { fakeHatch } from './fake-hatch.ts';
import { rateLimiter } from './rate-limit.ts';
import { createApi } from './server.ts';
import { field } from './test-client.ts';
import { silentMeter } from './meter.ts';

const refused = (work: () => void): boolean => {
  try {
    work();
  } catch (error) {
    assert.ok(error instanceof Failure && error.code === 'rate_limited');
    return true;
  }
  return false;
};

test('a key may burst, then goes on at its rate, and others are not hindered', async () => {
  const clock = new FakeClock();
  const take = rateLimiter(clock, { perSecond: 2, burst: 3 });
  const asked = (key: string, times: number): boolean[] =>
    Array.from({ length: times }, () => refused(() => take(key)));
  assert.deepEqual(asked('a', 4), [false, false, false, true]);
  assert.deepEqual(asked('b', 1), [false]);
  await clock.advance(500);
  assert.deepEqual(asked('a', 2), [false, true]);
  await clock.advance(3_600_000);
  assert.deepEqual(asked('a', 4), [false, false, false, true]);
});

test('whoever sets the time of day takes no request from anybody, and gives none', () => {
  const clock = new FakeClock();
  const take = rateLimiter(clock, { perSecond: 2, burst: 3 });
  const asked = (times: number): boolean[] => Array.from({ length: times }, () => refused(() => take('a')));
  assert.deepEqual(asked(2), [false, false]);
  clock.jump(-24 * 3_600_000);
  assert.deepEqual(asked(2), [false, true]);
  clock.jump(48 * 3_600_000);
  assert.deepEqual(asked(1), [true]);
});

test('a rate of 0 is no limit', () => {
  const take = rateLimiter(new FakeClock(), { perSecond: 0, burst: 0 });
  for (let i = 0; i < 1000; i++) take('a');
});

test('over its rate a key gets 429 with Retry-After, and open paths stay open', async () => {
  const clock = new FakeClock();
  const hatch = fakeHatch(clock);
  const deps = { hatch, log: silent, clock, version: '1', meter: silentMeter };
  const app = await createApi(deps, { rateLimit: { perSecond: 1, burst: 1 } });
  const headers = { 'x-api-key': hatch.makeKey(['read']) };
  assert.equal((await app.inject({ url: '/vms', headers })).statusCode, 200);
  const answer = await app.inject({ url: '/vms', headers });
  assert.equal(answer.statusCode, 429);
  assert.equal(answer.headers['retry-after'], '1');
  assert.equal(field(answer.json(), 'code'), 'rate_limited');
  assert.equal((await app.inject({ url: '/healthz' })).statusCode, 200);
  await clock.advance(1000);
  assert.equal((await app.inject({ url: '/vms', headers })).statusCode, 200);
});
