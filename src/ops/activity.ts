import type { VmId } from '../base/ids.ts';
import type { Clock } from '../base/clock.ts';
import type { Activity, OpenUse, WayIn } from '../model/activity.ts';
import { addSpan } from '../model/history.ts';
import { SharedUses } from './shared-uses.ts';
import type { Span, Use } from './use.ts';

const HOUR_MS = 3_600_000;

/** Somebody came before a VM that nobody had used was asleep: it stays awake. */
export class Wanted extends Error {
  override readonly name = 'Wanted';
  constructor() {
    super('somebody came before the VM was asleep');
  }
}

/** A VM that is about to sleep because nobody uses it. */
export interface FallingAsleep {
  /** Aborts with Wanted when somebody uses the VM, unless that is too late. */
  readonly signal: AbortSignal;
  /** From now on it is too late: who comes waits until the VM sleeps, and wakes it. Throws Wanted when somebody was faster. */
  seal(): void;
  /** It sleeps, or does not. */
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
  /** When it was woken or started, of the last hour. */
  wakes: number[];
  leasedUntil: number | null;
  guestBusyUntil: number | null;
  cpuPercent: number | null;
  /** Since when it is leased; null: what is known of that was drained to its end. */
  leasedFrom: number | null;
  /** Uses that have ended since they were drained. */
  ended: Span[];
  falling: { readonly cancel: () => void } | undefined;
  /** The uses that threads begin by themselves. */
  readonly shared: Set<SharedUses>;
}

/**
 * Who uses which VM of this host: all ways in tell it, and it alone is asked. It lives in memory, for with the daemon all connections
 * end; what has to outlive it is written to the VM's row by whoever looks at it from time to time.
 *
 * A visitor first begins a use and then looks at the VM's row; whoever puts a VM to sleep first writes that to its row and then calls
 * `fallAsleep` with the version it decided on. So one of them always sees the other, and the visitor wins until the sleep is sealed.
 */
export class ActivityTracker {
  readonly #clock: Clock;
  readonly #entries = new Map<VmId, Entry>();

  constructor({ clock }: { readonly clock: Clock }) {
    this.#clock = clock;
  }

  /** Begins a use of a VM; `end` must be called whatever becomes of it. */
  begin(vmId: VmId, by: WayIn): Use {
    const entry = this.#used(vmId);
    const now = entry.lastUsedAt;
    const use: Mutable = { by, since: now, lastPayloadAt: now };
    entry.open.add(use);
    return {
      payload: () => {
        use.lastPayloadAt = this.#clock.steady();
      },
      end: () => {
        if (!entry.open.delete(use)) return;
        entry.lastUsedAt = this.#clock.steady();
        addSpan(entry.ended, { by, from: use.since, until: entry.lastUsedAt });
      },
    };
  }

  /** Somebody uses a VM for this moment alone. */
  touch(vmId: VmId): void {
    const { ended, lastUsedAt } = this.#used(vmId);
    addSpan(ended, { by: 'api', from: lastUsedAt, until: lastUsedAt });
  }

  /** Somebody says that a VM is busy for so long from now, in milliseconds; 0 ends that. A later word takes the place of an earlier one. */
  lease(vmId: VmId, ms: number): void {
    const entry = this.#used(vmId);
    this.#endLease(entry);
    entry.leasedUntil = ms > 0 ? entry.lastUsedAt + ms : null;
    entry.leasedFrom = ms > 0 ? entry.lastUsedAt : null;
  }

  /** The uses of a VM that have ended since they were asked for last, and those that are open, until now. */
  drain(vmId: VmId): readonly Span[] {
    const entry = this.#entry(vmId);
    const now = this.#clock.steady();
    if ((entry.leasedUntil ?? 0) <= now) this.#endLease(entry);
    const ended = entry.ended;
    entry.ended = [];
    const open = [...entry.open].map(({ by, since }): Span => ({ by, from: since, until: now }));
    const leased: Span[] =
      entry.leasedFrom === null ? [] : [{ by: 'lease', from: entry.leasedFrom, until: now }];
    const shared = [...entry.shared].flatMap((uses) => uses.drain(now));
    return [...ended, ...shared, ...open, ...leased];
  }

  /** Makes a place where a thread may begin uses of a VM by itself while it is let; whoever asked for it retires it. */
  share(vmId: VmId): SharedUses {
    const shared = new SharedUses();
    this.#entry(vmId).shared.add(shared);
    return shared;
  }

