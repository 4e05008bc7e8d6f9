import type { Socket } from 'node:net';
import { AnswerReader, type AnswerHead } from './answer-reader.ts';
import type { RawHeaders } from './pairs.ts';

/** Who is told of a guest's answer. */
export interface Listener {
  interim(head: AnswerHead): void;
  head(head: AnswerHead): void;
  /** A piece of the body; false: no more of it is wanted until `resume`. */
  body(piece: Buffer): boolean;
  /** All that has come at once was told. */
  settled(): void;
  end(trailers: RawHeaders): void;
  /** What was sent could not be taken at once, and now has been. */
  drained(): void;
  /** It will not be whole. `heard`: whether anything of it had come. */
  failed(cause: Error, heard: boolean): void;
}

/** A connection that is silent for so long is ended: common servers keep idle ones for five seconds and more. */
const IDLE_MS = 4000;

/** What becomes of a connection. */
export interface Fate {
  /** Another request may be asked over it. */
  free(connection: GuestConnection): void;
  /** It is closed, whoever had it last. */
  closed(connection: GuestConnection): void;
}

/** A connection to a port of a guest, for one request after another. */
export class GuestConnection {
  readonly #socket: Socket;
  readonly #fate: Fate;
  #reader: AnswerReader | undefined;
  #listener: Listener | undefined;
  #sent = true;
  #times = 0;
  #why: Error | undefined;

  constructor(socket: Socket, fate: Fate) {
    this.#socket = socket;
    this.#fate = fate;
    socket.on('data', this.#read);
    socket.on('end', this.#ended);
    socket.on('drain', this.#drained);
    socket.on('error', (error) => (this.#why ??= error));
    socket.on('close', () => this.#closed());
    socket.setTimeout(IDLE_MS);
    socket.on('timeout', this.#silent);
  }

  /** Whether something was asked over it before: then the guest may have hung up, and that not be known yet. */
  get isUsed(): boolean {
    return this.#times > 1;
  }

  get isOpen(): boolean {
    return !this.#socket.destroyed;
  }

  /** Sends the head of a request, its empty line included; the body follows with `write` and `sent`. */
  ask(head: string, method: string, listener: Listener): void {
    this.#times++;
    this.#listener = listener;
    this.#sent = false;
    this.#reader = new AnswerReader(
      {
        interim: (interim) => listener.interim(interim),
        head: (answer) => listener.head(answer),
        body: (piece) => {
          if (!listener.body(piece)) this.#socket.pause();
        },
        end: (trailers) => listener.end(trailers),
      },
      { method },
    );
    this.#socket.write(head, 'latin1');
  }

  /** Sends a piece of the body; false: `drained` is told when more is taken. */
  write(piece: Buffer | string): boolean {
    return this.#socket.write(piece, 'latin1');
  }

  /** Sends a piece of a body whose length was not told before (RFC 9112, 7.1); an empty one would be its end. */
  writeChunk(piece: Buffer): boolean {
    this.#socket.cork();
    this.#socket.write(`${piece.length.toString(16)}\r\n`, 'latin1');
    this.#socket.write(piece);
    const more = this.#socket.write('\r\n', 'latin1');
    this.#socket.uncork();
    return more;
  }

  /** The request is sent whole. */
  sent(): void {
    this.#sent = true;
    this.#maybeFree();
  }

  /** More of the body is wanted. */
  resume(): void {
    this.#socket.resume();
  }

  /** Ends it, whatever is under way, which is told why. */
  end(why: Error): void {
    this.#why ??= why;
    this.#socket.destroy();
  }

  /** Gives the socket away, for another protocol; what has come of that is put back. */
  release(): Socket {
    this.#listener = undefined;
    this.#reader = undefined;
    const socket = this.#socket;
    socket.off('data', this.#read);
    socket.off('end', this.#ended);
    socket.off('drain', this.#drained);
    socket.off('timeout', this.#silent);
    socket.setTimeout(0);
    socket.pause();
    return socket;
  }

  readonly #read = (piece: Buffer): void => {
    const [reader, listener] = [this.#reader, this.#listener];
    // Who speaks without being asked is not asked any more.
    if (!reader || !listener) return void this.#socket.destroy();
    try {
      const rest = reader.feed(piece);
      if (this.#listener !== listener) {
        if (rest && rest.length > 0) this.#socket.unshift(rest);
        return;
      }
      if (rest && rest.length > 0) this.#why ??= new Error('the guest said more than was asked');
      listener.settled();
      if (reader.done) this.#maybeFree();
    } catch (error) {
      this.end(error as Error);
    }
  };

  readonly #ended = (): void => {
    try {
      // Who has said nothing has not answered wrongly either.
      if (this.#reader?.heard) this.#reader.close();
      this.#listener?.settled();
      this.#maybeFree();
    } catch (error) {
      this.#why ??= error as Error;
    }
  };

  readonly #drained = (): void => this.#listener?.drained();

  readonly #silent = (): void => {
    if (!this.#listener) this.#socket.destroy();
  };

  #maybeFree(): void {
    const reader = this.#reader;
    if (!this.#sent || !reader?.done) return;
    this.#listener = undefined;
    this.#reader = undefined;
    if (!reader.keeps || this.#why || !this.isOpen) return void this.#socket.destroy();
    this.#socket.resume();
    this.#fate.free(this);
  }

  #closed(): void {
    const [reader, listener] = [this.#reader, this.#listener];
    this.#reader = undefined;
    this.#listener = undefined;
    this.#fate.closed(this);
    if (!reader?.done)
      listener?.failed(this.#why ?? new Error('the connection was closed'), reader?.heard ?? false);
  }
}
