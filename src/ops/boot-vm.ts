import { Failure } from '../model/failure.ts';
import type { Image, Operation } from '../model/records.ts';
import type { StateReason, Vm } from '../model/vm.ts';
import { depsOf, mustGet } from './carry-out.ts';
import { copySteps } from './copy-steps.ts';
import { bootSteps, imageOf } from './host-steps.ts';
import { forgetImport, isImport } from './import-snapshot.ts';
import { markError } from './mark-error.ts';
import { Closing, runSteps, Stuck, TryAgain, undoSteps, type Stage, type Step } from './steps.ts';
import { translate } from './translate.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';

/**
 * What create and start have in common: from `starting` to `running`, or undone and in `error`. The move to `running` is
 * the last step, so that recovery tells a finished boot from one cut off.
 */
export async function carryOutBoot(world: World, operation: Operation, signal: AbortSignal): Promise<void> {
  const { store, clock, muster } = world;
  const vm = await mustGet(world, operation);
  // Copies have another way.
  if (vm.network !== null && vm.parentSnapshotId === null) muster.come(vm.id);
  try {
    const starting = isFresh(vm)
      ? vm
      : await store.vms.move(vm.id, ownerOf(vm), ['starting', 'stopped', 'error'], {
          state: 'starting',
          stateReason: null,
          stoppedBy: null,
          readyAt: null,
        });
    if (!starting) throw new Failure('wrong_state', 'The VM is no longer in a state it can be started from.');
    const image = await imageOf(world, starting);
    const steps = await stepsOf(world, operation, starting, image, signal);
    await runSteps(depsOf(world), operation, [...steps, runningStep(world, starting)], signal);
  } catch (error) {
    if (error instanceof Closing) throw error;
    const failure = translate(error);
    const reason = { code: failure.code, message: failure.message, at: clock.now() };
    await fail(world, vm, operation, reason).catch(() => {
      // It would stay `starting`, with nobody at it: taken back once more, it is tried to be noted again.
      throw new TryAgain('the end of it could not be noted', { cause: error });
    });
    if (error instanceof Stuck) throw error;
    throw new Failure(failure.code, failure.message, {
      details: { ...failure.details, id: vm.id },
      cause: error,
    });
  } finally {
    muster.leave(vm.id);
  }
}

/** Whether its row says already all that a start begins with, as that of a VM does which was just made. */
function isFresh({ state, stateReason, stoppedBy, readyAt }: Vm): boolean {
  return state === 'starting' && stateReason === null && stoppedBy === null && readyAt === null;
}

/** What is to be done about a copy that was not made. */
export const UNMADE_COPY = 'nothing of it is there, so delete it and make another.';

/** Whether a VM is a copy of which nothing was ever made: started, it would be one of its image, with none of what it was to have. */
export function isUnmadeCopy({ parentSnapshotId, layerId }: Vm): boolean {
  return parentSnapshotId !== null && layerId === null;
}

/** A copy comes from its snapshot, all else from its image. */
async function stepsOf(
  world: World,
  operation: Operation,
  vm: Vm,
  image: Image,
  signal: AbortSignal,
): Promise<readonly Stage[]> {
  return operation.verb === 'create' && vm.parentSnapshotId !== null
    ? copySteps(world, vm, image, vm.parentSnapshotId, signal)
    : bootSteps(world, vm, image);
}

/** Takes back a create or start that a crash cut off; the VM ends in `error`, saying so. A finished one stays. */
export async function recoverBoot(world: World, operation: Operation): Promise<void> {
  const { clock } = world;
  if (isImport(operation)) return forgetImport(world, operation);
  const vm = await mustGet(world, operation);
  if (vm.state === 'running') return;
  const image = await imageOf(world, vm);
  // The disk belongs to this operation if creating it was; a start found it there, unless it had none to find.
  const madeHere = operation.verb === 'create' || operation.args['fresh'] === true;
  const asBegun = madeHere ? { ...vm, layerId: null } : vm;
  await undoSteps(depsOf(world), operation, bootSteps(world, asBegun, image));
  await fail(world, vm, operation, {
    code: 'interrupted',
    message:
      operation.verb === 'create' && vm.parentSnapshotId !== null
        ? `The server stopped while the copy was being made: ${UNMADE_COPY}`
        : `The server stopped while the VM was ${operation.verb === 'create' ? 'being created' : 'starting'}; start it again or delete it.`,
    at: clock.now(),
  });
}

async function fail(world: World, vm: Vm, operation: Operation, reason: StateReason): Promise<void> {
  // It was open before the start where the VM had been stopped by policy.
  await world.ports.close(vm.id);
  await markError(world, vm, reason, ['starting', 'stopped', 'error'], {
    event: `Could not ${operation.verb}: ${reason.message}`,
    data: { operation: operation.id },
  });
}

function runningStep({ store, fleet, activity, flights }: World, vm: Vm): Step {
  return {
    name: 'running',
    async run() {
      flights.landing(vm.id);
      const event = { kind: 'vm.running', message: 'The guest runs.' } as const;
      const moved = await store.vms.move(vm.id, ownerOf(vm), ['starting'], { state: 'running' }, { event });
      if (!moved) throw new Failure('wrong_state', 'The VM was taken away while it started.');
      activity.awake(vm.id);
      fleet.touch(vm.id);
    },
    async undo() {
      await store.vms.move(vm.id, ownerOf(vm), ['running'], { state: 'starting' });
    },
  };
}
