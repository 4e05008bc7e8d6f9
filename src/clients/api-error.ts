import { isErrorCode, type ErrorCode } from '../contract/errors.ts';

/** An answer of the server that is not a success. `message` is the server's own sentence. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly status: number;
  /** Of the catalogue in docs/errors.md; `unknown` when what answered does not speak it (a proxy, say). */
  readonly code: ErrorCode | 'unknown';
  readonly details: Readonly<Record<string, unknown>>;
  /** Names the request in the server's log. */
  readonly requestId: string | undefined;
  /** Seconds to wait before trying again, where the server says. */
  readonly retryAfter: number | undefined;

  constructor(
    message: string,
    fields: {
      readonly status: number;
      readonly code: ErrorCode | 'unknown';
      readonly details: Readonly<Record<string, unknown>>;
      readonly requestId: string | undefined;
      readonly retryAfter: number | undefined;
    },
  ) {
    super(message);
    this.status = fields.status;
    this.code = fields.code;
    this.details = fields.details;
    this.requestId = fields.requestId;
    this.retryAfter = fields.retryAfter;
  }
}

/** No server answered: nobody listens there, the name is unknown, or the connection broke. */
export class Unreachable extends Error {
  override readonly name = 'Unreachable';
  readonly url: string;

  constructor(url: string, cause: unknown) {
    super(`No Hatch server answers at ${url} (${reasonOf(cause)}).`, { cause });
    this.url = url;
  }
}

/** A name or an id that can be none, and would have asked for something else than was meant. */
export class NoName extends Error {
  override readonly name = 'NoName';
}

/** Reads an answer that is not a success; anything may stand in its body, as proxies answer too. */
export function readApiError(answer: {
  readonly status: number;
  readonly header: (name: string) => string | undefined;
  readonly text: string;
}): ApiError {
  const body = parseObject(answer.text);
  const { error, code, details, request_id: requestId } = body ?? {};
  const wait = Number(answer.header('retry-after') ?? Number.NaN);
  return new ApiError(
    typeof error === 'string'
      ? error
      : `The server answered ${answer.status} without saying why: is it a Hatch server?`,
    {
      status: answer.status,
      code: typeof code === 'string' && isErrorCode(code) ? code : 'unknown',
      details: isObject(details) ? details : {},
      requestId: typeof requestId === 'string' ? requestId : answer.header('x-request-id'),
      retryAfter: Number.isFinite(wait) ? wait : undefined,
    },
  );
}

const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused',
  ENOTFOUND: 'unknown host name',
  EAI_AGAIN: 'the host name cannot be looked up now',
  EHOSTUNREACH: 'no route to the host',
  ENETUNREACH: 'no route to the network',
  ETIMEDOUT: 'no answer in time',
  UND_ERR_CONNECT_TIMEOUT: 'no answer in time',
  ECONNRESET: 'the connection was cut',
  EPIPE: 'the connection was cut',
  UND_ERR_SOCKET: 'the connection was cut',
};

function reasonOf(error: unknown): string {
  // A name with several addresses fails with all their errors; the first says enough.
  const first: unknown = error instanceof AggregateError ? error.errors[0] : error;
  if (!(first instanceof Error)) return 'no connection';
  const code = 'code' in first && typeof first.code === 'string' ? first.code : '';
  return REASONS[code] ?? first.message;
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
