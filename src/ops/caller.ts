import type { AccountId, KeyId, MakeId } from '../base/ids.ts';
import type { Scope } from '../model/records.ts';

/** Who touches a VM. */
export interface Visitor {
  readonly by: 'http' | 'ssh' | 'exec' | 'file' | 'api';
  /** The address they come from, where there is one. */
  readonly from: string | null;
}

/** Who asks: an API key that was found good. */
export interface Caller {
  readonly accountId: AccountId;
  readonly keyId: KeyId;
  readonly scopes: ReadonlySet<Scope>;
  /** The ids of what this one request makes, where it may be sent again: what is there already is not made again. */
  readonly newId?: MakeId;
}
