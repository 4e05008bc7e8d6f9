import { createServer, type Server, type Socket } from 'node:net';
import { Refused, type Reply } from './calls.ts';
import type { Fault } from './faults.ts';
import { HttpConnection, type Heard } from './http-connection.ts';
import type { HttpRequest } from './routes.ts';

const MOST_CONNECTIONS = 10;
const FULL =
  'HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n' +
  '{ "error": "Too many open connections" }';

export interface HttpServerOptions {
  readonly payloadLimit: number;
  /** Does a call. Throws Refused. */
  readonly handle: (request: HttpRequest) => Promise<{ readonly reply: Reply; readonly deprecated: boolean }>;
  readonly faultAt: (request: HttpRequest) => Fault | undefined;
  /** Called after an answer has gone out. */
  readonly afterAnswer: () => void;
  readonly end: (how: number | 'kill') => void;
}

interface Answer {
  readonly status: number;
  readonly body?: string | undefined;
  readonly deprecated?: boolean;
}

/**
 * Firecracker's HTTP server: one request at a time, whatever connection it came by; ten connections, and the eleventh is
 * told so and closed; the connection is never closed from this side. `node:http` would put its own mark on all of
 * this, so it is done on the bare socket.
 */
export function apiServer(options: HttpServerOptions): Server {
  let open = 0;
  let turn: Promise<void> = Promise.resolve();
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    // A client that closes its half is gone for micro-http, and what was to be answered is dropped.
    socket.on('end', () => socket.destroy());
    if (open >= MOST_CONNECTIONS) return void socket.end(FULL);
    open++;
    socket.once('close', () => open--);
    const connection = new HttpConnection(options.payloadLimit);
    socket.on('data', (bytes) => {
      for (const heard of connection.feed(bytes)) turn = turn.then(() => answer(socket, heard, options));
    });
  });
  return server;
}

async function answer(socket: Socket, heard: Heard, options: HttpServerOptions): Promise<void> {
  if (heard.kind === 'continue') return send(socket, { status: 100 });
  if (heard.kind === 'malformed') return send(socket, { status: 400, body: heard.body });
  const fault = options.faultAt(heard.request);
  if (fault && !fault.after && fault.what !== 'truncated') {
    const goesOn = await misbehave(fault, socket, undefined, options);
    if (!goesOn) return;
  }
  const result = await serve(heard.request, options);
  if (fault && (fault.after || fault.what === 'truncated')) {
    const goesOn = await misbehave(fault, socket, result, options);
    if (!goesOn) return options.afterAnswer();
  }
  await send(socket, result);
  options.afterAnswer();
}

async function serve(request: HttpRequest, { handle }: HttpServerOptions): Promise<Answer> {
  try {
    const { reply, deprecated } = await handle(request);
    return typeof reply === 'string' ? { status: 200, body: reply, deprecated } : { status: 204, deprecated };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return fault(error.message, error.status);
  }
}

function fault(message: string, status: 400 | 413 = 400): Answer {
  return { status, body: JSON.stringify({ fault_message: message }) };
}

function bytesOf({ status, body, deprecated = false }: Answer): string {
  const length = body === undefined ? undefined : Buffer.byteLength(body);
  return (
    `HTTP/1.1 ${status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n` +
    (deprecated ? 'Deprecation: true\r\n' : '') +
    (length === undefined ? '' : `Content-Type: application/json\r\nContent-Length: ${length}\r\n`) +
    `\r\n${body ?? ''}`
  );
}

/** Resolves when it is written, or the client is gone. */
function send(socket: Socket, answer: Answer): Promise<void> {
  return write(socket, bytesOf(answer));
}

function write(socket: Socket, text: string): Promise<void> {
  return new Promise((resolve) => {
    if (!socket.writable) return resolve();
    socket.once('close', resolve);
    socket.write(text, () => {
      socket.off('close', resolve);
      resolve();
    });
  });
}

/** Does a fault; true when the call then goes on as if nothing were. */
async function misbehave(
  { what, value }: Fault,
  socket: Socket,
  result: Answer | undefined,
  { end }: HttpServerOptions,
): Promise<boolean> {
  switch (what) {
    case 'delay':
      await new Promise((resolve) => setTimeout(resolve, Number(value)));
      return true;
    case 'hang':
      return new Promise(() => undefined);
    case 'reset':
      if (result) await write(socket, bytesOf(result).slice(0, 20));
      socket.destroy();
      return false;
    case 'truncated': {
      const whole = bytesOf(
        result?.body === undefined ? { status: 200, body: '{"id":"truncated","state":"Running"}' } : result,
      );
      await write(socket, whole.slice(0, -10));
      socket.destroy();
      return false;
    }
    case 'rubbish':
      await write(socket, 'this is no HTTP\r\n\r\n\u0000\u0001\u0002');
      return false;
    case 'refuse':
      await send(socket, fault(value === '' ? 'The double was told to refuse this.' : value));
      return false;
    case 'busy':
      await write(socket, FULL);
      socket.destroy();
      return false;
    case 'freeze':
      process.kill(process.pid, 'SIGSTOP');
      return true;
    case 'exit':
    case 'kill':
      end(what === 'kill' ? 'kill' : Number(value));
      return new Promise(() => undefined);
  }
}
