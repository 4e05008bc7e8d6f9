import type { Clock } from '../base/clock.ts';
import type { AccountId, VmId } from '../base/ids.ts';
import type { Logger } from '../base/logger.ts';
import type { Quotas } from '../model/records.ts';
import type { AddressPlan } from '../model/cidr.ts';
import type { GuestFiles } from '../guest/files.ts';
import type { SavedDisks } from '../guest/saved-disk/inside.ts';
import type { Network } from '../net/network.ts';
import type { Store } from '../store/store.ts';
import type { Driver } from '../vmm/driver.ts';
import type { Archive } from './archive/archive.ts';
import type { Fleet } from './fleet.ts';
import type { Flights } from './flights.ts';
import type { SshPorts } from './hatch.ts';

/** What the operations are built on. Each takes the part it uses. */
export interface World {
  readonly store: Store;
  readonly driver: Driver;
  readonly net: Network;
  readonly ports: SshPorts;
  readonly files: GuestFiles;
  readonly fleet: Fleet;
  readonly flights: Flights;
  readonly archive: Archive;
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
  /** For the clock of a guest that was just woken to be set. */
  readonly clockMs: number;
  /** For a copy to take its own identity, hooks included. */
  readonly identityMs: number;
}

export const PATIENCE: Patience = { agentMs: 10_000, clockMs: 10_000, identityMs: 60_000 };

export interface Settings {
  /** This host's row; every row it writes bears it. */
  readonly hostId: string;
  /** Absolute path of the folder that holds one folder per VM. */
  readonly vmsFolder: string;
  /** Absolute path of the folder that holds one folder per frozen layer, beside `vmsFolder` on its file system. */
  readonly layersFolder: string;
  /** Absolute path of the folder that holds converted and built images. */
  readonly imagesFolder: string;
  /** Folders an image may be registered from. */
  readonly imageDirs: readonly string[];
  readonly plan: AddressPlan;
  readonly sshPortMin: number;
  readonly sshPortMax: number;
  readonly defaultVcpuCount: number;
  readonly defaultMemMib: number;
  /** Kernel arguments for images that bring none; null: the driver's own. */
  readonly defaultBootArgs: string | null;
  /** Quotas of an account that has none of its own. */
  readonly limits: Quotas;
  /** How many manual snapshots a VM may have; null: no limit. */
  readonly maxSnapshotsPerVm: number | null;
  /** The account whose images and templates everyone sees. */
  readonly sharedAccountId: AccountId;
}

/** The accounts whose images and templates an account sees: its own first. */
export function visibleAccounts(
  settings: Pick<Settings, 'sharedAccountId'>,
  own: AccountId,
): readonly AccountId[] {
  return own === settings.sharedAccountId ? [own] : [own, settings.sharedAccountId];
}

/** In the folder of a machine that was only restored for proof: nobody misses it. */
export const SCRATCH_FILE = 'scratch';

/** A VM's own folder. */
export function vmFolder(settings: Pick<Settings, 'vmsFolder'>, id: VmId): string {
  return `${settings.vmsFolder}/${id}`;
}
