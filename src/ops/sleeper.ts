import type { Clock } from '../base/clock.ts';
import type { VmId } from '../base/ids.ts';
import { deadline } from '../base/deadline.ts';
import { errorFields } from '../base/logger.ts';
import { Slots } from '../base/slots.ts';
import { SPAN_GAP_MS } from '../model/history.ts';
import { decideIdle, type Decision } from '../model/idle.ts';
import type { Vm } from '../model/vm.ts';
import { isGuestBusy } from './ask-guest.ts';
import { CpuMeter } from './cpu-meter.ts';
import { decideNow } from './idle-signals.ts';
import { ownerOf } from './owner.ts';
import { sayVerdict, signalsOf } from './say-verdict.ts';
import { sleepVm } from './snapshot-vm.ts';
import { stopIdle } from './stop-vm.ts';
import { translate } from './translate.ts';
import type { World } from './world.ts';

/** After a VM could not be put to sleep it is tried again no sooner than this, each time twice as long, at most so long; in milliseconds. */
const BACK_OFF = { firstMs: 60_000, mostMs: 3_600_000 } as const;
/** How long a hypervisor has to tell its CPU time, in milliseconds. */
const COUNT_MS = 5000;
/** What is written of the last use of a VM may be this much too early, in milliseconds. */
const ACTIVE_MS = 1000;

/**
 * Puts VMs to sleep that nobody uses. It looks at every running VM of this host from time to time, at each by itself: one that takes long
 * holds up no other. So many are put to sleep at once, and no more.
 */
export class Sleeper {
  readonly #world: World;
  readonly #clock: Clock;
  readonly #slots: Slots;
  readonly #ending = new AbortController();
  /** The looks under way. */
  readonly #looking = new Map<VmId, Promise<void>>();
  readonly #failed = new Map<VmId, { readonly delayMs: number; readonly until: number }>();
  /** The reason last written down for not putting a VM to sleep. */
  readonly #refused = new Map<VmId, string>();
  readonly #cpu = new CpuMeter();
  #loop: Promise<void> = Promise.resolve();

  constructor(
    world: World,
    { clock, sleepsAtOnce }: { readonly clock: Clock; readonly sleepsAtOnce: number },
  ) {
    this.#world = world;
    this.#clock = clock;
    this.#slots = new Slots(sleepsAtOnce);
  }

  /** Looks every so many milliseconds, until it is closed. */
  start(intervalMs: number): void {
    this.#loop = this.#every(intervalMs);
  }

