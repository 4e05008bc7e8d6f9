import { newId, parseId, type LayerId, type SnapshotId } from '../base/ids.ts';
import type { Operation } from '../model/records.ts';
import { SNAPSHOT_KINDS, type SnapshotKind } from '../model/snapshot.ts';

/** What of a saved machine is not known before it is saved. */
export interface SavedFacts {
  readonly version: string;
  readonly machineType: string;
  readonly accel: string;
  /** Absolute path of the memory; null: it lies in the state. */
  readonly memoryPath: string | null;
}

/** What a snapshot is asked to be, chosen before anything is touched, so that who comes after a crash knows all the names. */
export interface SnapshotPlan {
  readonly snapshotId: SnapshotId;
  readonly memoryId: LayerId;
  readonly stateId: LayerId;
  /**
   * For one that is saved while its VMM goes on: the disk that is made of its own, which the guest is given, or where it has no
   * overlays, the copy that is kept. null: it goes to sleep for it.
   */
  readonly diskId: LayerId | null;
  readonly name: string | null;
  readonly kind: SnapshotKind;
  readonly keepRunning: boolean;
  /** Whether the agent had answered when it was asked for. */
  readonly agent: boolean;
  /** What it was decided on that the VM sleeps although nobody asked for it; null: somebody asked. */
  readonly decided: Readonly<Record<string, unknown>> | null;
  /** Once it is saved. */
  readonly saved: SavedFacts | null;
}

/** A plan with fresh names; the snapshot's may have been chosen before. */
export function newPlan(
  asked: Pick<SnapshotPlan, 'name' | 'kind' | 'keepRunning' | 'agent' | 'decided'> & {
    readonly live: boolean;
  },
  snapshotId = newId('snap'),
): SnapshotPlan {
  return {
    snapshotId,
    memoryId: newId('layer'),
    stateId: newId('layer'),
    diskId: asked.live ? newId('layer') : null,
    name: asked.name,
    kind: asked.kind,
    keepRunning: asked.keepRunning,
    agent: asked.agent,
    decided: asked.decided,
    saved: null,
  };
}

/** The plan as an operation's arguments. */
export function toArgs(plan: SnapshotPlan): Operation['args'] {
  return { ...plan };
}

/** The plan an operation was begun with; throws when its arguments hold none. */
export function planOf({ id, args }: Pick<Operation, 'id' | 'args'>): SnapshotPlan {
  const text = (name: string): string => (typeof args[name] === 'string' ? args[name] : '');
  const snapshotId = parseId('snap', text('snapshotId'));
  const memoryId = parseId('layer', text('memoryId'));
  const stateId = parseId('layer', text('stateId'));
  const kind = SNAPSHOT_KINDS.find((one) => one === args['kind']);
  if (!snapshotId || !memoryId || !stateId || !kind)
    throw new Error(`the arguments of ${id} hold no plan of a snapshot`);
  return {
    snapshotId,
    memoryId,
    stateId,
    diskId: parseId('layer', text('diskId')) ?? null,
    kind,
    name: typeof args['name'] === 'string' ? args['name'] : null,
    keepRunning: args['keepRunning'] === true,
    agent: args['agent'] === true,
    decided: decidedIn(args['decided']),
    saved: savedIn(args['saved']),
  };
}

/** The layers unfinished operations will name, and nothing else does yet. */
export function layersPlanned(operations: readonly Operation[]): ReadonlySet<string> {
  return new Set(
    operations
      .flatMap(({ args }) => [args['memoryId'], args['stateId'], args['diskId']])
      .filter((id) => typeof id === 'string'),
  );
}

function savedIn(value: unknown): SavedFacts | null {
  if (typeof value !== 'object' || value === null) return null;
  const { version, machineType, accel, memoryPath } = value as Record<string, unknown>;
  return typeof version === 'string' && typeof machineType === 'string' && typeof accel === 'string'
    ? { version, machineType, accel, memoryPath: typeof memoryPath === 'string' ? memoryPath : null }
    : null;
}

/** What an operation's arguments say that a sleep nobody asked for was decided on. */
export function decidedIn(value: unknown): SnapshotPlan['decided'] {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
}
