import assert from 'node:assert/strict';
import { test } from 'node:test';
import { newId } from '../base/ids.ts';
import { allowedIn, alreadyDone, mayMove, MOVES, refuse } from './states.ts';
import { VERBS, VM_STATES, type Verb, type VmState } from './vm.ts';

const id = newId('vm');

/** The contract's table: which verb is answered without `wrong_state` in which state. */
const ANSWERED: Record<Verb, readonly VmState[]> = {
  create: ['starting'],
  start: ['running', 'stopped', 'snapshotted', 'error'],
  stop: ['running', 'stopping', 'stopped'],
  reboot: ['running'],
  delete: VM_STATES,
  snapshot: ['running'],
  restore: ['stopped', 'snapshotted'],
  fork: ['running', 'snapshotted'],
};

test('every verb is refused in exactly the states the contract does not name', () => {
  for (const verb of VERBS) {
    const answered = VM_STATES.filter((state) => refuse({ id, state }, verb) === undefined);
    assert.deepEqual(
      answered,
      VM_STATES.filter((state) => ANSWERED[verb].includes(state)),
      verb,
    );
  }
});

test('a refusal names the state and what is allowed in it', () => {
  const failure = refuse({ id, state: 'error' }, 'stop');
  assert.equal(failure?.code, 'wrong_state');
  assert.deepEqual(failure.details, { state: 'error', allowed: ['start', 'delete'] });
  assert.equal(
    failure.message,
    `VM ${id} is error; it can be stopped only when running or stopping. Allowed now: start, delete.`,
  );
  assert.match(
    refuse({ id, state: 'stopping' }, 'start')?.message ?? '',
    /only when stopped, error or snapshotted\. Allowed now: stop, delete\./,
  );
  assert.deepEqual(refuse({ id, state: 'running' }, 'restore')?.details['allowed'], [
    'stop',
    'reboot',
    'snapshot',
    'fork',
    'delete',
  ]);
  assert.deepEqual(refuse({ id, state: 'snapshotted' }, 'reboot')?.details['allowed'], [
    'start',
    'restore',
    'fork',
    'delete',
  ]);
});

test('what is allowed in a state is never refused in it, and a VM can always be deleted', () => {
  for (const state of VM_STATES) {
    for (const verb of allowedIn(state)) assert.equal(refuse({ id, state }, verb), undefined);
    assert.ok(allowedIn(state).includes('delete'));
  }
});

test('stopping a stopped VM and starting a running one is already done', () => {
  assert.equal(alreadyDone({ state: 'stopped' }, 'stop'), true);
  assert.equal(alreadyDone({ state: 'running' }, 'start'), true);
  assert.equal(alreadyDone({ state: 'running' }, 'reboot'), false);
  assert.equal(alreadyDone({ state: 'error' }, 'stop'), false);
});

test('every state is reached from another and has a way back to running', () => {
  for (const state of VM_STATES) {
    assert.ok(mayMove(state, state));
    assert.ok(
      VM_STATES.some((from) => from !== state && mayMove(from, state)),
      `${state} is never reached`,
    );
    const reached = new Set<VmState>([state]);
    for (const one of reached) for (const next of MOVES[one]) reached.add(next);
    assert.ok(reached.has('running'), `${state} has no way back`);
  }
  assert.equal(mayMove('stopped', 'running'), false);
  assert.equal(mayMove('error', 'running'), false);
});
