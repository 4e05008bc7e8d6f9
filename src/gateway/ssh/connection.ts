import type { Socket } from 'node:net';
import type { Clock } from '../../base/clock.ts';
import type { VmId } from '../../base/ids.ts';
import { sooner } from '../../base/sooner.ts';
import type { Use } from '../../ops/use.ts';
import type { SshVisits } from '../../ops/ssh-visits.ts';
import { Opening } from './opening.ts';
import { KEEPALIVE_MS, reach, relay, reset } from './relay.ts';

/** Who has shown no banner for so long makes room for others. A client that speaks SSH shows one at once. */
const SILENT_MS = 2000;

/** The connections of all ports that wait and have shown nothing yet, the longest waiting first. */
export interface Silent {
  readonly all: Set<Connection>;
  readonly most: number;
}

/**
 * Ends the connection that has said nothing for longest, so that others can come in: those that are opened and left alone keep nobody out.
 * One has to have been silent for a moment, so that however many come at once, a guest is not led to all of them. false: there is none.
 */
export function makeRoom(among: Set<Connection>): boolean {
  for (const connection of among) {
    if (!connection.isSilent) continue;
    connection.end();
    return among.delete(connection);
  }
  return false;
}

export interface ConnectionDeps {
  readonly clock: Clock;
  readonly visits: Pick<SshVisits, 'begin' | 'arrive'>;
  readonly guestPort: number;
  /** How long a guest may take to answer, refusing meanwhile; milliseconds. */
  readonly connectTimeoutMs: number;
  /** How long a client may take to show its banner where the VM does not run; milliseconds. */
  readonly bannerTimeoutMs: number;
  readonly silent: Silent;
}

/**
 * One client at a VM's SSH port. Where the guest runs it is led there at once. Where the VM sleeps it has to show an SSH banner first, so
 * that whoever only looks which ports are open wakes nothing; then it waits for the wake. It counts as a use of the VM from its banner on.
 */
export class Connection {
  readonly #deps: ConnectionDeps;
  readonly #vmId: VmId;
  readonly #client: Socket;
  readonly #since: number;
  #use: Use | undefined;
  /** Of the guest it is being led to; a new one each time. */
  #guestGone = new AbortController();
  #through = false;

  constructor(deps: ConnectionDeps, vmId: VmId, client: Socket) {
    this.#deps = deps;
    this.#vmId = vmId;
    this.#client = client;
    this.#since = deps.clock.steady();
  }

  /** Whether it has been open for a moment and has not shown that it speaks SSH. */
  get isSilent(): boolean {
    return !this.#use && this.#deps.clock.steady() - this.#since >= SILENT_MS;
  }

  /** Ends it, wherever it is. */
  end(): void {
    this.#client.destroy();
  }

  /** The guest is gone: what leads there ends, and who is not there yet looks again where the VM is. */
  hangUp(): void {
    this.#guestGone.abort(new Error('the guest is gone'));
    if (this.#through) reset(this.#client);
  }

  /** Leads the client to its guest until both have said all; resolves with why it ended early, never rejects. */
  async serve(): Promise<Error | undefined> {
    const client = this.#client;
    // Also while it waits: one whose machine is gone is not waited for.
    client.setKeepAlive(true, KEEPALIVE_MS);
    const opening = new Opening(client, {
      shown: () => {
        this.#use = this.#deps.visits.begin(this.#vmId);
      },
      bytes: () => this.#use?.payload(),
    });
    try {
      const guest = await this.#guest(opening);
      guest.on('data', () => this.#use?.payload());
      return await relay(client, guest, opening.take());
    } catch (error) {
      client.destroy();
      return error instanceof Error ? error : new Error(String(error));
    } finally {
      this.#use?.end();
    }
  }

  /** A connection to the guest, woken if it may be. Rejects with why there is none. */
  async #guest(opening: Opening): Promise<Socket> {
    const { clock, visits, guestPort, connectTimeoutMs } = this.#deps;
    const from = this.#client.remoteAddress ?? null;
    for (;;) {
      const gone = new AbortController();
      this.#guestGone = gone;
      const at = await visits.arrive(this.#vmId, { from, shown: opening.shown === true }, opening.left);
      opening.closed.throwIfAborted();
      if (!at) {
        await this.#untilShown(opening);
        continue;
      }
      // It fell asleep since it was looked at.
      if (gone.signal.aborted) continue;
      try {
        const signal = AbortSignal.any([opening.closed, gone.signal]);
        const guest = await reach(clock, { ip: at.ip, port: guestPort, connectTimeoutMs }, signal);
        if (!gone.signal.aborted) {
          this.#through = true;
          return guest;
        }
        guest.destroy();
      } catch (error) {
        if (!gone.signal.aborted || opening.closed.aborted) throw error;
      }
    }
  }

  /** Resolves when the client has shown an SSH banner. Rejects when it said something else, or nothing for too long. */
  async #untilShown(opening: Opening): Promise<void> {
    const { clock, bannerTimeoutMs, silent } = this.#deps;
    if (silent.all.size >= silent.most && !makeRoom(silent.all))
      throw new Error('too many others have shown no SSH banner yet');
    silent.all.add(this);
    try {
      await sooner({ clock, signal: opening.left }, opening.said, bannerTimeoutMs);
    } finally {
      silent.all.delete(this);
    }
    if (opening.shown === true) return;
    throw new Error(
      opening.shown === false
        ? 'it began with something else than an SSH banner'
        : `it showed no SSH banner within ${bannerTimeoutMs / 1000} s`,
    );
  }
}
