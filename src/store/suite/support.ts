import assert from 'node:assert/strict';
import type { FakeClock } from '../../base/clock.ts';
import { Failure } from '../../model/failure.ts';
import type { Vm } from '../../model/vm.ts';
import { NO_LIMITS } from '../fixtures.ts';
import { Taken, type Owner, type Page, type Store } from '../store.ts';

/** What each part of the suite works with. The clock stands still unless a test moves it. */
export interface Bench {
  readonly store: Store;
  readonly clock: FakeClock;
}

/** How a part of the suite declares a test. */
export type Declare = (name: string, body: (bench: Bench) => Promise<void>) => void;

/** Makes a VM without limits. */
export async function make(store: Store, vm: Parameters<Store['vms']['create']>[0]): Promise<Vm> {
  return (await store.vms.create(vm, { limits: NO_LIMITS, args: {} })).vm;
}

/** Who owns a VM. */
export function ownerOf(vm: Vm): Owner {
  assert.ok(vm.hostId !== null);
  return { hostId: vm.hostId, epoch: vm.epoch };
}

/** Asserts that work fails with a Failure of the code, and gives it. */
export async function fails(work: Promise<unknown>, code: Failure['code']): Promise<Failure> {
  const error = await work.then(
    () => assert.fail('it did not fail'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof Failure, String(error));
  assert.equal(error.code, code);
  return error;
}

/** Asserts that work fails because the field's value is taken. */
export async function isTaken(work: Promise<unknown>, field: Taken['field']): Promise<void> {
  await assert.rejects(work, (error: unknown) => {
    assert.ok(error instanceof Taken, String(error));
    assert.equal(error.field, field);
    return true;
  });
}

/** Walks a list page by page to its end; gives the ids in the order they came. `between` runs before each page. */
export async function walk(
  list: (page: Page) => Promise<readonly { readonly id: string }[]>,
  limit: number,
  between: () => Promise<void> = async () => undefined,
): Promise<string[]> {
  const ids: string[] = [];
  for (;;) {
    await between();
    const page = await list({ limit, after: ids.at(-1) });
    assert.ok(page.length <= limit);
    ids.push(...page.map((one) => one.id));
    if (page.length < limit) return ids;
  }
}

/** Asserts that a list gives exactly `ids`, in this order, whatever the size of its pages. */
export async function listsInPages(
  list: (page: Page) => Promise<readonly { readonly id: string }[]>,
  ids: readonly string[],
): Promise<void> {
  for (let limit = 1; limit <= ids.length + 1; limit++) {
    assert.deepEqual(await walk(list, limit), ids, `in pages of ${limit}`);
  }
}
