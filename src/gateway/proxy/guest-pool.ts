import type { Socket } from 'node:net';
import type { GuestLife } from '../../ops/guest-lives.ts';
import { GuestConnection, type Fate } from './guest-connection.ts';

/** Connections that are kept to a port of a guest for the requests to come. */
const MOST_IDLE = 128;

/** The guest ended, or went to sleep: whoever waits for it need not. */
export class GuestOver extends Error {
  override readonly name = 'GuestOver';
}

const NOT_KEPT = new Error('the connection is not kept');
const ONCE: Fate = { free: (one) => one.end(NOT_KEPT), closed: () => undefined };

interface OfLife {
  readonly all: Set<GuestConnection>;
  /** By port; the last that became free is taken first, and the others may go. */
  readonly idle: Map<number, GuestConnection[]>;
}

/**
 * Connections to guests, kept for the next request while the guest lives: none outlasts its sleep, for a guest that goes on from a snapshot
 * knows nothing of what was said to it later.
 */
export class GuestPool {
  readonly #lives = new WeakMap<GuestLife, OfLife>();

  /** A connection that is free; undefined: one has to be made. */
  take(life: GuestLife, port: number): GuestConnection | undefined {
    const idle = this.#lives.get(life)?.idle.get(port);
    for (let one = idle?.pop(); one; one = idle?.pop()) if (one.isOpen) return one;
    return undefined;
  }

  /** Makes a connection out of a socket; without a life it serves one request. */
  add(life: GuestLife | undefined, port: number, socket: Socket): GuestConnection {
    if (!life) return new GuestConnection(socket, ONCE);
    const { all, idle } = this.#of(life);
    const free = idle.get(port) ?? [];
    idle.set(port, free);
    const connection = new GuestConnection(socket, {
      free: (one) => {
        if (life.isOver || free.length >= MOST_IDLE) one.end(NOT_KEPT);
        else free.push(one);
      },
      closed: (one) => {
        all.delete(one);
        const at = free.indexOf(one);
        if (at >= 0) free.splice(at, 1);
      },
    });
    all.add(connection);
    if (life.isOver) connection.end(new GuestOver('the guest has ended'));
    return connection;
  }

  #of(life: GuestLife): OfLife {
    const known = this.#lives.get(life);
    if (known) return known;
    const made: OfLife = { all: new Set(), idle: new Map() };
    this.#lives.set(life, made);
    life.whenOver(() => {
      for (const connection of made.all) connection.end(new GuestOver('the guest has ended'));
    });
    return made;
  }
}
