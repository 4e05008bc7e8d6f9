import type { VmId } from '../base/ids.ts';

/** How long one waits for those who came, in milliseconds. */
const PATIENCE_MS = 50;

/**
 * Where VMs that are started at once wait for each other before the network is asked for their places: those who ask together share one
 * change of it, and who came a moment too early would be a change by itself, for which all others wait. One alone waits for nobody.
 */
export class Muster {
  readonly #coming = new Set<VmId>();
  #all = Promise.withResolvers<void>();

  /** A VM is on its way; it must arrive, or leave. */
  come(vmId: VmId): void {
    this.#coming.add(vmId);
  }

  /** A VM has come as far; resolves when nobody else is on the way, or after a moment. */
  async arrive(vmId: VmId): Promise<void> {
    this.leave(vmId);
    if (this.#coming.size === 0) return;
    let timer: NodeJS.Timeout | undefined;
    // By real time, whatever clock there is: it is a matter of the event loop.
    const enough = new Promise<void>((resolve) => (timer = setTimeout(resolve, PATIENCE_MS)));
    await Promise.race([this.#all.promise, enough]);
    clearTimeout(timer);
  }

  /** A VM comes no more. */
  leave(vmId: VmId): void {
    if (!this.#coming.delete(vmId) || this.#coming.size > 0) return;
    this.#all.resolve();
    this.#all = Promise.withResolvers();
  }
}
