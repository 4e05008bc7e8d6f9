import type { AccountId, VmId } from '../base/ids.ts';
import type { AddressPlan } from '../model/cidr.ts';
import type { Quotas } from '../model/records.ts';
import type { ProxyPlace } from '../model/route.ts';
import type { IdlePolicy } from '../model/vm.ts';

export interface Settings {
  /** This host's row; every row it writes bears it. */
  readonly hostId: string;
  /** Which boot of the host this is: guests of another ended with that. */
  readonly bootId: string;
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
  /** Where routes are reached. */
  readonly proxy: ProxyPlace;
  readonly defaultVcpuCount: number;
  readonly defaultMemMib: number;
  /** What happens to VMs nobody uses that have no policy of their own. */
  readonly idle: IdlePolicy;
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

/** How often a VM or snapshot of another host is looked at while it is waited for: nobody tells us when it changes. */
export const LOOK_AGAIN_MS = 500;
