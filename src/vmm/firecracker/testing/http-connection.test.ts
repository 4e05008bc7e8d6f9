import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HttpConnection, type Heard } from './http-connection.ts';

function hear(connection: HttpConnection, text: string): readonly Heard[] {
  return [...connection.feed(Buffer.from(text))];
}

function request(method: string, path: string, body?: string): Heard {
  return { kind: 'request', request: { method: method as 'GET', path, body } };
}

function malformed(why: string): Heard {
  return {
    kind: 'malformed',
    body: `{ "error": "${why}\nAll previous unanswered requests will be dropped." }`,
  };
}

const PUT = 'PUT /entropy HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}';

test('a request is heard when its last byte is there, however it was parted', () => {
  const connection = new HttpConnection(51_200);
  for (const letter of PUT.slice(0, -1)) assert.deepEqual(hear(connection, letter), []);
  assert.deepEqual(hear(connection, '}'), [request('PUT', '/entropy', '{}')]);
});

test('requests on one connection are heard one after the other, also out of one piece', () => {
  const connection = new HttpConnection(51_200);
  assert.deepEqual(hear(connection, `${PUT}GET / HTTP/1.1\r\nHost: x\r\n\r\n${PUT}`), [
    request('PUT', '/entropy', '{}'),
    request('GET', '/'),
    request('PUT', '/entropy', '{}'),
  ]);
});

test('a body of many windows is put together', () => {
  const body = 'x'.repeat(5000);
  const connection = new HttpConnection(51_200);
  assert.deepEqual(hear(connection, `PATCH /mmds HTTP/1.1\r\ncontent-length:5000\r\n\r\n${body}`), [
    request('PATCH', '/mmds', body),
  ]);
});

test('a chunked body is no body, and its chunks are taken for requests', () => {
  const connection = new HttpConnection(51_200);
  const head = 'PUT /entropy HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n';
  assert.deepEqual(hear(connection, head), [request('PUT', '/entropy')]);
  assert.deepEqual(hear(connection, '2\r\n{}\r\n0\r\n\r\n'), [malformed('Invalid request.')]);
});

test('a payload over the limit is refused in what is no JSON, and once more for every window of it', () => {
  const connection = new HttpConnection(51_200);
  const head = 'PUT /mmds HTTP/1.1\r\nContent-Length: 60000\r\n\r\n';
  const [first, ...none] = hear(connection, head);
  assert(first);
  assert.deepEqual(none, []);
  assert.deepEqual(
    first,
    malformed('Request payload with size 60000 is larger than the limit of 51200 allowed by server.'),
  );
  assert.throws(() => JSON.parse(first.kind === 'malformed' ? first.body : '{}'));
  const after = hear(connection, 'x'.repeat(60_000));
  assert.equal(after.length, Math.floor(60_000 / 1024));
  assert(after.every((heard) => heard.kind === 'malformed'));
});

test('the limit is what was asked for', () => {
  const connection = new HttpConnection(1);
  assert.deepEqual(hear(connection, PUT), [
    malformed('Request payload with size 2 is larger than the limit of 1 allowed by server.'),
  ]);
});

test('who expects to be asked for the body is', () => {
  const connection = new HttpConnection(51_200);
  assert.deepEqual(
    hear(connection, 'PUT /entropy HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n'),
    [{ kind: 'continue' }],
  );
  assert.deepEqual(hear(connection, '{}'), [request('PUT', '/entropy', '{}')]);
});

test('what is no request is refused in its own words', () => {
  for (const [line, why] of [
    ['POST / HTTP/1.1', 'Invalid HTTP Method: Unsupported HTTP method.'],
    ['get / HTTP/1.1', 'Invalid HTTP Method: Unsupported HTTP method.'],
    ['GET / HTTP/2', 'Invalid HTTP Version: Unsupported HTTP version.'],
    ['GET  HTTP/1.1', 'Invalid URI: Empty URI not allowed.'],
    ['nonsense', 'Invalid request.'],
  ] as const) {
    assert.deepEqual(hear(new HttpConnection(51_200), `${line}\r\n`), [malformed(why)], line);
  }
  for (const [header, why] of [
    ['Content-Length: many', 'Invalid value. Key:Content-Length; Value: many'],
    ['no colon', 'Header is incorrectly formatted. Key: no colon'],
    ['Accept-Encoding: identity;q=0', 'Invalid value. Key:Accept-Encoding; Value:identity;q=0'],
  ] as const) {
    const connection = new HttpConnection(51_200);
    assert.deepEqual(
      hear(connection, `GET / HTTP/1.1\r\n${header}\r\n`),
      [malformed(`Invalid header. Reason: ${why}`)],
      header,
    );
  }
});

test('a header of a whole window is too long; many short ones are not', () => {
  const long = new HttpConnection(51_200);
  const line = `X-Long: ${'x'.repeat(2000)}`;
  assert.deepEqual(hear(long, 'GET / HTTP/1.1\r\n'), []);
  const [heard] = hear(long, line);
  assert(heard?.kind === 'malformed');
  assert.match(heard.body, /^\{ "error": "Invalid header\. Reason: Invalid content length\. Header: X-Long/);
  const short = new HttpConnection(51_200);
  const headers = 'X-Short: value\r\n'.repeat(500);
  assert.deepEqual(hear(short, `GET /version HTTP/1.1\r\n${headers}\r\n`), [request('GET', '/version')]);
});

test('an absolute address is read for its path', () => {
  const connection = new HttpConnection(51_200);
  assert.deepEqual(hear(connection, 'GET http://localhost/vm/config HTTP/1.0\r\n\r\n'), [
    request('GET', '/vm/config'),
  ]);
});
