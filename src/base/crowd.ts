import type { Server, Socket } from 'node:net';

/** What is known of a connection from whichever side it is seen: under TLS as the socket below it, or the one above. */
export type Seen = Pick<Socket, 'remoteAddress' | 'remotePort'>;

/**
 * Keeps the connections of a server within bounds. When there are almost too many, those that have been silent longest make room:
 * connections that are opened and then left alone, however many, keep nobody out. One that a request or another protocol is under way on
 * is not silent.
 */
export class Crowd {
  readonly #all = new Map<string, Socket>();
  /** Those without a request, the longest silent first. */
  readonly #silent = new Set<string>();
  /** What a connection is called stays, and is asked for twice with each request. */
  readonly #names = new WeakMap<Seen, string>();

  /** `most`: connections there may be at once; whoever comes when as many have something under way is hung up on. */
  constructor(server: Server, most: number) {
    server.maxConnections = most;
    // A connection is gone only a moment after it is ended.
    const full = most - Math.ceil(most / 16);
    server.prependListener('connection', (socket: Socket) => {
      const name = nameOf(socket);
      this.#all.set(name, socket);
      this.#silent.add(name);
      socket.once('close', () => this.#forget(name, socket));
      for (const oldest of this.#silent) {
        if (this.#all.size <= full) break;
        this.#all.get(oldest)?.destroy();
        this.#forget(oldest);
      }
    });
  }

  /** How many there are. */
  get size(): number {
    return this.#all.size;
  }

  /** Something is under way on a connection. */
  busy(seen: Seen): void {
    this.#silent.delete(this.#nameOf(seen));
  }

  /** Nothing is under way on a connection any more. */
  silent(seen: Seen): void {
    const name = this.#nameOf(seen);
    if (this.#all.has(name)) this.#silent.add(name);
  }

  /** Ends all of them. */
  end(): void {
    for (const socket of this.#all.values()) socket.destroy();
  }

  #nameOf(seen: Seen): string {
    const known = this.#names.get(seen);
    if (known !== undefined) return known;
    const name = nameOf(seen);
    this.#names.set(seen, name);
    return name;
  }

  #forget(name: string, socket = this.#all.get(name)): void {
    if (this.#all.get(name) !== socket) return;
    this.#all.delete(name);
    this.#silent.delete(name);
  }
}

function nameOf({ remoteAddress, remotePort }: Seen): string {
  return `${remoteAddress} ${remotePort}`;
}
