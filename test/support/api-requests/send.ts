import { Agent, request, type IncomingMessage } from 'node:http';
import type { ApiDescription } from '../../../src/api/described-answers.ts';
import { encodeWhole, type Asked } from './requests.ts';
import type { Stock } from './stock.ts';

/** Who has not answered by then does not answer. */
const ANSWER_MS = 20_000;
/** A body is read so far; what is longer is cut off by us. */
const MOST_BYTES = 4 * 1024 * 1024;

export interface Heard {
  /** As it was sent, to be shown. */
  readonly sent: string;
  readonly url: string;
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  /** undefined where it is a stream, and was not read to its end. */
  readonly text: string | undefined;
}

/** Sends requests to one server, over connections that are kept. */
export class Sender {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 8 });
  readonly #stock: Stock;
  readonly #url: URL;

  constructor(url: string, stock: Stock) {
    this.#url = new URL(url);
    this.#stock = stock;
  }

  close(): void {
    this.#agent.destroy();
  }

  /** Rejects, saying what was sent, where the server hangs up or stays silent. */
  async send(asked: Asked): Promise<Heard> {
    const { body } = asked;
    const path = asked.path
      .split('/')
      .map((part) => this.#stock.resolve(part))
      .join('/');
    const query = asked.query
      .map(([name, value]) =>
        value.startsWith('!')
          ? value.slice(1)
          : `${encodeWhole(name)}=${encodeWhole(this.#stock.resolve(value))}`,
      )
      .join('&');
    const url = query === '' ? path : `${path}?${query}`;
    const payload =
      body === undefined
        ? undefined
        : body === 'file'
          ? this.#stock.file
          : 'text' in body
            ? Buffer.from(body.text)
            : Buffer.from(JSON.stringify(this.#resolveAll(body.json)) ?? '');
    const key = this.#stock.key(asked.as);
    const headers: Record<string, string | number> = {
      ...(key === null
        ? {}
        : asked.as === 'read'
          ? { 'x-api-key': key }
          : { authorization: `Bearer ${key}` }),
      ...(payload === undefined
        ? {}
        : {
            'content-type': body === 'file' ? 'application/octet-stream' : 'application/json',
            'content-length': payload.length,
          }),
      ...asked.headers,
    };
    const shown = payload === undefined || body === 'file' ? '' : payload.toString('utf8', 0, 2000);
    const sent = `${asked.method} ${url.slice(0, 2000)} as ${asked.as} ${JSON.stringify(asked.headers).slice(0, 500)} ${shown}`;
    try {
      return { sent, url, ...(await this.#exchange(asked.method, url, headers, payload)) };
    } catch (error) {
      throw new Error(`${sent}\nwas not answered: ${String(error)}`, { cause: error });
    }
  }

  #exchange(
    method: string,
    path: string,
    headers: Record<string, string | number>,
    payload: Buffer | undefined,
  ): Promise<Pick<Heard, 'status' | 'headers' | 'text'>> {
    return new Promise((resolve, reject) => {
      const { hostname: host, port } = this.#url;
      const signal = AbortSignal.timeout(ANSWER_MS);
      const sent = request({ host, port, method, path, headers, agent: this.#agent, signal }, (answer) => {
        const stream = isStream(path, answer);
        const chunks: Buffer[] = [];
        let bytes = 0;
        const done = (text: string | undefined): void =>
          resolve({ status: answer.statusCode ?? 0, headers: answer.headers, text });
        answer.on('error', reject);
        answer.on('end', () => done(Buffer.concat(chunks).toString('utf8')));
        const cut = (): void => {
          done(undefined);
          sent.destroy();
        };
        if (stream) return cut();
        answer.on('data', (chunk: Buffer) => {
          chunks.push(chunk);
          bytes += chunk.length;
          if (bytes > MOST_BYTES) cut();
        });
      });
      sent.on('error', reject);
      sent.end(payload);
    });
  }

  #resolveAll(value: unknown, depth = 0): unknown {
    if (typeof value === 'string') return this.#stock.resolve(value);
    if (typeof value !== 'object' || value === null || depth > 8) return value;
    if (Array.isArray(value)) return value.map((each) => this.#resolveAll(each, depth + 1));
    return Object.fromEntries(
      Object.entries(value).map(([name, each]) => [name, this.#resolveAll(each, depth + 1)]),
    );
  }
}

/** Whether an answer goes on until one of both hangs up. */
function isStream(path: string, { statusCode, headers }: IncomingMessage): boolean {
  if (statusCode !== 200) return false;
  return (
    headers['content-type']?.startsWith('text/event-stream') === true || /[?&]follow=true(&|$)/.test(path)
  );
}

/** What is wrong with an answer to whatever was asked: nothing is ever a defect, and all of it is in the description. */
export function wrongWith(description: ApiDescription, asked: Asked, heard: Heard): string[] {
  const { url, status, headers, text } = heard;
  return description.wrongWith({
    method: asked.method,
    url,
    status,
    contentType: headers['content-type'],
    text,
  });
}
