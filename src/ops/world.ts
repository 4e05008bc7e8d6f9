import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { GuestFiles } from '../guest/files.ts';
import type { SavedDisks } from '../guest/saved-disk/inside.ts';
import type { Network } from '../net/network.ts';
import type { Store } from '../store/store.ts';
import type { Driver } from '../vmm/driver.ts';
import type { Archive } from './archive/archive.ts';
import type { ActivityTracker } from './activity.ts';
import type { Fleet } from './fleet.ts';
import type { Flights } from './flights.ts';
import type { Room } from './room.ts';
import type { SshPorts } from './hatch.ts';
import type { Muster } from './muster.ts';
import type { RouteBook } from './route-book.ts';
import type { Settings } from './settings.ts';

/** What the operations are built on. Each takes the part it uses. */
export interface World {
  readonly store: Store;
  readonly driver: Driver;
  readonly net: Network;
  readonly ports: SshPorts;
  readonly files: GuestFiles;
  readonly fleet: Fleet;
  readonly flights: Flights;
  /** Where those that start at once meet. */
  readonly muster: Muster;
  readonly archive: Archive;
  /** Who uses which VM now. */
  readonly activity: ActivityTracker;
  readonly routeBook: RouteBook;
  /** The memory guests may take of this host, and who was promised some. */
  readonly room: Room;
  /** Looks inside the disks of snapshots. */
  readonly disks: SavedDisks;
  readonly clock: Clock;
  readonly log: Logger;
  readonly settings: Settings;
  readonly patience: Patience;
  /** Looks for the default image anew, and registers it when there is one. */
  readonly findDefaultImage: () => Promise<void>;
}

/** How long guests are waited for, in milliseconds. */
export interface Patience {
  /** For the agent of a guest that is to be forked: one that hears nothing cannot be told who it is. */
  readonly agentMs: number;
  /** For the first word of a guest that was just woken. */
  readonly wordMs: number;
  /** For a copy to take its own identity, hooks included. */
  readonly identityMs: number;
}

export const PATIENCE: Patience = { agentMs: 10_000, wordMs: 10_000, identityMs: 60_000 };
