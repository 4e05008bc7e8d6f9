import { isErrno } from '../../base/errno.ts';
import type { Client } from 'undici';
import { deadline, DeadlineExceeded } from '../../base/deadline.ts';
import { connectInPlace } from '../../host/unix-socket.ts';
import { VmmError } from '../driver.ts';

/** One call of Firecracker's API, as data. */
export interface ApiRequest {
  readonly method: 'GET' | 'PUT' | 'PATCH';
  readonly path: string;
  readonly body?: Readonly<Record<string, unknown>>;
}

/** Firecracker said no; `message` holds its own words. */
export class ApiRefused extends VmmError {
  readonly request: ApiRequest;
  readonly status: number;

  constructor(request: ApiRequest, status: number, words: string) {
    super(`Firecracker refused ${request.method} ${request.path}: ${words}`);
    this.request = request;
    this.status = status;
  }
}

/** Nobody answers on the socket, or the answer broke off. */
export class ApiGone extends VmmError {
  constructor({ method, path }: ApiRequest, cause: unknown) {
    super(`Firecracker did not answer ${method} ${path}`, { cause });
  }

  /** Whether nobody listens there (yet): nothing was sent. */
  get nobodyListens(): boolean {
    return isErrno(this.cause, 'ENOENT') || isErrno(this.cause, 'ECONNREFUSED');
  }
}

/** How long a call may take that does not say otherwise. Pausing waits up to 30 s for each vCPU. */
const ANSWER_MS = 10_000;

/**
 * Firecracker's API on its unix socket (its api_server answers one request after the other, so there is one connection, kept
 * open). Bodies go with their Content-Length, never chunked: its HTTP server reads no chunks.
 */
export class FirecrackerApi {
  readonly #socketPath: string;
  readonly #answerMs: number;
  #client: Promise<Client> | undefined;

  /** `answerMs`: how long a call may take that does not say otherwise. */
  constructor(socketPath: string, answerMs = ANSWER_MS) {
    this.#socketPath = socketPath;
    this.#answerMs = answerMs;
  }

  /**
   * Makes a call and gives its answer's body, undefined for none. Throws ApiRefused with Firecracker's words, VmmError `timeout`
   * when it does not answer in time, ApiGone when nobody does.
   */
  async call(
    request: ApiRequest,
    options: { readonly timeoutMs?: number; readonly signal?: AbortSignal } = {},
  ): Promise<unknown> {
    const { timeoutMs = this.#answerMs, signal } = options;
    try {
      return await deadline(
        `Firecracker's answer to ${request.method} ${request.path}`,
        timeoutMs,
        (within) => this.#send(request, within),
        signal,
      );
    } catch (error) {
      if (error instanceof DeadlineExceeded)
        throw new VmmError(error.message, { kind: 'timeout', cause: error });
      if (error instanceof VmmError || signal?.aborted === true) throw error;
      throw new ApiGone(request, error);
    }
  }

  async #send(request: ApiRequest, signal: AbortSignal): Promise<unknown> {
    const { method, path, body } = request;
    const text = body === undefined ? null : JSON.stringify(body);
    const client = await this.#open();
    const answer = await client.request({
      method,
      path,
      body: text,
      headers: {
        accept: 'application/json',
        ...(text === null ? {} : { 'content-type': 'application/json' }),
      },
      signal,
    });
    const said = await answer.body.text();
    if (answer.statusCode >= 300) throw new ApiRefused(request, answer.statusCode, wordsOf(said));
    return said === '' ? undefined : (JSON.parse(said) as unknown);
  }

  /** Ends the connection; Firecracker goes on. */
  close(): void {
    this.#open()
      .then((client) => client.destroy())
      .catch(() => undefined);
  }

  /** The client. Its library, seven megabytes, is loaded for the first call: never, where there is no Firecracker. */
  #open(): Promise<Client> {
    this.#client ??= openClient(this.#socketPath);
    return this.#client;
  }
}

async function openClient(socketPath: string): Promise<Client> {
  const { Client } = await import('undici');
  return new Client('http://localhost', {
    connect: (_options, done) => {
      connectInPlace(socketPath, new AbortController().signal).then(
        (socket) => done(null, socket),
        (error: unknown) => done(error instanceof Error ? error : new Error(String(error)), null),
      );
    },
    pipelining: 1,
    // The server never closes a connection; a call that hangs is ended by its own deadline.
    keepAliveTimeout: 3_600_000,
    keepAliveMaxTimeout: 3_600_000,
    headersTimeout: 0,
    bodyTimeout: 0,
  });
}

/** The words of an error: `fault_message`, or `error` (of its HTTP server), or all of a body that is no JSON. */
function wordsOf(body: string): string {
  try {
    const parsed: unknown = JSON.parse(body);
    if (typeof parsed === 'object' && parsed !== null) {
      if ('fault_message' in parsed && typeof parsed.fault_message === 'string') return parsed.fault_message;
      if ('error' in parsed && typeof parsed.error === 'string') return parsed.error;
    }
  } catch {
    // Its message about too large a body holds a raw line end, which no JSON may.
  }
  return body.trim() === '' ? 'it gave no reason' : body.trim().slice(0, 500);
}
