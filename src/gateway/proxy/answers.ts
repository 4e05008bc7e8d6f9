import type { ServerResponse } from 'node:http';
import type { Failure } from '../../model/failure.ts';
import { ANSWER_HEADERS, errorBody, errorHeaders, statusOf } from '../../model/failure-answer.ts';
import { closing, cut } from './versions.ts';

/** What who meets a defect of ours is told. */
export const DEFECT = 'The server met a defect; its log has the request id.';

/** Answers with a failure, as the API does. One whose answer has begun is cut off: that it was not all is seen. */
export function answerFailure(response: ServerResponse, failure: Failure, requestId: string): void {
  if (response.headersSent) return cut(response);
  const body = JSON.stringify(errorBody(failure, requestId));
  response.writeHead(statusOf(failure), {
    ...ANSWER_HEADERS,
    ...errorHeaders(failure),
    'content-type': 'application/json; charset=utf-8',
    'content-length': Buffer.byteLength(body),
    'x-request-id': requestId,
    // What is left of its body is not read.
    ...closing(response),
  });
  response.end(body);
}

const AGAIN_SECONDS = 2;

/** What a browser is shown while a VM wakes: it comes again by itself. */
export function answerWaiting(response: ServerResponse, requestId: string): void {
  response.writeHead(503, {
    ...ANSWER_HEADERS,
    'content-type': 'text/html; charset=utf-8',
    'content-length': Buffer.byteLength(WAITING),
    'content-security-policy': "default-src 'none'; style-src 'unsafe-inline'",
    'retry-after': String(AGAIN_SECONDS),
    'x-request-id': requestId,
    ...closing(response),
  });
  response.end(WAITING);
}

const WAITING = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="${AGAIN_SECONDS}">
<meta name="viewport" content="width=device-width">
<title>Waking up</title>
<style>
  body { font: 1.1rem/1.5 system-ui, sans-serif; display: grid; place-content: center; min-height: 90vh; color-scheme: light dark }
</style>
<p>This machine was asleep and is waking up. This page reloads by itself.
</html>
`;
