import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import { newId } from '../base/ids.ts';
import type { Route, RouteName } from '../model/route.ts';
import type { Routes } from '../store/store.ts';
import { RouteBook } from './route-book.ts';

const NAME: RouteName = { subdomain: 'web', domain: null };
const ROUTE: Route = {
  ...NAME,
  id: newId('rt'),
  accountId: newId('acct'),
  vmId: newId('vm'),
  targetPort: 80,
  autoWake: true,
  wake: null,
  createdAt: 0,
  updatedAt: 0,
};

test('a route that was just read is believed for a second, and not once routes were changed here', async () => {
  const clock = new FakeClock();
  let reads = 0;
  let during = (): void => undefined;
  const byName: Routes['byName'] = async ({ subdomain }) => {
    reads++;
    during();
    return subdomain === 'web' ? ROUTE : null;
  };
  const book = new RouteBook({ store: { routes: { byName } }, clock });
  assert.equal(book.known(NAME), undefined);
  for (let i = 0; i < 3; i++) assert.equal(await book.find(NAME), ROUTE);
  assert.deepEqual([book.known(NAME), reads], [ROUTE, 1]);
  await clock.advance(1000);
  assert.equal(book.known(NAME), undefined);
  await book.find(NAME);
  book.forget();
  assert.deepEqual([book.known(NAME), reads], [undefined, 2]);
  during = () => book.forget();
  await book.find(NAME);
  assert.equal(book.known(NAME), undefined, 'it changed while it was read');
  during = () => undefined;
  const none: RouteName = { subdomain: null, domain: 'web' };
  assert.equal(await book.find(none), null);
  assert.equal(await book.find(none), null);
  assert.equal(reads, 5, 'that there is none is not believed');
});
