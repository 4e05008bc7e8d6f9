import { createServer, type IncomingMessage } from 'node:http';
import { Check, Errors } from 'typebox/value';
import { ErrorBody } from '../../src/contract/error-body.ts';
import type { TSchema } from 'typebox';

/** What a canned server was asked. */
export interface Asked {
  readonly method: string;
  /** With its query. */
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: unknown;
}

export interface Canned {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent as JSON; must be what `schema` says. */
  readonly json?: unknown;
  readonly schema?: TSchema;
  /** Sent as text, piece by piece. */
  readonly text?: readonly string[];
  /** Cuts the connection instead of answering. */
  readonly cut?: boolean;
}

/** An error answer as the API gives them. */
export function refusal(status: number, code: string, error: string, details: object = {}): Canned {
  return { status, json: { error, code, details, request_id: 'req-test' }, schema: ErrorBody };
}

/**
 * A server on loopback that answers as it is told, for tests of clients. Answers are checked against the contract, so that a
 * client is not tested against what no server says. Close it with `await using`.
 */
export async function cannedApi(answer: (asked: Asked) => Canned): Promise<{
  readonly url: string;
  readonly asked: readonly Asked[];
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}> {
  const asked: Asked[] = [];
  const server = createServer((request, response) => {
    const pieces: Buffer[] = [];
    request.on('data', (piece: Buffer) => pieces.push(piece));
    request.on('end', () => {
      const text = Buffer.concat(pieces).toString();
      const body: unknown = text === '' ? undefined : JSON.parse(text);
      const one = { method: request.method ?? '', path: request.url ?? '', headers: request.headers, body };
      asked.push(one);
      const { status = 200, headers = {}, json, schema, text: parts, cut } = answer(one);
      if (cut) return void response.destroy();
      if (parts) {
        response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', ...headers });
        for (const part of parts) response.write(part);
        return void response.end();
      }
      if (schema && !Check(schema, json))
        throw new Error(`no server answers this: ${JSON.stringify([...Errors(schema, json)])}`);
      response.writeHead(status, { 'content-type': 'application/json', ...headers });
      response.end(JSON.stringify(json));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return {
    url: `http://127.0.0.1:${address.port}`,
    asked,
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
