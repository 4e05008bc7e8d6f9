import type { VmId } from '../base/ids.ts';
import type { SteadyClock } from '../base/clock.ts';
import type { Activity, OpenUse, WayIn } from '../model/activity.ts';

/** One use of a VM, for whoever carries it. */
export interface Use {
  /** Something went through it, either way. */
  payload(): void;
  /** It is over; saying so again does nothing. */
  end(): void;
}

interface Mutable extends OpenUse {
  lastPayloadAt: number;
}

interface Entry {
  version: number;
  readonly open: Set<Mutable>;
  lastUsedAt: number;
  awakeSince: number;
  leasedUntil: number | null;
}

/**
 * Who uses which VM of this host: all ways in tell it, and it alone is asked. It lives in memory, for with the daemon all connections
 * end; what has to outlive it is written to the VM's row by whoever looks at it from time to time.
 *
 * A visitor first begins a use and then looks at the VM's row; whoever puts a VM to sleep first writes that to its row and then looks at
 * the version here. So one of them always sees the other, and `onUse` lets a sleep that has not sealed be given up.
 */
export class ActivityTracker {
  readonly #clock: SteadyClock;
  readonly #entries = new Map<VmId, Entry>();
  /** Called whenever a use or lease begins. */
  onUse: (vmId: VmId) => void = () => undefined;

  constructor({ clock }: { readonly clock: SteadyClock }) {
    this.#clock = clock;
  }

  /** Begins a use of a VM; `end` must be called whatever becomes of it. */
  begin(vmId: VmId, by: WayIn): Use {
    const entry = this.#entry(vmId);
    const now = this.#clock.steady();
    const use: Mutable = { by, since: now, lastPayloadAt: now };
    entry.version++;
    entry.lastUsedAt = now;
    entry.open.add(use);
    this.onUse(vmId);
    return {
      payload: () => {
        use.lastPayloadAt = this.#clock.steady();
      },
      end: () => {
        if (!entry.open.delete(use)) return;
        entry.lastUsedAt = this.#clock.steady();
      },
    };
  }

  /** Somebody says that a VM is busy for so long from now, in milliseconds; 0 ends that. A later word takes the place of an earlier one. */
  lease(vmId: VmId, ms: number): void {
    const entry = this.#entry(vmId);
    entry.version++;
    const now = this.#clock.steady();
    entry.lastUsedAt = now;
    entry.leasedUntil = ms > 0 ? now + ms : null;
    this.onUse(vmId);
  }

  /** A VM was started or woken. */
  awake(vmId: VmId): void {
    const entry = this.#entry(vmId);
    entry.version++;
    entry.awakeSince = this.#clock.steady();
    entry.lastUsedAt = Math.max(entry.lastUsedAt, entry.awakeSince);
  }

  /** What is known of a VM now. One that was never heard of counts as used at this moment. */
  of(vmId: VmId): Activity {
    const { version, open, lastUsedAt, awakeSince, leasedUntil } = this.#entry(vmId);
    return { version, open: [...open].map((use) => ({ ...use })), lastUsedAt, awakeSince, leasedUntil };
  }

  /** Forgets a VM that is gone. */
  forget(vmId: VmId): void {
    this.#entries.delete(vmId);
  }

  #entry(vmId: VmId): Entry {
    const known = this.#entries.get(vmId);
    if (known) return known;
    const now = this.#clock.steady();
    const entry: Entry = { version: 0, open: new Set(), lastUsedAt: now, awakeSince: now, leasedUntil: null };
    this.#entries.set(vmId, entry);
    return entry;
  }
}
