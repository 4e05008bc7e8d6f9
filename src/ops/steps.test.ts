import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import { newId } from '../base/ids.ts';
import { silent } from '../base/logger.ts';
import type { JournalRow, Operation } from '../model/records.ts';
import { Closing, runSteps, Stuck, type Stage, type Step } from './steps.ts';

const operation: Operation = {
  id: newId('op'),
  vmId: newId('vm'),
  accountId: newId('acct'),
  hostId: 'here',
  epoch: 1,
  verb: 'restore',
  args: {},
  outcome: 'running',
  error: null,
  createdAt: 0,
  finishedAt: null,
};

/** Runs the stages and gives the journal they left, a word for each row. */
async function journalOf(
  stages: readonly Stage[],
  signal = new AbortController().signal,
): Promise<{ readonly rows: readonly string[]; readonly error: unknown }> {
  const rows: string[] = [];
  const record = async (
    id: Operation['id'],
    step: string,
    phase: JournalRow['phase'],
    before: readonly Pick<JournalRow, 'step' | 'phase'>[] = [],
  ): Promise<JournalRow> => {
    for (const row of [...before, { step, phase }]) rows.push(`${row.step} ${row.phase}`);
    return { operationId: id, seq: rows.length, step, phase, at: 0 };
  };
  const deps = { operations: { record }, clock: new FakeClock(), log: silent };
  const error: unknown = await runSteps(deps, operation, stages, signal).then(
    () => undefined,
    (cause: unknown) => cause,
  );
  return { rows, error };
}

function step(
  name: string,
  run: Step['run'] = async () => undefined,
  undo = async (): Promise<void> => undefined,
): Step {
  return { name, run, undo };
}

const untilTold = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)));

test('steps side by side are all begun before one is done, and the next stage begins when all are', async () => {
  const [first, second] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  // Each waits for the other: one after the other they would never end.
  const a = step('a', () => (first.resolve(), second.promise));
  const b = step('b', () => (second.resolve(), first.promise));
  const { rows, error } = await journalOf([step('before'), [a, b], step('after')]);
  assert.equal(error, undefined);
  assert.deepEqual(rows.slice(0, 4), ['before begun', 'before done', 'a begun', 'b begun']);
  assert.deepEqual(rows.slice(4, 6).toSorted(), ['a done', 'b done']);
  assert.deepEqual(rows.slice(6), ['after begun', 'after done']);
});

test('when one of them fails the others are told to end, all are undone in reverse, and its error is thrown', async () => {
  const broken = new Error('broken');
  const { rows, error } = await journalOf([
    step('before'),
    [step('waits', untilTold), step('fails', () => Promise.reject(broken)), step('done')],
    step('after'),
  ]);
  assert.equal(error, broken);
  assert.deepEqual(rows.slice(2, 6), ['waits begun', 'fails begun', 'done begun', 'done done']);
  assert.deepEqual(
    rows.slice(6).filter((row) => row.endsWith('undoing')),
    ['done undoing', 'fails undoing', 'waits undoing', 'before undoing'],
  );
});

test('one that goes on is waited for before anything is undone', async () => {
  const slow = Promise.withResolvers<void>();
  const ended: string[] = [];
  const late = step(
    'late',
    () => slow.promise.then(() => void ended.push('ran')),
    async () => void ended.push('undone'),
  );
  const fails = step('fails', async () => {
    setImmediate(() => slow.resolve());
    throw new Error('broken');
  });
  await journalOf([[late, fails]]);
  assert.deepEqual(ended, ['ran', 'undone']);
});

test('what could not be undone is told of with why, and the rest is undone all the same', async () => {
  const no = (): Promise<never> => Promise.reject(new Error('stays'));
  const { rows, error } = await journalOf([
    step('first'),
    [step('a', undefined, no), step('b', () => Promise.reject(new Error('broken')))],
  ]);
  assert.ok(error instanceof Stuck);
  assert.deepEqual(
    error.errors.map(({ message }: Error) => message),
    ['broken', 'stays'],
  );
  assert.ok(rows.includes('first undone'));
});

test('when the daemon ends nothing is undone, whatever the steps that stand side by side make of it', async () => {
  const ending = new AbortController();
  const { rows, error } = await journalOf(
    [[step('waits', untilTold), step('ends', async () => ending.abort(new Closing()))], step('after')],
    ending.signal,
  );
  assert.ok(error instanceof Closing);
  assert.ok(!rows.some((row) => row.endsWith('undoing') || row.startsWith('after')), rows.join());
});
