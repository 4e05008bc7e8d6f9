import type { Socket } from 'node:net';

/** What is held of what a client says before it is led to a guest, in bytes; the rest waits in the kernel. */
const MOST_HELD = 64 * 1024;
const BANNER = Buffer.from('SSH-');

/**
 * Whether somebody speaks SSH, by how they begin; undefined: that is not enough to tell. A client begins with its identification and
 * nothing before it, and need not wait for the server's (RFC 4253, 4.2).
 */
export function speaksSsh(head: Buffer): boolean | undefined {
  const length = Math.min(head.length, BANNER.length);
  if (!head.subarray(0, length).equals(BANNER.subarray(0, length))) return false;
  return length === BANNER.length ? true : undefined;
}

/** How a client's connection begins: what it says is looked at, and held until there is a guest to say it to. */
export class Opening {
  readonly #client: Socket;
  readonly #onBytes: () => void;
  readonly #onShown: () => void;
  readonly #left = new AbortController();
  readonly #closed = new AbortController();
  readonly #said = Promise.withResolvers<void>();
  #head = Buffer.alloc(0);
  #held: Buffer[] | undefined = [];
  #heldBytes = 0;
  #shown: boolean | undefined;

  /** Begins to read. `onShown`: it speaks SSH; `onBytes`: it said something, now or at any time later. */
  constructor(client: Socket, on: { readonly shown: () => void; readonly bytes: () => void }) {
    this.#client = client;
    this.#onShown = on.shown;
    this.#onBytes = on.bytes;
    client.on('data', (chunk: Buffer) => this.#hear(chunk));
    client.once('end', () => this.#left.abort(new Error('the client ended the connection')));
    client.once('close', () => {
      const gone = new Error('the client went away');
      this.#left.abort(gone);
      this.#closed.abort(gone);
    });
    client.resume();
  }

  /** Whether the client speaks SSH; undefined: it has not said enough. */
  get shown(): boolean | undefined {
    return this.#shown;
  }

  /** Resolves when the client has said enough to tell. */
  get said(): Promise<void> {
    return this.#said.promise;
  }

  /** Aborts when the client says no more: whoever is still waiting for a guest then is not. */
  get left(): AbortSignal {
    return this.#left.signal;
  }

  /** Aborts when the connection is closed. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  /** Stops reading and gives what was said until now, once. */
  take(): Buffer {
    this.#client.pause();
    const held = Buffer.concat(this.#held ?? []);
    this.#held = undefined;
    return held;
  }

  #hear(chunk: Buffer): void {
    if (this.#held) {
      this.#held.push(chunk);
      this.#heldBytes += chunk.length;
      if (this.#heldBytes >= MOST_HELD) this.#client.pause();
    }
    if (this.#shown === undefined) {
      this.#head = Buffer.concat([this.#head, chunk.subarray(0, BANNER.length)]);
      this.#shown = speaksSsh(this.#head);
      if (this.#shown === true) this.#onShown();
      if (this.#shown !== undefined) this.#said.resolve();
    }
    this.#onBytes();
  }
}
