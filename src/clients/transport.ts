import { Readable } from 'node:stream';
import { Agent, request, type Dispatcher } from 'undici';
import { ApiError, NoName, readApiError, Unreachable } from './api-error.ts';

export type Query = Readonly<Record<string, string | number | boolean | readonly string[] | undefined>>;

export interface CallOptions {
  /** Ends the call; it rejects with the signal's reason. What it asked for may still be done. */
  readonly signal?: AbortSignal | undefined;
}

/** Which part of a list; all of it when nothing is said. */
export interface ListOptions extends CallOptions {
  readonly limit?: number | undefined;
  readonly after?: string | undefined;
}

/** A name as one part of a path. Throws NoName for one that would lead to another path: to the list, or above it. */
export function seg(name: string): string {
  if (name === '') throw new NoName('A name or an id is empty.');
  if (name === '.' || name === '..') throw new NoName(`"${name}" is neither a name nor an id.`);
  return encodeURIComponent(name);
}

/** For calls that make something. */
export interface MakingOptions {
  /** A name of your own for the call, such as a UUID: sent again with it within a day, nothing is made again, and the answer is the same. */
  readonly idempotencyKey?: string | undefined;
}

interface Call extends CallOptions, MakingOptions {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly path: string;
  readonly query?: Query | undefined;
  readonly body?: unknown;
  /** Bytes sent as they are, as they come, in place of `body`; `bytes`: how many, where that is known. */
  readonly upload?: { readonly content: AsyncIterable<Uint8Array>; readonly bytes?: number | undefined };
  readonly headers?: Readonly<Record<string, string>> | undefined;
}

/** Sends requests to one server with one key. Nothing is tried twice but a list that changed under our hands. */
export class Transport {
  readonly #url: URL;
  readonly #headers: Record<string, string>;
  // No limit of our own on waiting: `?wait=ready` may take ten minutes, and a followed console says nothing for hours.
  readonly #agent = new Agent({ headersTimeout: 0, bodyTimeout: 0, connect: { timeout: 10_000 } });

  /** Throws a TypeError when `url` is none. */
  constructor({ url, apiKey }: { readonly url: string; readonly apiKey?: string | undefined }) {
    this.#url = new URL(url);
    if (!this.#url.pathname.endsWith('/')) this.#url.pathname += '/';
    this.#headers = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` };
  }

  /** The value of a JSON answer, whose shape is the contract's. Throws ApiError and Unreachable. */
  async json<T>(call: Call): Promise<T> {
    const answer = await this.#send(call);
    return parse<T>(answer.statusCode, await readText(answer, this.#url.origin));
  }

  /** A text answer as it is. Throws ApiError and Unreachable. */
  async text(call: Call): Promise<string> {
    return readText(await this.#send(call), this.#url.origin);
  }

  /** A text answer as it comes. Throws ApiError and Unreachable. */
  async *follow(call: Call): AsyncGenerator<string> {
    const decoder = new TextDecoder();
    for await (const chunk of this.bytes(call)) yield decoder.decode(chunk, { stream: true });
  }

  /** An answer of bytes as it comes. Throws ApiError and Unreachable, also when it is cut off. */
  async *bytes(call: Call): AsyncGenerator<Uint8Array> {
    yield* (await this.open(call)).content;
  }

  /** An answer of bytes as it comes, once it has begun, with its headers. Throws as `bytes`, and the content does. */
  async open(call: Call): Promise<{
    readonly headers: Dispatcher.ResponseData['headers'];
    readonly content: AsyncGenerator<Uint8Array>;
  }> {
    const { headers, body } = await this.#send(call);
    return { headers, content: this.#pieces(body, call.signal) };
  }

  async *#pieces(
    body: Dispatcher.ResponseData['body'],
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Uint8Array> {
    try {
      for await (const chunk of body) if (chunk instanceof Uint8Array) yield chunk;
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw new Unreachable(this.#url.origin, error);
    }
  }

  /**
   * All entries of a list, page after page; with a `limit` in the query, only one page of that many. When the last one of a page
   * is removed before the next is asked for, nothing leads on from it: the list is begun anew, twice at most.
   */
  async list<T>(call: Call): Promise<readonly T[]> {
    for (let anew = 2; ; anew--) {
      const found: T[] = [];
      let query = call.query;
      try {
        for (;;) {
          const answer = await this.#send({ ...call, query });
          const text = await readText(answer, this.#url.origin);
          found.push(...parse<readonly T[]>(answer.statusCode, text));
          const after = nextAfter(answer.headers['link']);
          if (after === undefined || call.query?.['limit'] !== undefined) return found;
          query = { ...query, after };
        }
      } catch (error) {
        const lost = error instanceof ApiError && error.details['field'] === 'after' && query !== call.query;
        if (!lost || anew === 0) throw error;
      }
    }
  }

  /** Closes the connections that are kept open. */
  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async #send({
    method,
    path,
    query = {},
    body,
    upload,
    headers,
    idempotencyKey,
    signal,
  }: Call): Promise<Dispatcher.ResponseData> {
    const url = new URL(path.slice(1), this.#url);
    for (const [name, value] of Object.entries(query))
      for (const one of value === undefined ? [] : Array.isArray(value) ? value : [value])
        url.searchParams.append(name, String(one));
    let answer: Dispatcher.ResponseData;
    try {
      answer = await request(url, {
        method,
        dispatcher: this.#agent,
        signal: signal ?? null,
        headers: {
          ...this.#headers,
          accept: 'application/json, text/plain',
          ...headers,
          ...(idempotencyKey === undefined ? {} : { 'idempotency-key': idempotencyKey }),
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...(upload === undefined ? {} : { 'content-type': 'application/octet-stream' }),
          ...(upload?.bytes === undefined ? {} : { 'content-length': String(upload.bytes) }),
        },
        body: upload ? Readable.from(upload.content) : body === undefined ? null : JSON.stringify(body),
      });
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw new Unreachable(this.#url.origin, error);
    }
    if (answer.statusCode < 300) return answer;
    throw readApiError({
      status: answer.statusCode,
      header: (name) => headerOf(answer.headers[name]),
      text: await readText(answer, this.#url.origin),
    });
  }
}

/** The `after` of a `Link` header's next page; undefined on the last page. */
export function nextAfter(link: string | string[] | undefined): string | undefined {
  const target = /<([^>]*)>;\s*rel="next"/.exec(headerOf(link) ?? '')?.[1];
  if (target === undefined) return undefined;
  return new URL(target, 'http://any').searchParams.get('after') ?? undefined;
}

/** A header of an answer; the first, where it came more than once. */
export function headerOf(header: string | string[] | undefined): string | undefined {
  return Array.isArray(header) ? header[0] : header;
}

async function readText(answer: Dispatcher.ResponseData, origin: string): Promise<string> {
  try {
    return await answer.body.text();
  } catch (error) {
    throw new Unreachable(origin, error);
  }
}

/** The edge where outside data becomes a type: the server checks every answer against the same schemas. */
function parse<T>(status: number, text: string): T {
  try {
    return JSON.parse(text) as T;
  } catch {
    throw new ApiError('The server did not answer with JSON: is it a Hatch server?', {
      status,
      code: 'unknown',
      details: {},
      requestId: undefined,
      retryAfter: undefined,
    });
  }
}
