import assert from 'node:assert/strict';
import { appendFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import { Failure } from '../model/failure.ts';
import { CONSOLE_FILE } from '../vmm/driver.ts';
import {
  makeHostFolder,
  openFakeWorld,
  type FakeHostFolder,
  type FakeWorld,
} from '../../test/support/fake-world.ts';
import type { Caller } from './hatch.ts';
import { followConsole } from './see-into.ts';

let host: FakeHostFolder;
let fake: FakeWorld;
before(async () => {
  host = await makeHostFolder();
  fake = await openFakeWorld(host);
});
after(async () => {
  await fake.close();
  await host.remove();
});

/** A console followed with a key of its own, by a clock that moves only when told. */
async function following(name: string): Promise<{
  readonly caller: Caller;
  readonly clock: FakeClock;
  readonly write: (text: string) => Promise<void>;
  /** What is said next; undefined when there is no more. */
  readonly next: () => Promise<string | undefined>;
}> {
  const vm = await fake.hatch.vms.create(fake.caller, { name });
  const { secret } = await fake.hatch.keys.create(fake.caller, { name: 'short', scopes: ['read'] });
  const caller = await fake.hatch.accounts.authenticate(secret);
  assert.ok(caller);
  const clock = new FakeClock();
  const { offset } = await fake.hatch.vms.console(caller, vm.id, 0);
  const said = followConsole({ ...fake.world, clock }, caller, name, offset, AbortSignal.timeout(10_000));
  const words = said[Symbol.asyncIterator]();
  return {
    caller,
    clock,
    write: (text) => appendFile(`${host.vms}/${vm.id}/${CONSOLE_FILE}`, text),
    next: async () => {
      const word = await words.next();
      return word.done === true ? undefined : word.value;
    },
  };
}

/** Resolves when the follower has found nothing more and waits. */
async function asleep(clock: FakeClock): Promise<void> {
  while (clock.sleepers === 0) await new Promise((resolve) => setImmediate(resolve));
}

test('a console is followed until its VM is deleted', async () => {
  const { clock, write, next } = await following('web');
  await write('one');
  assert.equal(await next(), 'one');
  const waiting = next();
  await asleep(clock);
  await write('two');
  await clock.advance(200);
  assert.equal(await waiting, 'two');
  const last = next();
  await fake.hatch.vms.delete(fake.caller, 'web');
  for (let passed = 200; passed < 800; passed += 200) {
    await asleep(clock);
    await clock.advance(200);
  }
  assert.equal(await last, undefined);
});

test('a key that is revoked hears no more of a console within a second, however much is said', async () => {
  const { caller, clock, write, next } = await following('loud');
  await fake.hatch.keys.revoke(fake.caller, caller.keyId);
  for (let passed = 0; passed < 800; passed += 200) {
    await write('noise');
    assert.equal(await next(), 'noise');
    await clock.advance(200);
  }
  await write('secret');
  await assert.rejects(next(), (error) => error instanceof Failure && error.code === 'unauthorized');
  await fake.hatch.vms.delete(fake.caller, 'loud');
});
