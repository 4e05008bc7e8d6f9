import assert from 'node:assert/strict';
import { test } from 'node:test';
import { newId } from '../base/ids.ts';
import { silent } from '../base/logger.ts';
import { Failure } from '../model/failure.ts';
import type { Operation } from '../model/records.ts';
import type { Verb } from '../model/vm.ts';
import { Flights } from './flights.ts';

const vmId = newId('vm');

function openFlights(): Flights {
  const flights = new Flights({ operations: { finish: async () => undefined }, log: silent });
  flights.open();
  return flights;
}

const claim = (verb: Verb) => async (): Promise<Operation> => ({
  id: newId('op'),
  vmId,
  accountId: newId('acct'),
  hostId: 'here',
  epoch: 1,
  verb,
  args: {},
  outcome: 'running',
  error: null,
  createdAt: 0,
  finishedAt: null,
});

/** A create that ends when it is let go. */
function create(flights: Flights, { fails = false } = {}) {
  const go = Promise.withResolvers<void>();
  const ended = flights.fly(vmId, 'create', claim('create'), async () => {
    await go.promise;
    if (fails) throw new Failure('vmm_failed', 'It did not start.');
  });
  return { go, ended };
}

test('another verb is told that the VM is busy', async () => {
  const flights = openFlights();
  const { go, ended } = create(flights);
  await assert.rejects(
    flights.fly(vmId, 'stop', claim('stop'), async () => undefined),
    (error) => error instanceof Failure && error.code === 'busy',
  );
  go.resolve();
  await ended;
});

for (const fails of [false, true])
  test(`another verb waits for one that is landing${fails ? ', and comes though that fails' : ''}`, async () => {
    const flights = openFlights();
    const { go, ended } = create(flights, { fails });
    flights.landing(vmId);
    const order: string[] = [];
    void ended.then(
      () => order.push('create'),
      () => order.push('create failed'),
    );
    const stopped = flights.fly(vmId, 'stop', claim('stop'), async () => void order.push('stop'));
    const again = flights.fly(vmId, 'stop', claim('stop'), async () => void order.push('stop twice'));
    go.resolve();
    await Promise.all([stopped, again]);
    assert.deepEqual(order, [fails ? 'create failed' : 'create', 'stop'], 'and who asks for the same joins');
  });

test('nothing under way lands', () => {
  openFlights().landing(vmId);
});