  /** From now on no thread begins a use of a VM by itself. */
  closeShared(vmId: VmId): void {
    for (const shared of this.#entries.get(vmId)?.shared ?? []) shared.close();
  }

  /** Its guest says that it is busy for so long from now, in milliseconds: no use, but a reason not to sleep. */
  guestBusy(vmId: VmId, ms: number): void {
    this.#entry(vmId).guestBusyUntil = this.#clock.steady() + ms;
  }

  /** How much of its vCPUs a VM uses, in percent; null: not known. */
  noteCpu(vmId: VmId, percent: number | null): void {
    this.#entry(vmId).cpuPercent = percent;
  }

  /** The guest of a VM that was started or woken has answered: from now on it can be used. */
  answered(vmId: VmId): void {
    const entry = this.#entry(vmId);
    entry.version++;
    entry.lastUsedAt = this.#clock.steady();
  }

  /** A VM was started or woken. */
  awake(vmId: VmId): void {
    const entry = this.#entry(vmId);
    const now = this.#clock.steady();
    entry.version++;
    entry.awakeSince = now;
    entry.guestBusyUntil = null;
    entry.cpuPercent = null;
    entry.wakes = [...entry.wakes, now].filter((at) => now - at < HOUR_MS);
    entry.lastUsedAt = Math.max(entry.lastUsedAt, now);
  }

  /**
   * A VM was found running by a new daemon: when it was last used, in milliseconds before now; null: nobody wrote that down, and it counts as used now.
   * Its connections ended with the old daemon, so those who had them are given the time after a wake to come back. `leasedForMs`: for how
   * long from now it is busy, or since when it is no more; null: nobody said so.
   */
  adopt(
    vmId: VmId,
    {
      usedBeforeMs,
      leasedForMs,
    }: { readonly usedBeforeMs: number | null; readonly leasedForMs: number | null },
  ): void {
    const entry = this.#entry(vmId);
    const now = this.#clock.steady();
    entry.awakeSince = now;
    entry.lastUsedAt = now - Math.max(usedBeforeMs ?? 0, 0);
    entry.leasedUntil = leasedForMs === null ? null : now + leasedForMs;
    entry.leasedFrom = leasedForMs !== null && leasedForMs > 0 ? now : null;
  }

  /** A VM is about to sleep, decided on a version of its activity; on another one than now, it is wanted already. */
  fallAsleep(vmId: VmId, version: number): FallingAsleep {
    const entry = this.#entry(vmId);
    const abort = new AbortController();
    let sealed = false;
    const falling = {
      cancel: () => {
        if (!sealed) abort.abort(new Wanted());
      },
    };
    // First the gates, then the count: what is not in it has to ask.
    for (const shared of entry.shared) shared.close();
    if (versionOf(entry) !== version) falling.cancel();
    entry.falling = falling;
    return {
      signal: abort.signal,
      seal() {
        abort.signal.throwIfAborted();
        sealed = true;
      },
      end() {
        if (entry.falling === falling) entry.falling = undefined;
      },
    };
  }

  /** Whether a VM is about to sleep because nobody uses it. */
  isFallingAsleep(vmId: VmId): boolean {
    return this.#entries.get(vmId)?.falling !== undefined;
  }

  /** What is known of a VM now. One that was never heard of counts as used at this moment. */
  of(vmId: VmId): Activity {
    const entry = this.#entry(vmId);
    const { awakeSince, leasedUntil, guestBusyUntil, cpuPercent } = entry;
    const now = this.#clock.steady();
    this.#keepWhatIsOver(entry);
    // Before its uses are looked at: one that begins meanwhile makes the version another.
    const version = versionOf(entry);
    return {
      version,
      open: [
        ...[...entry.open].map((use) => ({ ...use })),
        ...[...entry.shared].flatMap((one) => one.uses()),
      ],
      lastUsedAt: Math.max(entry.lastUsedAt, ...[...entry.shared].map((one) => one.lastUsedAt)),
      awakeSince,
      wakesInLastHour: entry.wakes.filter((at) => now - at < HOUR_MS).length,
      leasedUntil,
      guestBusyUntil,
      cpuPercent,
    };
  }

  /** Forgets a VM that is gone. */
  forget(vmId: VmId): void {
    this.closeShared(vmId);
    this.#entries.delete(vmId);
  }

  /** What was shared and is no more stays a part of what is known. */
  #keepWhatIsOver(entry: Entry): void {
    for (const one of entry.shared) {
      if (!one.isOver) continue;
      entry.shared.delete(one);
      entry.version += one.version;
      entry.lastUsedAt = Math.max(entry.lastUsedAt, one.lastUsedAt);
      for (const span of one.drain(this.#clock.steady())) addSpan(entry.ended, span);
    }
  }

  #endLease(entry: Entry): void {
    const { leasedFrom: from, leasedUntil } = entry;
    entry.leasedFrom = null;
    if (from === null || leasedUntil === null) return;
    addSpan(entry.ended, { by: 'lease', from, until: Math.min(leasedUntil, this.#clock.steady()) });
  }

  #used(vmId: VmId): Entry {
    const entry = this.#entry(vmId);
    entry.version++;
    entry.lastUsedAt = this.#clock.steady();
    entry.falling?.cancel();
    return entry;
  }

  #entry(vmId: VmId): Entry {
    const known = this.#entries.get(vmId);
    if (known) return known;
    const now = this.#clock.steady();
    const entry: Entry = {
      version: 0,
      open: new Set(),
      lastUsedAt: now,
      awakeSince: now,
      wakes: [],
      leasedUntil: null,
      guestBusyUntil: null,
      cpuPercent: null,
      leasedFrom: null,
      ended: [],
      falling: undefined,
      shared: new Set(),
    };
    this.#entries.set(vmId, entry);
    return entry;
  }
}

function versionOf({ version, shared }: Entry): number {
  return [...shared].reduce((sum, one) => sum + one.version, version);
}
