import type { HttpRequest } from './routes.ts';

/** What a connection has heard: a request, that the client may send its body, or something that is no request. */
export type Heard =
  | { readonly kind: 'request'; readonly request: HttpRequest }
  | { readonly kind: 'continue' }
  | { readonly kind: 'malformed'; readonly body: string };

/** micro-http reads no more than this at a time, and no line may be longer. */
const WINDOW = 1024;
const METHODS = ['GET', 'PUT', 'PATCH', 'DELETE'] as const;

class Malformed extends Error {
  override readonly name = 'Malformed';
}

/**
 * Reads requests as micro-http does, Firecracker's HTTP server (src/connection.rs at 7975fe0): it takes bodies by Content-Length
 * only, whatever Transfer-Encoding says; and after a request it cannot read it goes on reading in the middle of it, so that one
 * oversized body gives a whole row of answers.
 */
export class HttpConnection {
  readonly #payloadLimit: number;
  #state: 'line' | 'headers' | 'body' = 'line';
  /** What was read and is of no whole line yet. */
  #kept: Buffer = Buffer.alloc(0);
  #method: HttpRequest['method'] = 'GET';
  #path = '';
  #contentLength = 0;
  #expects = false;
  #body: Buffer[] = [];
  #bodyLeft = 0;

  constructor(payloadLimit: number) {
    this.#payloadLimit = payloadLimit;
  }

  /** Takes what has come in, a window at a time. */
  *feed(bytes: Buffer): Generator<Heard> {
    for (let rest = bytes; rest.length > 0;) {
      // What is kept is always shorter than a window.
      const room = WINDOW - this.#kept.length;
      yield* this.#window(rest.subarray(0, room));
      rest = rest.subarray(room);
    }
  }

  *#window(bytes: Buffer): Generator<Heard> {
    const kept = this.#kept;
    const heard: Heard[] = [];
    try {
      this.#read(Buffer.concat([kept, bytes]), heard);
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      // What was read of this window is lost, and so are the requests in it.
      this.#kept = kept;
      yield malformed(error.message);
      return;
    }
    yield* heard;
  }

  #read(window: Buffer, heard: Heard[]): void {
    let at = 0;
    for (;;) {
      if (this.#state === 'body') {
        const part = window.subarray(at, at + this.#bodyLeft);
        this.#body.push(part);
        this.#bodyLeft -= part.length;
        at += part.length;
        if (this.#bodyLeft > 0) {
          this.#kept = Buffer.alloc(0);
          return;
        }
        heard.push(this.#finish(Buffer.concat(this.#body).toString('utf8')));
        continue;
      }
      const end = window.indexOf('\r\n', at);
      if (end === -1) {
        if (at === 0 && window.length === WINDOW)
          throw new Malformed(
            this.#state === 'line'
              ? 'Invalid request.'
              : `Invalid header. Reason: Invalid content length. Header: ${window.toString('utf8')}`,
          );
        this.#kept = Buffer.from(window.subarray(at));
        return;
      }
      const line = window.toString('utf8', at, end);
      at = end + 2;
      if (this.#state === 'line') this.#requestLine(line);
      else if (line !== '') this.#header(line);
      else if (this.#contentLength === 0) heard.push(this.#finish(undefined));
      else {
        if (this.#contentLength > this.#payloadLimit)
          throw new Malformed(
            `Request payload with size ${this.#contentLength} is larger than the limit of ${this.#payloadLimit} allowed by server.`,
          );
        if (this.#expects) heard.push({ kind: 'continue' });
        this.#bodyLeft = this.#contentLength;
        this.#state = 'body';
      }
    }
  }

  #requestLine(line: string): void {
    const found = /^([^ ]*) ([^ ]*) (.*)$/s.exec(line);
    if (!found) throw new Malformed('Invalid request.');
    const [, given, uri = '', version = ''] = found;
    const method = METHODS.find((name) => name === given);
    if (!method) throw new Malformed('Invalid HTTP Method: Unsupported HTTP method.');
    if (uri === '') throw new Malformed('Invalid URI: Empty URI not allowed.');
    if (version !== 'HTTP/1.0' && version !== 'HTTP/1.1')
      throw new Malformed('Invalid HTTP Version: Unsupported HTTP version.');
    this.#method = method;
    this.#path = /^http:\/\/[^/]*(\/.*)?$/s.exec(uri)?.[1] ?? (uri.startsWith('/') ? uri : '');
    this.#contentLength = 0;
    this.#expects = false;
    this.#state = 'headers';
  }

  #header(line: string): void {
    const colon = line.indexOf(':');
    if (colon === -1)
      throw new Malformed(`Invalid header. Reason: Header is incorrectly formatted. Key: ${line}`);
    const [name, value] = [line.slice(0, colon), line.slice(colon + 1)];
    switch (name.trim().toLowerCase()) {
      case 'content-length':
        if (!/^\+?\d+$/.test(value.trim()) || Number(value) > 2 ** 32 - 1)
          throw new Malformed(`Invalid header. Reason: Invalid value. Key:${name}; Value:${value}`);
        this.#contentLength = Number(value);
        return;
      case 'expect':
        this.#expects ||= value.trim() === '100-continue';
        return;
      case 'accept-encoding':
        for (const encoding of value.split(',').map((one) => one.trim())) {
          if (encoding === 'identity;q=0' || (encoding === '*;q=0' && !value.includes('identity')))
            throw new Malformed(
              `Invalid header. Reason: Invalid value. Key:Accept-Encoding; Value:${encoding}`,
            );
        }
        return;
      default:
    }
  }

  #finish(body: string | undefined): Heard {
    this.#state = 'line';
    this.#body = [];
    return { kind: 'request', request: { method: this.#method, path: this.#path, body } };
  }
}

/** The raw newline makes this no JSON, as in Firecracker. */
function malformed(what: string): Heard {
  return {
    kind: 'malformed',
    body: `{ "error": "${what}\nAll previous unanswered requests will be dropped." }`,
  };
}
