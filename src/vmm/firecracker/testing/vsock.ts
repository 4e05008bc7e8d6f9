import { createServer, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';

/** What the guest says to a connection: nothing at all, a refusal, or a stream. */
export type Accept = (port: number) => Duplex | 'refused' | 'silent';

interface Pipe {
  readonly socket: Socket;
  readonly stream: Duplex;
}

const MOST_CONNECTIONS = 1023;
const FIRST_PORT = 2 ** 30;
/** The longest `CONNECT <port>\n` that is looked at. */
const LONGEST_ASKING = 32;
/** sun_path of unix(7), its closing NUL left out. */
const LONGEST_PATH = 107;

/**
 * The vsock device: a unix socket on the host, bound from the moment the device is made and never removed by us. Who connects says
 * `CONNECT <port>` and is answered `OK <host port>`, or the connection is closed when nobody listens in the guest.
 *
 * While the machine stands still nothing is read or accepted: connections wait in the socket. After a resume nothing
 * goes into the guest until it has acknowledged a transport reset; in the releases that ask this of it after every resume, one
 * that no snapshot came before (which sends the reset) is never acknowledged, and the way from the host is lost (firecracker#6100).
 */
export class Vsock {
  readonly path: string;
  readonly #server: Server;
  #accept: Accept | undefined;
  #frozen = false;
  #lost = false;
  #resetSent = false;
  #lastPort = FIRST_PORT - 1;
  #waiting: Socket[] = [];
  readonly #pipes = new Set<Pipe>();

  /** Binds the socket. Rejects with the system's error, as Rust says it. */
  static bind(path: string): Promise<Vsock> {
    return new Promise((resolve, reject) => {
      if (Buffer.byteLength(path) > LONGEST_PATH)
        return reject(new Error('path must be shorter than SUN_LEN'));
      // What comes is held until somebody asks for it: reading begins when the machine runs.
      const server = createServer({ pauseOnConnect: true, allowHalfOpen: true });
      server.once('error', reject);
      server.listen(path, () => {
        server.off('error', reject);
        // It is no reason to live on: the API is.
        server.unref();
        resolve(new Vsock(path, server));
      });
    });
  }

  private constructor(path: string, server: Server) {
    this.path = path;
    this.#server = server;
    server.on('connection', (socket) => {
      socket.unref();
      socket.on('error', () => undefined);
      this.#waiting.push(socket);
      this.#admit();
    });
  }

  /** From now on the machine runs, and the guest answers by `accept`. */
  attach(accept: Accept): void {
    this.#accept = accept;
    this.#admit();
  }

  /** The machine stands still. */
  freeze(): void {
    this.#frozen = true;
    for (const { socket, stream } of this.#pipes) {
      socket.unpipe(stream);
      stream.unpipe(socket);
    }
  }

  /** A snapshot was written: a transport reset waits for the guest in its memory. */
  sendReset(): void {
    this.#resetSent = true;
  }

  /** The machine goes on. `asks`: this release asks for an acknowledged reset after every resume. */
  thaw(asks: boolean): void {
    this.#frozen = false;
    if (this.#resetSent) for (const { socket } of [...this.#pipes]) socket.destroy();
    this.#lost = asks && !this.#resetSent;
    this.#resetSent = false;
    for (const pipe of this.#pipes) this.#join(pipe);
    this.#admit();
  }

  /** Every connection ends, as when the guest's side of it does. */
  dropAll(): void {
    for (const { socket } of [...this.#pipes]) socket.destroy();
  }

  /** Removes the socket too: only a device that is put in this one's place does that. */
  async close(): Promise<void> {
    for (const socket of this.#waiting) socket.destroy();
    this.dropAll();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #admit(): void {
    if (!this.#accept || this.#frozen || this.#lost) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const socket of waiting) {
      socket.once('data', (bytes) => this.#hear(socket, bytes));
      socket.once('end', () => socket.destroy());
      socket.resume();
    }
  }

  #hear(socket: Socket, bytes: Buffer): void {
    socket.pause();
    const end = bytes.subarray(0, LONGEST_ASKING).indexOf('\n');
    // It is read once, without waiting: an asking that comes in pieces is none.
    const asking = bytes.subarray(0, end === -1 ? LONGEST_ASKING : end + 1).toString('utf8');
    const port = /^\s*connect\s+\+?(\d+)(\s|$)/i.exec(asking)?.[1];
    const full = this.#pipes.size >= MOST_CONNECTIONS;
    if (port === undefined || asking.length < 10 || Number(port) >= 2 ** 32 || full)
      return void socket.destroy();
    const rest = bytes.subarray(Buffer.byteLength(asking));
    if (rest.length > 0) socket.unshift(rest);
    this.#dial(socket, Number(port));
  }

  #dial(socket: Socket, port: number): void {
    // Given out before anybody knows whether the guest will have it.
    const hostPort = ++this.#lastPort;
    const stream = this.#accept?.(port) ?? 'silent';
    if (stream === 'refused') return void socket.destroy();
    if (stream === 'silent') return;
    socket.write(`OK ${hostPort}\n`);
    const pipe = { socket, stream };
    this.#pipes.add(pipe);
    socket.once('close', () => {
      this.#pipes.delete(pipe);
      stream.destroy();
    });
    stream.on('error', () => undefined);
    stream.once('close', () => socket.destroy());
    socket.removeAllListeners('end');
    socket.once('end', () => socket.destroy());
    if (!this.#frozen) this.#join(pipe);
  }

  #join({ socket, stream }: Pipe): void {
    stream.pipe(socket);
    if (!this.#lost) socket.pipe(stream);
  }
}
