import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { FakeClock } from '../base/clock.ts';
import type { HatchEvent } from '../model/records.ts';
import { testApi } from './test-client.ts';

test('a stream that is silent for long says so, holds no more for it, and has what comes at once', async () => {
  const clock = new FakeClock();
  const api = await testApi(clock);
  const { app, hatch, key } = api;
  await api.call('POST', '/vms', { name: 'web' });
  const listed: HatchEvent[] = [];
  const follow = hatch.events.follow.bind(hatch.events);
  const come = Promise.withResolvers<IteratorResult<HatchEvent>>();
  let waiting = 0;
  const then = Promise.prototype.then.bind(come.promise);
  const counted = Object.assign(come.promise, {
    then: (...how: Parameters<typeof then>) => {
      waiting++;
      return then(...how);
    },
  });
  const answers = [counted, Promise.resolve({ value: undefined, done: true } as const)];
  const next = (): Promise<IteratorResult<HatchEvent>> => answers.shift() ?? assert.fail();
  Object.assign(hatch.events, {
    follow: async (...given: Parameters<typeof follow>) => {
      for await (const event of await follow(...given)) listed.push(event);
      return { [Symbol.asyncIterator]: () => ({ next }) };
    },
  });
  const headers = { authorization: `Bearer ${key}`, accept: 'text/event-stream' };
  const answer = await app.inject({ url: '/events', headers, payloadAsStream: true });
  let text = '';
  answer
    .stream()
    .setEncoding('utf8')
    .on('data', (piece: string) => (text += piece));
  for (let i = 0; i < 10; i++) {
    await setImmediate();
    await clock.advance(15_000);
  }
  while (text.split(': nothing new\n\n').length < 10) await setImmediate();
  assert.ok(waiting <= 2, `${waiting} wait for the same`);
  const [value] = listed;
  assert.ok(value);
  come.resolve({ value, done: false });
  while (!text.includes('event: vm.created\n')) await setImmediate();
  await app.close();
});
