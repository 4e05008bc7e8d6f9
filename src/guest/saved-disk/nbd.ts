import type { Socket } from 'node:net';
import type { ByteSource } from './byte-source.ts';

/**
 * The reading half of NBD, as qemu-nbd serves a disk whatever format it is stored in
 * (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md): fixed newstyle handshake, one request at a time, simple
 * replies.
 */

const NBDMAGIC = 0x4e42444d41474943n;
const IHAVEOPT = 0x49484156454f5054n;
const EXPORT_NAME = 1;
const FIXED_NEWSTYLE = 1;
const NO_ZEROES = 2;
const REQUEST = 0x25609513;
const REPLY = 0x67446698;
const READ = 0;
const DISCONNECT = 2;
/** qemu-nbd takes up to 32 MiB; nothing here asks for as much. */
const MOST_BYTES = 32 * 1024 * 1024;

/** Opens the disk that is served on a socket. Takes the socket over: it is closed with what is given back, or when this throws. */
export async function openNbd(socket: Socket): Promise<ByteSource> {
  const incoming = new Incoming(socket);
  try {
    const hello = await incoming.exactly(18);
    if (hello.readBigUInt64BE(0) !== NBDMAGIC || hello.readBigUInt64BE(8) !== IHAVEOPT)
      throw new Error('what answers on the socket does not speak NBD');
    const both = hello.readUInt16BE(16) & (FIXED_NEWSTYLE | NO_ZEROES);
    const choice = Buffer.alloc(20);
    choice.writeUInt32BE(both, 0);
    choice.writeBigUInt64BE(IHAVEOPT, 4);
    choice.writeUInt32BE(EXPORT_NAME, 12);
    socket.write(choice);
    const size = (await incoming.exactly(10)).readBigUInt64BE(0);
    if (!(both & NO_ZEROES)) await incoming.exactly(124);
    if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw new Error('the disk is larger than can be counted');
    return new NbdSource(socket, incoming, Number(size));
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

class NbdSource implements ByteSource {
  readonly sizeBytes: number;
  readonly #socket: Socket;
  readonly #incoming: Incoming;
  #last: Promise<unknown> = Promise.resolve();
  #handle = 0n;

  constructor(socket: Socket, incoming: Incoming, sizeBytes: number) {
    this.#socket = socket;
    this.#incoming = incoming;
    this.sizeBytes = sizeBytes;
  }

  read(offset: number, length: number): Promise<Buffer> {
    if (length > MOST_BYTES) throw new Error(`at most ${MOST_BYTES} bytes can be read at once`);
    const read = this.#last.then(() => this.#request(offset, length));
    this.#last = read.catch(() => undefined);
    return read;
  }

  async close(): Promise<void> {
    if (!this.#socket.destroyed) this.#socket.end(request(DISCONNECT, 0n, 0, 0));
    this.#socket.resume();
    this.#incoming.stop(new Error('the disk was closed'));
  }

  async #request(offset: number, length: number): Promise<Buffer> {
    const handle = ++this.#handle;
    this.#socket.write(request(READ, handle, offset, length));
    const reply = await this.#incoming.exactly(16);
    if (reply.readUInt32BE(0) !== REPLY || reply.readBigUInt64BE(8) !== handle)
      throw new Error('the answer is not to what was asked');
    const errno = reply.readUInt32BE(4);
    if (errno !== 0) throw new Error(`reading the disk failed with error ${errno}`);
    return this.#incoming.exactly(length);
  }
}

function request(type: number, handle: bigint, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(REQUEST, 0);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(handle, 8);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

/** What comes on a socket, in pieces as they are asked for. The other side sends only what was asked, so little waits here. */
class Incoming {
  #chunks: Buffer[] = [];
  #bytes = 0;
  #broken: Error | undefined;
  #waiting: { length: number; give: (bytes: Buffer) => void; fail: (error: Error) => void } | undefined;

  constructor(socket: Socket) {
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#bytes += chunk.length;
      this.#serve();
    });
    socket.on('error', (error) => this.stop(error));
    socket.on('close', () => this.stop(new Error('the program that reads the disk has ended')));
  }

  exactly(length: number): Promise<Buffer> {
    return new Promise((give, fail) => {
      this.#waiting = { length, give, fail };
      this.#serve();
    });
  }

  stop(error: Error): void {
    this.#broken ??= error;
    this.#serve();
  }

  #serve(): void {
    const waiting = this.#waiting;
    if (!waiting) return;
    if (this.#bytes >= waiting.length) {
      const all =
        this.#chunks.length === 1 && this.#chunks[0] ? this.#chunks[0] : Buffer.concat(this.#chunks);
      const rest = all.subarray(waiting.length);
      this.#chunks = rest.length > 0 ? [rest] : [];
      this.#bytes = rest.length;
      this.#waiting = undefined;
      waiting.give(all.subarray(0, waiting.length));
    } else if (this.#broken) {
      this.#waiting = undefined;
      waiting.fail(this.#broken);
    }
  }
}
