import type { IncomingMessage, RequestListener, Server } from 'node:http';
import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2';
import type { Server as TlsServer } from 'node:https';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { Crowd } from '../../base/crowd.ts';
import { createServer, http2Module, httpsModule } from '../../base/node-http.ts';

/** A certificate with its chain, and its private key, in PEM. */
export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

/** What is done with what comes in. */
export interface Guests {
  /** Of HTTP/2 too: its requests and answers are near enough to those of HTTP/1.1. */
  readonly serve: RequestListener;
  readonly upgrade: (request: IncomingMessage, client: Duplex, head: Buffer) => void;
  readonly refuseConnect: (request: IncomingMessage, client: Duplex) => void;
}

/** Where clients come in. */
export interface Door {
  /** Not listening yet. */
  readonly server: Server;
  /** Shows another certificate to those who connect from now on. Throws when it will not do; then the old one stays. */
  readonly renew: (certificate: Certificate) => void;
  /** Takes nobody in any more, and ends what is open. */
  readonly close: () => void;
}

export interface DoorOptions {
  /** undefined: HTTP without TLS. */
  readonly certificate: Certificate | undefined;
  readonly mostConnections: number;
}

const HEADER_BYTES = 32 * 1024;
/** A client has so long for the head of a request; for its body as long as it likes. */
const HEAD_MS = 60_000;
const KEEP_ALIVE_MS = 65_000;
/** Requests that may be under way on one HTTP/2 connection. */
const MOST_STREAMS = 100;
/** What they may have in memory together, in MB: each some windows of 64 KiB. Node refuses streams over it. */
const SESSION_MB = 32;
/** The first byte of a TLS handshake: a record of that type (RFC 8446, 5.1). */
const HANDSHAKE = 22;
const PLAIN =
  'HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 55\r\nConnection: close\r\n\r\n' +
  'Plain HTTP is not spoken at this port; ask for https://';

/**
 * Makes the server clients connect to: HTTP/1.1, and with a certificate TLS alone, HTTP/2 for those who know it (RFC 9113, by ALPN), the
 * rest HTTP/1.1. WebSockets over HTTP/2 (RFC 8441) are not offered, so that browsers open a connection of HTTP/1.1 for each.
 */
export function openDoor(
  { certificate, mostConnections }: DoorOptions,
  { serve, upgrade, refuseConnect }: Guests,
): Door {
  const options = {
    maxHeaderSize: HEADER_BYTES,
    headersTimeout: HEAD_MS,
    requestTimeout: 0,
    keepAliveTimeout: KEEP_ALIVE_MS,
    // RFC 9112, 3.2: a request without a Host, or with two, is answered 400.
    requireHostHeader: true,
    noDelay: true,
  };
  const tls =
    certificate &&
    httpsModule().createServer({ ...options, ...certificate, ALPNProtocols: ['h2', 'http/1.1'] });
  const server = tls ?? createServer(options);
  if (tls) refusePlain(tls);
  const crowd = new Crowd(server, mostConnections);
  const http2 = tls && offerHttp2(tls, serve, crowd);
  if (tls) {
    // Who goes away in the middle of a handshake, or knows no version of ours, is no news.
    tls.on('tlsClientError', () => undefined);
  }
  const counted: RequestListener = (request, response) => {
    const { socket } = request;
    crowd.busy(socket);
    response.once('close', () => crowd.silent(socket));
    serve(request, response);
  };
  server.on('request', counted);
  server.on('checkContinue', counted);
  server.on('upgrade', (request: IncomingMessage, client: Duplex, head: Buffer) => {
    crowd.busy(request.socket);
    upgrade(request, client, head);
  });
  server.on('connect', refuseConnect);
  return {
    server,
    renew: (next) => tls?.setSecureContext({ ...next }),
    close: () => {
      server.close();
      http2?.close();
      crowd.end();
    },
  };
}

/** Has connections that chose HTTP/2 in their handshake spoken to so, and leaves the others to the server. */
function offerHttp2(server: TlsServer, serve: RequestListener, crowd: Crowd): { readonly close: () => void } {
  const http2 = http2Module().createServer({
    maxSessionMemory: SESSION_MB,
    settings: { maxConcurrentStreams: MOST_STREAMS, maxHeaderListSize: HEADER_BYTES },
  });
  const listener = serve as unknown as (...how: unknown[]) => void;
  http2.on('request', listener);
  http2.on('checkContinue', listener);
  // What a client does wrong ends its session or stream; nothing else hangs on it.
  http2.on('sessionError', () => undefined);
  http2.on('session', (session) => watchSession(session, crowd));
  const byHttp1 = server.listeners('secureConnection') as ((socket: TLSSocket) => void)[];
  server.removeAllListeners('secureConnection');
  server.on('secureConnection', (socket: TLSSocket) => {
    if (socket.alpnProtocol === 'h2') http2.emit('connection', socket);
    else for (const listen of byHttp1) listen.call(server, socket);
  });
  return http2;
}

/** Knows whether requests are under way on a session, and ends one that nothing went through for a while and that has none. */
function watchSession(session: ServerHttp2Session, crowd: Crowd): void {
  const { remoteAddress, remotePort } = session.socket;
  const seen = { remoteAddress, remotePort };
  let open = 0;
  session.on('stream', (stream: ServerHttp2Stream) => {
    if (open++ === 0) crowd.busy(seen);
    stream.on('error', () => undefined);
    stream.once('close', () => {
      if (--open === 0) crowd.silent(seen);
    });
  });
  session.setTimeout(KEEP_ALIVE_MS, () => {
    if (open === 0) session.close();
  });
}

/** Tells who speaks plain HTTP to a port of TLS so, instead of hanging up. */
function refusePlain(server: TlsServer): void {
  const [byTls] = server.listeners('connection') as ((socket: Socket) => void)[];
  server.removeAllListeners('connection');
  server.on('connection', (socket: Socket) => {
    const failed = (): void => void socket.destroy();
    socket.on('error', failed);
    socket.setTimeout(HEAD_MS, failed);
    socket.once('readable', () => {
      const first = socket.read() as Buffer | null;
      if (first === null) return failed();
      if (first[0] !== HANDSHAKE) {
        socket.end(PLAIN);
        // What else it says is not read.
        return void socket.once('finish', failed);
      }
      socket.unshift(first);
      socket.off('error', failed);
      socket.setTimeout(0);
      socket.removeAllListeners('timeout');
      byTls?.call(server, socket);
    });
  });
}