  /** Begins no look any more; resolves when those under way have ended, which operations that are cut off do. */
  async close(): Promise<void> {
    this.#ending.abort(new Error('the server is stopping'));
    await this.#loop;
    await Promise.all(this.#looking.values());
  }

  /** Looks at all running VMs of this host once that are not being looked at; resolves when it has. */
  async round(): Promise<void> {
    await Promise.all(await this.#begin());
  }

  /** What would be decided about a VM now. */
  decide(vm: Vm): Decision {
    const failedUntil = this.#failed.get(vm.id)?.until ?? null;
    return decideNow(this.#world, vm, { now: this.#clock.steady(), failedUntil, decide: decideIdle });
  }

  async #every(intervalMs: number): Promise<void> {
    const { signal } = this.#ending;
    while (!signal.aborted) {
      await this.#clock.sleep(intervalMs, signal).catch(() => undefined);
      if (signal.aborted) return;
      try {
        // Nobody waits for all of them here: the next round leaves out those that take longer.
        void (await this.#begin());
      } catch (error) {
        this.#world.log.error(errorFields(error), 'could not look for VMs nobody uses; it is tried again');
      }
    }
  }

  async #begin(): Promise<readonly Promise<void>[]> {
    const { store, settings } = this.#world;
    const all = await store.vms.ofHost(settings.hostId);
    const here = new Set(all.map(({ id }) => id));
    for (const known of [this.#failed, this.#refused, this.#cpu])
      for (const id of known.keys()) if (!here.has(id)) known.delete(id);
    const running = all.filter(({ state }) => state === 'running');
    return running.filter(({ id }) => !this.#looking.has(id)).map((vm) => this.#look(vm));
  }

  #look(vm: Vm): Promise<void> {
    const looking = this.#check(vm)
      .catch((error: unknown) => {
        if (!this.#ending.signal.aborted)
          this.#world.log.error({ vm: vm.id, ...errorFields(error) }, 'could not look whether a VM is idle');
      })
      .finally(() => this.#looking.delete(vm.id));
    this.#looking.set(vm.id, looking);
    return looking;
  }

  async #check(vm: Vm): Promise<void> {
    await this.#noteActive(vm);
    await this.#noteUses(vm.id);
    await this.#measure(vm);
    const decision = this.decide(vm);
    if (!decision.verdict.sleep) return this.#noteRefusal(vm, decision);
    await this.#slots.run(() => this.#putToSleep(vm.id), this.#ending.signal);
  }

  /** Its turn may have been long in coming: what is so now counts. */
  async #putToSleep(vmId: VmId): Promise<void> {
    const { store, settings, activity } = this.#world;
    this.#ending.signal.throwIfAborted();
    const vm = await store.vms.get(vmId);
    if (vm?.hostId !== settings.hostId || vm.state !== 'running') return;
    const decision = this.decide(vm);
    const { verdict, signals } = decision;
    if (!verdict.sleep) return this.#noteRefusal(vm, decision);
    if (await isGuestBusy(this.#world, vm, this.#ending.signal))
      return this.#noteRefusal(vm, this.decide(vm));
    const falling = activity.fallAsleep(vm.id, signals.activity.version);
    const idle = { falling, decided: signalsOf(decision) };
    try {
      if (verdict.action === 'snapshot') await sleepVm(this.#world, vm, idle);
      else await stopIdle(this.#world, vm, idle);
      this.#failed.delete(vm.id);
      this.#refused.delete(vm.id);
    } catch (error) {
      if (falling.signal.aborted || this.#ending.signal.aborted) return;
      await this.#noteFailure(vm, error);
    } finally {
      falling.end();
    }
  }

  /** Measures how much CPU a VM has used since the last look, where its policy wants to know. */
  async #measure(vm: Vm): Promise<void> {
    const { fleet, settings, activity, log } = this.#world;
    const live = fleet.get(vm.id);
    if ((vm.idle ?? settings.idle).cpuBelow === null || !live) return this.#cpu.delete(vm.id);
    try {
      const { cpuSeconds } = await deadline('counting its CPU time', COUNT_MS, () => live.machine.counters());
      const reading = { cpuSeconds, at: this.#clock.steady() };
      activity.noteCpu(vm.id, this.#cpu.measure(vm, live.machine.process, reading));
    } catch (error) {
      // What is not known keeps it awake.
      activity.noteCpu(vm.id, null);
      log.warn({ vm: vm.id, ...errorFields(error) }, 'could not count the CPU time of a VM');
    }
  }

  async #noteFailure(vm: Vm, error: unknown): Promise<void> {
    const { code, message } = translate(error);
    // Somebody else is at it: the next look sees what came of that.
    if (code === 'busy' || code === 'not_found' || code === 'wrong_state') return;
    const before = this.#failed.get(vm.id)?.delayMs;
    const delayMs = before === undefined ? BACK_OFF.firstMs : Math.min(2 * before, BACK_OFF.mostMs);
    this.#failed.set(vm.id, { delayMs, until: this.#clock.steady() + delayMs });
    await this.#refuse(vm, `failed: ${code}`, `It stays awake: ${message}`, { reason: 'failed', code });
  }

  async #noteRefusal(vm: Vm, decision: Decision): Promise<void> {
    const { verdict } = decision;
    if (verdict.sleep) return;
    if (!verdict.refused) return void this.#refused.delete(vm.id);
    // Why it failed was written down when it did.
    if (verdict.reason === 'failed') return;
    await this.#refuse(vm, verdict.reason, sayVerdict(decision), signalsOf(decision));
  }

  /** Writes down why a VM is not put to sleep, once for as long as that stays so. */
  async #refuse(
    vm: Vm,
    reason: string,
    message: string,
    data: Readonly<Record<string, unknown>>,
  ): Promise<void> {
    if (this.#refused.get(vm.id) === reason) return;
    this.#refused.set(vm.id, reason);
    const { accountId, id: vmId } = vm;
    await this.#world.store.events.add({ accountId, vmId, kind: 'vm.sleep_refused', message, data });
  }

  /** Writes down how a VM was used, to be simulated with. */
  async #noteUses(vmId: VmId): Promise<void> {
    const { activity, store, clock } = this.#world;
    const spans = activity.drain(vmId);
    if (spans.length === 0) return;
    const behind = clock.now() - this.#clock.steady();
    const wall = spans.map(({ by, from, until }) => ({
      vmId,
      by,
      from: Math.round(from + behind),
      until: Math.round(until + behind),
    }));
    await store.history.addUses(wall, SPAN_GAP_MS);
  }

  /** Writes down when a VM was last used, for those who ask and for the daemon after this one. */
  async #noteActive(vm: Vm): Promise<void> {
    const { activity, store, clock } = this.#world;
    const { open, lastUsedAt } = activity.of(vm.id);
    const at = clock.now() - (open.length > 0 ? 0 : this.#clock.steady() - lastUsedAt);
    if (vm.lastActiveAt !== null && Math.abs(at - vm.lastActiveAt) < ACTIVE_MS) return;
    await store.vms.noteUse(vm.id, ownerOf(vm), { lastActiveAt: Math.round(at) });
  }
}
