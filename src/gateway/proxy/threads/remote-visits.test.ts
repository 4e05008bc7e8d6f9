import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { FakeClock } from '../../../base/clock.ts';
import { newId } from '../../../base/ids.ts';
import { Failure } from '../../../model/failure.ts';
import type { Route } from '../../../model/route.ts';
import { ActivityTracker } from '../../../ops/activity.ts';
import { Life } from '../../../ops/guest-lives.ts';
import type { Arrival, Visit, Visits } from '../../../ops/visits.ts';
import { VisitServer } from './visit-server.ts';
import { RemoteVisits } from './remote-visits.ts';
import type { ToThread } from './messages.ts';

const vmId = newId('vm');
// Nothing else of it is looked at.
const route = { vmId } as Route;
const visit: Visit = { by: 'http', from: '192.0.2.1', unwanted: undefined };
const never = new AbortController().signal;

/** A thread's visits and the server it asks; what the server says is heard when it is delivered. */
function opened(arrive: (life: Life) => Promise<void> = async () => undefined) {
  const clock = new FakeClock();
  const activity = new ActivityTracker({ clock });
  const life = new Life();
  const visits: Pick<Visits, 'arrive' | 'mayComeAgain'> = {
    async arrive(): Promise<Arrival> {
      const use = activity.begin(vmId, 'http');
      await arrive(life).catch((error: unknown) => {
        use.end();
        throw error;
      });
      return { ip: '192.0.2.2', wokenMs: undefined, use, life };
    },
    mayComeAgain: () => !life.isOver,
  };
  const said: ToThread[] = [];
  const server = new VisitServer(
    { visits: visits as Visits, activity },
    (message) => void said.push(message),
  );
  const far: RemoteVisits = new RemoteVisits({
    tell: (message) => {
      if (message.kind === 'route' || message.kind === 'arrive' || message.kind === 'end')
        server.hear(message);
    },
    clock,
    edition: new SharedArrayBuffer(4),
  });
  const deliver = async (): Promise<void> => {
    await setImmediate();
    for (const message of said.splice(0))
      if (message.kind !== 'renew' && message.kind !== 'close') far.hear(message);
    await setImmediate();
  };
  return { life, far, deliver, open: () => activity.of(vmId).open.length };
}

test('a guest that was lent to a visitor who has just gone is there for the next', async () => {
  const { far, deliver, open, life } = opened();
  const gone = new AbortController();
  const first = far.arrive(route, visit, gone.signal);
  // The answer is on its way.
  await setImmediate();
  gone.abort(new Error('gone'));
  await assert.rejects(first, /gone/);
  await deliver();
  assert.equal(open(), 0);
  const second = far.arrive(route, visit, never);
  await deliver();
  const { use, life: known } = await second;
  assert.ok(known, 'its end can be followed');
  assert.equal(open(), 1);
  use.end();
  assert.equal(open(), 0);
  life.end();
  await deliver();
  assert.ok(known.isOver);
  assert.equal(far.arriveAtOnce(route, visit), undefined);
});

test('a guest that ends in the moment it is lent is known to be over, and is not kept', async () => {
  for (let steps = 0; steps < 10; steps++) {
    const begun = Promise.withResolvers<void>();
    const { far, deliver, life, open } = opened(() => begun.promise);
    const asked = far.arrive(route, visit, never);
    begun.resolve();
    for (let i = 0; i < steps; i++) await Promise.resolve();
    life.end();
    await deliver();
    const { use, life: known } = await asked;
    assert.ok(known === undefined || known.isOver, `after ${steps} steps`);
    use.end();
    assert.equal(open(), 0);
  }
});

test('a defect of the daemon is answered as one, and the log of the thread has what it was', async () => {
  const { far, deliver } = opened(async () => {
    throw new Error('a bug', { cause: new Error('deep') });
  });
  const asked = far.arrive(route, visit, never);
  asked.catch(() => undefined);
  await deliver();
  await assert.rejects(asked, (error: unknown) => {
    assert.ok(error instanceof Failure);
    assert.equal(error.code, 'internal');
    assert.match(String((error.cause as Error).stack), /a bug[^]*remote-visits\.test/);
    return true;
  });
});
