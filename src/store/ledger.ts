import type { AccountId, SnapshotId } from '../base/ids.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { ManifestId, PackId } from './blobs/format.ts';
import type { Owner } from './owner.ts';

declare const brand: unique symbol;
/** Somebody who needs blobs for a while: an upload, a reader, one who rewrites. */
export type LeaseId = string & { readonly [brand]: 'lease' };

export type BlobId = PackId | ManifestId;
export type BlobKind = 'pack' | 'manifest';

/**
 * - `uploading`: on its way; named by one lease and no snapshot.
 * - `live`: whole in the home. Snapshots name it, or nobody does and it is collected.
 * - `bad`: live, but its bytes were seen to be damaged: nothing new may be built on it.
 * - `condemned`: nobody needed it at that moment; after a time of grace it is deleted.
 * - `deleted`: its id is spent. The row stays, so that the id is never given to other bytes.
 */
export type BlobState = 'uploading' | 'live' | 'bad' | 'condemned' | 'deleted';

export interface NewBlob {
  readonly id: BlobId;
  readonly kind: BlobKind;
  /** Whose it is: its place in the home and the key it is sealed with. */
  readonly accountId: AccountId;
  readonly bytes: number;
}

export interface StoredBlob extends NewBlob {
  readonly state: BlobState;
  /** Since when, by the database's clock. */
  readonly stateAt: number;
  /** When it was last read whole and found right; null: never since it was put. */
  readonly verifiedAt: number | null;
}

/** A blob as a lease has it. */
export interface LeasedBlob extends StoredBlob {
  /** It was there before, for another. */
  readonly reused: boolean;
  /** It is whole in the home. */
  readonly arrived: boolean;
}

export interface Lease {
  readonly id: LeaseId;
  readonly snapshotId: SnapshotId;
  /** In the order of their ids. */
  readonly blobs: readonly LeasedBlob[];
}

/** A blob that a snapshot is made of, and how many of its bytes are the snapshot's. */
export interface BlobUse {
  readonly id: BlobId;
  readonly bytes: number;
}

export interface Publication {
  readonly manifest: NonNullable<Snapshot['manifest']> & { readonly id: ManifestId };
  /** Every pack the manifest names, reused ones too; not the manifest itself. */
  readonly packs: readonly BlobUse[];
}

/** A pack and the snapshots that name it. */
export interface NeededPack extends StoredBlob {
  readonly snapshots: readonly SnapshotId[];
}

/** A pack of which less than half is needed: `least` is what one snapshot needs, `most` the sum over all. */
export interface SparsePack extends NeededPack {
  readonly least: number;
  readonly most: number;
}

/** Which packs are small, and when there are too many of them. */
export interface SmallQuery {
  /** Packs that live since so long or longer. */
  readonly ageMs: number;
  /** Bounds of size classes in bytes, ascending: a pack is of the first whose bound it is below, and not small when of none. */
  readonly classes: readonly number[];
  /** Only where an account has so many of one class. */
  readonly atLeast: number;
  /** Only packs that so many snapshots name at most: each of them is written anew when they are merged. */
  readonly namedAtMost: number;
  readonly limit: number;
}

/** A snapshot cannot be published over these blobs: they turned out bad after they were chosen. Save it again without them. */
export class BadBlobs extends Error {
  override readonly name = 'BadBlobs';
  readonly ids: readonly BlobId[];
  constructor(ids: readonly BlobId[]) {
    super(`${ids.length} of the packs are damaged in the store`);
    this.ids = ids;
  }
}

/**
 * The rows of what lies in the home of blobs, and who needs it. No object is in the home without a row that was there before,
 * and none is removed that a durable snapshot or a lease names: whoever wants to use a blob and whoever wants to condemn it both
 * hold its row first, and look at the other in a statement of its own. All times are the database's.
 */
export interface Ledger {
  /** The secret text of an account's keys. `make` is called where there is none yet; of two at once one is kept, and both get it. */
  secret(accountId: AccountId, make: () => string): Promise<string>;
  /** Changes it (another master key wraps it) if it still is `from`; false: it is not. */
  changeSecret(accountId: AccountId, from: string, to: string): Promise<boolean>;

