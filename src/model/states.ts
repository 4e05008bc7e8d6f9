import { Failure } from './failure.ts';
import { VM_STATES, type Verb, type Vm, type VmState } from './vm.ts';

/** Where a VM may go from each state. What is not here does not happen. */
export const MOVES: Readonly<Record<VmState, readonly VmState[]>> = {
  // Asleep at once: imported as a snapshot.
  starting: ['running', 'snapshotted', 'error'],
  // Back to `starting` when the boot's last step is taken back; `stopped` at once when the guest powers itself off.
  running: ['stopping', 'stopped', 'snapshotted', 'starting', 'error'],
  stopping: ['stopped', 'error'],
  stopped: ['starting', 'snapshotted', 'error'],
  snapshotted: ['starting', 'running', 'stopped', 'error'],
  // A stop that a crash cut off goes on after the VM was marked.
  error: ['starting', 'stopping', 'stopped'],
};

/** Whether a VM may go from one state to another; staying is always possible. */
export function mayMove(from: VmState, to: VmState): boolean {
  return from === to || MOVES[from].includes(to);
}

interface Rule {
  /** The states it may begin in. */
  readonly from: readonly VmState[];
  /** The state in which there is nothing to do. */
  readonly done: VmState | null;
  readonly sentence: string;
}

const RULES: Readonly<Record<Verb, Rule>> = {
  create: { from: ['starting'], done: null, sentence: 'created' },
  start: { from: ['stopped', 'error', 'snapshotted'], done: 'running', sentence: 'started' },
  // `stopping`: a stop that was cut off is taken up again.
  stop: { from: ['running', 'stopping'], done: 'stopped', sentence: 'stopped' },
  reboot: { from: ['running'], done: null, sentence: 'rebooted' },
  delete: { from: VM_STATES, done: null, sentence: 'deleted' },
  snapshot: { from: ['running'], done: null, sentence: 'snapshotted' },
  restore: { from: ['snapshotted', 'stopped'], done: null, sentence: 'restored' },
  fork: { from: ['running', 'snapshotted'], done: null, sentence: 'forked' },
};

/** The verbs a person can ask for by a call of their own, as a refusal offers them. */
const CALLS = [
  'start',
  'stop',
  'reboot',
  'snapshot',
  'restore',
  'fork',
  'delete',
] as const satisfies readonly Verb[];

/** The verbs that do something in a state. */
export function allowedIn(state: VmState): readonly Verb[] {
  return CALLS.filter((verb) => RULES[verb].from.includes(state));
}

/** Whether a VM is already as the verb would leave it, so that asking for it is answered and nothing done. */
export function alreadyDone(vm: Pick<Vm, 'state'>, verb: Verb): boolean {
  return RULES[verb].done === vm.state;
}

/**
 * Why a verb cannot begin on a VM: `wrong_state` with its state and the verbs allowed in it. undefined when it can, or
 * when there is nothing to do.
 */
export function refuse(vm: Pick<Vm, 'id' | 'state'>, verb: Verb): Failure | undefined {
  const { from, sentence } = RULES[verb];
  if (from.includes(vm.state) || alreadyDone(vm, verb)) return undefined;
  const allowed = allowedIn(vm.state);
  return new Failure(
    'wrong_state',
    `VM ${vm.id} is ${vm.state}; it can be ${sentence} only when ${orList(from)}. Allowed now: ${allowed.join(', ')}.`,
    { details: { state: vm.state, allowed } },
  );
}

function orList(words: readonly string[]): string {
  const last = words.at(-1) ?? '';
  return words.length < 2 ? last : `${words.slice(0, -1).join(', ')} or ${last}`;
}
