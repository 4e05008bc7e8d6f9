import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';
import { pairs, type RawHeaders } from './pairs.ts';

/** What differs between HTTP/1.1 and HTTP/2, for requests and answers of Node that may be of either. */

/** RFC 9113, 7: this end met with something it did not expect. */
const INTERNAL_ERROR = 2;

/** The host a request is for, as it was sent; undefined: none, or two that differ (RFC 9113, 8.3.1). */
export function hostOf(request: IncomingMessage): string | undefined {
  const { host } = request.headers;
  if (!isHttp2(request)) return host;
  const authority = request.headers[':authority'];
  return host === undefined || host === authority ? (authority ?? host) : undefined;
}

/** The headers of a request as HTTP/1.1 has them: `Host`, one `Cookie` (RFC 9113, 8.2.3), and none of HTTP/2's own. */
export function headersOf(request: IncomingMessage): RawHeaders {
  const { rawHeaders } = request;
  if (!isHttp2(request)) return rawHeaders;
  const kept = pairs(rawHeaders).filter(
    ([name]) => !name.startsWith(':') && name !== 'cookie' && name !== 'host',
  );
  const cookies = pairs(rawHeaders).flatMap(([name, value]) => (name === 'cookie' ? [value] : []));
  if (cookies.length > 0) kept.push(['cookie', cookies.join('; ')]);
  return ['host', hostOf(request) ?? '', ...kept.flat()];
}

/** Whether a request's body ends where its connection or stream says so, and not after a length it told before. */
export function isOpenEnded(request: IncomingMessage): boolean {
  return isHttp2(request)
    ? !request.stream.endAfterHeaders && request.headers['content-length'] === undefined
    : request.headers['transfer-encoding'] !== undefined;
}

/** Whether a request has a body, be it empty. */
export function hasBody(request: IncomingMessage): boolean {
  const length = request.headers['content-length'];
  return isOpenEnded(request) || (length !== undefined && !/^0+$/.test(length));
}

/** Begins an answer. HTTP/2 has no reasons, and no headers about a connection. */
export function beginAnswer(
  response: ServerResponse,
  status: number,
  reason: string,
  headers: RawHeaders,
): void {
  response.sendDate = false;
  if (!isHttp2Response(response)) {
    response.writeHead(status, reason, [...headers]);
  } else {
    const several: Record<string, string[]> = {};
    for (const [name, value] of pairs(headers)) (several[name.toLowerCase()] ??= []).push(value);
    response.writeHead(status, several);
  }
}

/** Sends what comes before an answer (RFC 9110, 15.2): that the body may come, and what will be needed; nothing else is passed on. */
export function sayInterim(response: ServerResponse, status: number, headers: RawHeaders): void {
  if (status === 100) response.writeContinue();
  const link = pairs(headers).flatMap(([name, value]) => (name.toLowerCase() === 'link' ? [value] : []));
  if (status === 103 && link.length > 0) response.writeEarlyHints({ link });
}

/** Adds what comes after the body of an answer. */
export function addTrailers(response: ServerResponse, trailers: RawHeaders): void {
  if (isHttp2Response(response)) response.addTrailers(Object.fromEntries(pairs(trailers)));
  else response.addTrailers(pairs(trailers));
}

/** Breaks an answer off so that it is seen not to be whole. */
export function cut(response: ServerResponse): void {
  if (isHttp2Response(response)) response.stream.close(INTERNAL_ERROR);
  else response.destroy();
}

/** Whether nobody hears an answer any more. */
export function isGone(response: ServerResponse): boolean {
  return isHttp2Response(response) ? response.stream.destroyed : response.destroyed;
}

/** Headers by which an answer ends its connection; HTTP/2 has none, and none is needed: what is not read is not asked for. */
export function closing(response: ServerResponse): Record<string, string> {
  return isHttp2Response(response) ? {} : { connection: 'close' };
}

/** Whether a request came by HTTP/2. */
export function isHttp2(
  request: IncomingMessage | Http2ServerRequest,
): request is IncomingMessage & Http2ServerRequest {
  return request.httpVersionMajor === 2;
}

function isHttp2Response(
  response: ServerResponse | Http2ServerResponse,
): response is ServerResponse & Http2ServerResponse {
  return response.req.httpVersionMajor === 2;
}