  /**
   * Begins to upload a snapshot that only its host has, or goes on with what was begun: what it had is given back, to be put
   * again where it did not arrive. There is one upload of a VM at a time. An idle snapshot's is given up for a later snapshot's,
   * which gets what arrived of it; anything else is waited for (`behind`). null: there is nothing to upload, or `owner` is not
   * the VM's owner or has not its files.
   */
  beginUpload(
    snapshotId: SnapshotId,
    owner: Owner,
    leaseMs: number,
  ): Promise<Lease | { readonly behind: SnapshotId } | null>;
  /** Holds all that a stored snapshot is made of, for reading: it stays even if the snapshot is removed. null: it is not stored. */
  beginReading(snapshotId: SnapshotId, hostId: string, leaseMs: number): Promise<Lease | null>;
  /** As `beginReading`, for making it anew of other packs. null also while another does. */
  beginRewriting(snapshotId: SnapshotId, hostId: string, leaseMs: number): Promise<Lease | null>;
  /** Prolongs a lease; false: it is over, and what was under way must stop. */
  renew(id: LeaseId, leaseMs: number): Promise<boolean>;
  /**
   * Writes down blobs before they are put. One that is there already (condemned with an upload that was given up) is taken
   * back if its bytes are still allowed: gives those that may be put, or null when the lease is over. A blob that is not given
   * back needs a new id.
   */
  add(id: LeaseId, blobs: readonly NewBlob[]): Promise<readonly BlobId[] | null>;
  /** A blob of the lease is whole in the home. false: the lease is over, or never had it. */
  arrived(id: LeaseId, blobId: BlobId): Promise<boolean>;
  /** Holds blobs of others so that they can be built on; gives those that can. null: the lease is over. */
  reuse(id: LeaseId, blobIds: readonly BlobId[]): Promise<readonly BlobId[] | null>;
  /**
   * Makes the snapshot durable, or durable in its new form, in one transaction, and ends the lease; what it put and did not use
   * is condemned. Again is as good as once. An upload's `owner` must still own the VM. null: it does not, or the lease is over;
   * then nothing was changed. Throws BadBlobs; an Error when a pack is named that the lease does not hold or that never arrived.
   */
  publish(id: LeaseId, owner: Owner | null, publication: Publication): Promise<Snapshot | null>;
  /** Ends a lease without a result. What it put is condemned; an upload's snapshot is `local` again, with what went wrong. */
  release(id: LeaseId, problem?: string | null): Promise<void>;

  /**
   * One round of collecting: ends leases that ran out, condemns what nobody names, and gives what was condemned `graceMs` ago
   * (and is deleted now, as far as the rows go) for its object to be removed. At most `limit` of each.
   */
  collect(options: { readonly graceMs: number; readonly limit: number }): Promise<readonly StoredBlob[]>;
  /** The object of a deleted blob is not in the home any more. */
  gone(id: BlobId): Promise<void>;

  get(id: BlobId): Promise<StoredBlob | null>;
  /** All that a snapshot is made of, the manifest too. */
  ofSnapshot(snapshotId: SnapshotId): Promise<readonly StoredBlob[]>;
  /** The snapshots that need a blob. */
  namedBy(id: BlobId): Promise<readonly SnapshotId[]>;
  /** Live blobs not read whole for `ageMs`, the longest first. */
  unverified(options: { readonly ageMs: number; readonly limit: number }): Promise<readonly StoredBlob[]>;
  /** It was read whole and found right. One that was bad is live again; gives the snapshots that are whole again by it. */
  verified(id: BlobId): Promise<readonly SnapshotId[]>;
  /** Its bytes are damaged or missing. Gives the snapshots that are damaged by it. */
  spoiled(id: BlobId, problem: string): Promise<readonly SnapshotId[]>;
  /**
   * Packs that live since `ageMs` or longer and of which surely or perhaps less than half is needed, the emptiest first. None that
   * a snapshot names which is not durable: that cannot be made anew.
   */
  sparse(options: { readonly ageMs: number; readonly limit: number }): Promise<readonly SparsePack[]>;
  /**
   * Small packs of which an account has many of one size class, those of one class together, the largest number first and the oldest
   * of each first. None that an upload is building on, for that would keep it, and none that `sparse` leaves out.
   */
  small(query: SmallQuery): Promise<readonly NeededPack[]>;
  /** What an account has in the home, live and bad. */
  use(accountId: AccountId): Promise<{ readonly blobs: number; readonly bytes: number }>;
}
