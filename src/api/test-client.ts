import assert from 'node:assert/strict';
import type { InjectOptions, LightMyRequestResponse } from 'fastify';
import { Compile } from 'typebox/compile';
import { FakeClock, type Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { ErrorBody } from '../contract/error-body.ts';
import type { ErrorCode } from '../contract/errors.ts';
import { SCOPES } from '../model/records.ts';
import type { App } from './app.ts';
import { ApiDescription } from './described-answers.ts';
import { fakeHatch, type FakeHatch } from './fake-hatch.ts';
import { createApi, type ApiOptions } from './server.ts';
import { silentMeter } from './meter.ts';

const anError = Compile(ErrorBody);

/** An answer with its body read. */
export interface Answer {
  readonly status: number;
  readonly headers: LightMyRequestResponse['headers'];
  readonly text: string;
  /** undefined where the body is not JSON. */
  readonly body: unknown;
}

/** The API over a Hatch in memory, and a caller with a key of every scope. */
export interface TestApi {
  readonly app: App;
  readonly hatch: FakeHatch;
  readonly clock: Clock;
  readonly key: string;
  /** What the server logged: fields and message. */
  readonly logged: { readonly level: string; readonly fields: object; readonly message: string }[];
  /** Sends a request with the key; every answer is checked against the server’s description of itself. */
  call(
    method: InjectOptions['method'],
    url: string,
    body?: unknown,
    headers?: Record<string, string>,
  ): Promise<Answer>;
  /** Sends it and asserts that it is refused with this code; gives the sentence and the details. */
  refused(
    code: ErrorCode,
    method: InjectOptions['method'],
    url: string,
    body?: unknown,
    headers?: Record<string, string>,
  ): Promise<{ readonly error: string; readonly details: Record<string, unknown> }>;
}

/** Builds it. The clock stands still unless another is given. */
export async function testApi(clock: Clock = new FakeClock(), options: ApiOptions = {}): Promise<TestApi> {
  const hatch = fakeHatch(clock);
  const logged: { level: string; fields: object; message: string }[] = [];
  const line = (level: string) => (fields: object, message: string) =>
    void logged.push({ level, fields, message });
  const log: Logger = {
    debug: line('debug'),
    info: line('info'),
    warn: line('warn'),
    error: line('error'),
    child: () => log,
  };
  const app = await createApi({ hatch, log, clock, version: '1.2.3', meter: silentMeter }, options);
  const key = hatch.makeKey(SCOPES);

  const description = new ApiDescription(app.swagger());
  const call: TestApi['call'] = async (method, url, body, headers = {}) => {
    const raw = typeof body === 'string' || Buffer.isBuffer(body);
    const response = await app.inject({
      method: method ?? 'GET',
      url,
      headers: {
        authorization: `Bearer ${key}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { payload: raw ? body : JSON.stringify(body) }),
    });
    const text = response.body;
    const isJson = String(response.headers['content-type']).startsWith('application/json');
    const answer: Answer = {
      status: response.statusCode,
      headers: response.headers,
      text,
      body: isJson && text !== '' ? JSON.parse(text) : undefined,
    };
    const contentType = response.headers['content-type'];
    assert.deepEqual(
      description.wrongWith({
        method: method ?? 'GET',
        url,
        status: answer.status,
        contentType: contentType === undefined ? undefined : String(contentType),
        text,
      }),
      [],
      `${method} ${url}: ${answer.status} ${text}`,
    );
    if (answer.status >= 400 && method !== 'HEAD') {
      const error = anError.Parse(answer.body);
      assert.equal(error.request_id, answer.headers['x-request-id']);
      assert.match(error.error, /^["A-Z].*[.?]$/s, 'an error is a sentence');
    }
    return answer;
  };
  return {
    app,
    hatch,
    clock,
    key,
    logged,
    call,
    refused: async (code, method, url, body, headers) => {
      const answer = await call(method, url, body, headers);
      assert.ok(
        answer.status >= 400,
        `${method} ${url} ${JSON.stringify(body)} was let through: ${answer.text}`,
      );
      const error = anError.Parse(answer.body);
      assert.equal(error.code, code, answer.text);
      return error;
    },
  };
}

/** A field of an answer, whatever it is. */
export function field(value: unknown, ...path: readonly (string | number)[]): unknown {
  return path.reduce<unknown>(
    (at, key) => (typeof at === 'object' && at !== null ? Reflect.get(at, key) : undefined),
    value,
  );
}

/** The fields of an object in an answer; of anything else, none. */
export function fields(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}
