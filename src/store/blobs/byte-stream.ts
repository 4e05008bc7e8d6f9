import { damaged } from './blob-error.ts';

/** Appends numbers and bytes to a buffer that grows. Varints are LEB128: seven bits a byte, the lowest first. */
export class ByteWriter {
  #bytes = Buffer.allocUnsafe(4096);
  #at = 0;

  /** A whole number from 0 to 2^53 - 1. */
  varint(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${value} is no varint`);
    this.#room(8);
    let rest = value;
    while (rest >= 0x80) {
      this.#bytes[this.#at++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.#bytes[this.#at++] = rest;
  }

  /** A whole number that may be negative: 0, -1, 1, -2, 2... as 0, 1, 2, 3, 4. */
  zigzag(value: number): void {
    this.varint(value < 0 ? -2 * value - 1 : 2 * value);
  }

  byte(value: number): void {
    this.#room(1);
    this.#bytes[this.#at++] = value;
  }

  raw(bytes: Uint8Array): void {
    this.#room(bytes.length);
    this.#bytes.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  /** Its length, then its UTF-8. */
  text(text: string): void {
    const bytes = Buffer.from(text);
    this.varint(bytes.length);
    this.raw(bytes);
  }

  get length(): number {
    return this.#at;
  }

  bytes(): Buffer {
    return this.#bytes.subarray(0, this.#at);
  }

  #room(need: number): void {
    if (this.#at + need <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, this.#at + need));
    larger.set(this.bytes());
    this.#bytes = larger;
  }
}

/** Reads what ByteWriter wrote. Whatever the bytes are, it throws BlobError (`damaged`) or gives a value; it allocates nothing by what they claim. */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #what: string;
  #at = 0;

  /** `what` begins the sentence of an error: "the manifest". */
  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes;
    this.#what = what;
  }

  varint(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 0x80) {
      const byte = this.byte();
      value += (byte & 0x7f) * scale;
      if (value > Number.MAX_SAFE_INTEGER) throw this.error('has a number that is too large');
      if (byte < 0x80) return value;
      if (scale > 2 ** 42) throw this.error('has a number that does not end');
    }
  }

  zigzag(): number {
    const value = this.varint();
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
  }

  byte(): number {
    const byte = this.#bytes[this.#at];
    if (byte === undefined) throw this.error('ends too early');
    this.#at += 1;
    return byte;
  }

  /** The next bytes, not copied. */
  raw(length: number): Buffer {
    if (length > this.left) throw this.error('ends too early');
    const from = this.#bytes.byteOffset + this.#at;
    this.#at += length;
    return Buffer.from(this.#bytes.buffer, from, length);
  }

  text(longest: number): string {
    const length = this.varint();
    if (length > longest) throw this.error(`has a text of ${length} bytes where ${longest} are the most`);
    const bytes = this.raw(length);
    const text = bytes.toString('utf8');
    if (Buffer.byteLength(text) !== length || !Buffer.from(text).equals(bytes))
      throw this.error('has a text that is not UTF-8');
    return text;
  }

  /** A count of things of which each takes at least `least` of the bytes that follow. */
  count(least: number, most: number, of: string): number {
    const count = this.varint();
    if (count > most || count * least > this.left) throw this.error(`claims ${count} ${of}`);
    return count;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  end(): void {
    if (this.left > 0) throw this.error(`has ${this.left} bytes after its end`);
  }

  error(why: string): Error {
    return damaged(`${this.#what} ${why}`);
  }
}
