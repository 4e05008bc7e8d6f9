import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request, type IncomingMessage, type RequestOptions } from 'node:http';
import type { Socket } from 'node:net';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { run } from '../../src/host/run.ts';

/** How an answer ended for its client. */
export interface Got {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  /** Of an answer that came whole. */
  readonly body: string;
  /** Whether all of it came, as far as a client can tell. */
  readonly whole: boolean;
}

/** The routes of a hatchd beside which a test runs, at its usual port. */
const PROXY_PORT = 9090;
/** What a request may take that is answered at all. */
const ANSWER_MS = 30_000;
const UPGRADE = {
  connection: 'Upgrade',
  upgrade: 'websocket',
  'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==',
  'sec-websocket-version': '13',
};

function send(host: string, path: string, { headers, ...more }: RequestOptions = {}) {
  return request({
    ...{ host: '127.0.0.1', port: PROXY_PORT, path, agent: false },
    headers: { host, ...(headers as Record<string, string>) },
    ...more,
  });
}

async function gotOf(answer: IncomingMessage): Promise<Got> {
  let body = '';
  answer.setEncoding('utf8').on('data', (piece: string) => (body += piece));
  answer.on('error', () => undefined);
  await new Promise((resolve) => answer.once('close', resolve));
  return {
    status: answer.statusCode ?? 0,
    headers: answer.headers,
    body: answer.complete ? body : '',
    whole: answer.complete,
  };
}

/** Asks for a page of a route; rejects when no answer begins. */
export async function get(host: string, path = '/'): Promise<Got> {
  const sent = send(host, path, { signal: AbortSignal.timeout(ANSWER_MS) });
  sent.end();
  return gotOf(((await once(sent, 'response')) as [IncomingMessage])[0]);
}

/** The sentence of a refusal. */
export function whyOf({ body }: Got): string {
  return (JSON.parse(body) as { error: string }).error;
}

/** Requests for a page server, of every kind, that are all under way. */
export interface OpenRequests {
  /** Of answers that have begun and go on, by their paths. */
  readonly begun: Readonly<Record<'/chunked' | '/long' | '/endless', Promise<Got>>>;
  /** Of requests the guest has and does not answer: a whole one, and one whose body is still on its way. */
  readonly unanswered: readonly Promise<Got>[];
  /** Resolves when a WebSocket that was open has ended. */
  readonly upgraded: Promise<unknown>;
}

/** Opens requests of every kind; resolves when the guest has all of them and answers those that it answers. */
export async function openRequests(host: string): Promise<OpenRequests> {
  const held = async (): Promise<number> => Number((await get(host, '/held')).body);
  const before = await held();
  const never = send(host, '/never');
  never.end();
  const upload = send(host, '/never', { method: 'PUT', headers: { 'content-length': '1000000' } });
  upload.write('some');
  const unanswered = [never, upload].map(async (sent) => {
    sent.on('error', () => undefined);
    return gotOf(((await once(sent, 'response')) as [IncomingMessage])[0]);
  });
  for (const one of unanswered) one.catch(() => undefined);
  const begin = async (path: string): Promise<{ readonly over: Promise<Got> }> => {
    const sent = send(host, path);
    sent.end();
    const [answer] = (await once(sent, 'response')) as [IncomingMessage];
    assert.equal(answer.statusCode, 200);
    const over = gotOf(answer);
    await once(answer, 'data');
    return { over };
  };
  const upgrade = send(host, '/ws', { headers: UPGRADE });
  upgrade.end();
  const [[, socket], chunked, long, endless] = await Promise.all([
    once(upgrade, 'upgrade') as Promise<[IncomingMessage, Socket]>,
    begin('/chunked'),
    begin('/long'),
    begin('/endless'),
  ]);
  socket.on('error', () => undefined).resume();
  const upgraded = once(socket, 'close');
  await until({ clock: systemClock, signal: AbortSignal.timeout(ANSWER_MS) }, async () =>
    (await held()) === before + 2 ? true : undefined,
  );
  return {
    begun: { '/chunked': chunked.over, '/long': long.over, '/endless': endless.over },
    unanswered,
    upgraded,
  };
}

/** Asks for a page of a route again and again, one request after another, and keeps what came. */
export class Poll {
  readonly got: { readonly status: number; readonly why: string; readonly ms: number }[] = [];
  readonly #ending = new AbortController();
  readonly #done: Promise<void>;

  constructor(host: string) {
    this.#done = this.#go(host);
    // Whoever ends it hears of it.
    this.#done.catch(() => undefined);
  }

  /** Ends it; rejects when a request had no answer. */
  end(): Promise<void> {
    this.#ending.abort();
    return this.#done;
  }

  async #go(host: string): Promise<void> {
    while (!this.#ending.signal.aborted) {
      const from = performance.now();
      const got = await get(host);
      const why = got.status === 200 ? '' : whyOf(got);
      this.got.push({ status: got.status, why, ms: performance.now() - from });
      await systemClock.sleep(100);
    }
  }
}

/** TCP connections that a process of this namespace has open and that match a filter of ss, one a line. */
export async function heldConnections(...filter: readonly string[]): Promise<readonly string[]> {
  const { stdout } = await run(['ss', '-tnpH', 'state', 'connected', ...filter]);
  // What the kernel alone still ends is nobody's.
  return stdout.split('\n').filter((line) => line.includes('users:'));
}
