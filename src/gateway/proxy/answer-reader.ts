import { BadMessage, HEAD_BYTES, readHead, says, type Head } from './message-head.ts';
import type { RawHeaders } from './pairs.ts';

/** What a guest says before its answer: to go on, and where the browser may look already. More than so many are no answer. */
const MOST_INTERIM = 32;
/** The line before a chunk, with whatever extensions nobody has ever used. */
const CHUNK_LINE_BYTES = 1024;

/** The head of an answer. */
export interface AnswerHead {
  readonly status: number;
  readonly reason: string;
  readonly headers: RawHeaders;
  readonly upgrade: string | undefined;
}

/** Who is told of an answer as it is read. */
export interface AnswerEar {
  /** A 1xx that is not the answer yet. */
  interim(head: AnswerHead): void;
  head(head: AnswerHead): void;
  body(piece: Buffer): void;
  end(trailers: RawHeaders): void;
}

type State = 'head' | 'length' | 'until-close' | 'chunk-line' | 'chunk' | 'chunk-end' | 'trailers' | 'done';

const CRLF = '\r\n';
const HEAD_END = '\r\n\r\n';

/** Reads one answer of HTTP/1.1 out of what comes from a guest (RFC 9112): strict, and in bounded memory whatever the guest sends. */
export class AnswerReader {
  readonly #ear: AnswerEar;
  readonly #bodiless: boolean;
  #state: State = 'head';
  /** What has come of a head, or of a line, that has no end yet. */
  #held: Buffer | undefined;
  #left = 0;
  #interim = 0;
  #keeps = false;
  #heard = false;

  /** `method`: what was asked with; an answer to HEAD has no body. */
  constructor(ear: AnswerEar, { method }: { readonly method: string }) {
    this.#ear = ear;
    this.#bodiless = method === 'HEAD';
  }

  /** Whether the answer is whole. */
  get done(): boolean {
    return this.#state === 'done';
  }

  /** Whether anything has come. */
  get heard(): boolean {
    return this.#heard;
  }

  /** Whether another answer may follow on the connection. */
  get keeps(): boolean {
    return this.#keeps && this.#state === 'done';
  }

  /** Reads on; gives what is left when the answer is whole: nothing, unless the guest says more than it was asked. Throws BadMessage. */
  feed(piece: Buffer): Buffer | undefined {
    this.#heard = true;
    let rest: Buffer | undefined = piece;
    while (rest && rest.length > 0 && this.#state !== 'done') rest = this.#step(rest);
    return this.#state === 'done' ? rest : undefined;
  }

  /** The guest has ended the connection. Throws BadMessage unless that is how the answer ends. */
  close(): void {
    if (this.#state === 'done') return;
    if (this.#state !== 'until-close') throw new BadMessage('ends half-way');
    this.#end([]);
  }

  #step(piece: Buffer): Buffer | undefined {
    switch (this.#state) {
      case 'length':
      case 'chunk':
        return this.#counted(piece);
      case 'until-close':
        this.#ear.body(piece);
        return undefined;
      case 'head':
        return this.#untilText(HEAD_END, HEAD_BYTES, piece, (text) => this.#readHead(text));
      case 'chunk-line':
        return this.#untilText(CRLF, CHUNK_LINE_BYTES, piece, (text) => this.#readChunkLine(text));
      case 'chunk-end':
        return this.#untilText(CRLF, CRLF.length, piece, (text) => this.#readChunkEnd(text));
      case 'trailers':
        return this.#readTrailers(piece);
      case 'done':
        return piece;
    }
  }

  #counted(piece: Buffer): Buffer | undefined {
    const own = piece.length > this.#left ? piece.subarray(0, this.#left) : piece;
    this.#left -= own.length;
    const [last, chunk] = [this.#left === 0, this.#state === 'chunk'];
    if (last && chunk) this.#state = 'chunk-end';
    this.#ear.body(own);
    if (last && !chunk) this.#end([]);
    return own.length === piece.length ? undefined : piece.subarray(own.length);
  }

  /** Collects until some characters have come, reads what is before them, and gives what is after. */
  #untilText(end: string, most: number, piece: Buffer, read: (text: string) => unknown): Buffer | undefined {
    const before = this.#held?.length ?? 0;
    const all = this.#held ? Buffer.concat([this.#held, piece]) : piece;
    const at = all.indexOf(end, Math.max(0, before - end.length + 1), 'latin1');
    if (at > most || (at < 0 && all.length > most + end.length))
      throw new BadMessage(`has a head or a line of over ${most} bytes`);
    if (at < 0) {
      this.#held = all;
      return undefined;
    }
    this.#held = undefined;
    read(all.toString('latin1', 0, at));
    return all.subarray(at + end.length);
  }

  #readHead(text: string): void {
    const head = readHead(text);
    const [, minor, digits, , reason = ''] =
      /^HTTP\/1\.([01]) ([1-9]\d\d)( ([\t\x20-\x7e\x80-\xff]*))?$/.exec(head.start) ?? [];
    if (digits === undefined) throw new BadMessage('does not begin with a status line');
    const status = Number(digits);
    const answer = { status, reason, headers: head.headers, upgrade: head.upgrade };
    if (status < 200 && status !== 101) {
      if (++this.#interim > MOST_INTERIM) throw new BadMessage('says again and again that it comes');
      return this.#ear.interim(answer);
    }
    this.#keeps = minor === '1' && !says(head, 'close');
    const none = this.#bodiless || status === 101 || status === 204 || status === 304;
    this.#state = none || head.length === 0 ? 'head' : bodyOf(head);
    this.#left = head.length ?? 0;
    if (this.#state === 'until-close') this.#keeps = false;
    this.#ear.head(answer);
    if (this.#state === 'head') this.#end([]);
  }

  #readChunkLine(text: string): void {
    const [, size] = /^([0-9a-fA-F]{1,12})[ \t]*(;[^\r\n]*)?$/.exec(text) ?? [];
    if (size === undefined) throw new BadMessage('has a chunk without a size');
    this.#left = parseInt(size, 16);
    this.#state = this.#left === 0 ? 'trailers' : 'chunk';
  }

  #readChunkEnd(text: string): void {
    if (text !== '') throw new BadMessage('has a chunk that is longer than it said');
    this.#state = 'chunk-line';
  }

  #readTrailers(piece: Buffer): Buffer | undefined {
    // As a head that may be empty: the line end before it is that of the last chunk.
    this.#held = this.#held ?? Buffer.from(CRLF);
    return this.#untilText(HEAD_END, HEAD_BYTES, piece, (text) => this.#end(readHead(text).headers));
  }

  #end(trailers: RawHeaders): void {
    this.#state = 'done';
    this.#ear.end(trailers);
  }
}

function bodyOf({ chunked, length }: Pick<Head, 'chunked' | 'length'>): State {
  return chunked ? 'chunk-line' : length === undefined ? 'until-close' : 'length';
}
