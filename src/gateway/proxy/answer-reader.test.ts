import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { AnswerReader } from './answer-reader.ts';
import { BadMessage } from './message-head.ts';

/** What is heard of an answer that comes in these pieces, the connection ending after them. */
function heard(
  pieces: readonly Buffer[],
  method = 'GET',
): { said: unknown[]; rest: string; keeps: boolean; bad: string } {
  const said: unknown[] = [];
  let body = '';
  const reader = new AnswerReader(
    {
      interim: ({ status }) => said.push(['interim', status]),
      head: ({ status, reason, headers }) => said.push([status, reason, ...headers]),
      body: (piece) => (body += piece.toString('latin1')),
      end: (trailers) => said.push([body, ...trailers]),
    },
    { method },
  );
  let [rest, bad] = ['', ''];
  try {
    for (const piece of pieces)
      rest += (reader.done ? piece : (reader.feed(piece) ?? Buffer.alloc(0))).toString('latin1');
    reader.close();
  } catch (error) {
    assert.ok(error instanceof BadMessage, String(error));
    bad = error.message;
  }
  return { said, rest, keeps: reader.keeps, bad };
}

const read = (text: string, method?: string): ReturnType<typeof heard> =>
  heard([Buffer.from(text, 'latin1')], method);

const GOOD: Readonly<Record<string, string>> = {
  sized: 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A:  b \r\n\r\nhello',
  empty: 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n',
  chunked:
    'HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\nConnection: x-mine\r\nX-Mine: 1\r\n\r\n5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-End: 1\r\n\r\n',
  plainly: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n',
  interim:
    'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n',
  closing: 'HTTP/1.0 200 OK\r\n\r\nuntil the end',
};

test('an answer is read by how its length is told, and whether another may follow it', () => {
  const { sized, empty, chunked, plainly, interim, closing } = GOOD;
  assert.deepEqual(read(`${sized}more`), {
    said: [[200, 'OK', 'Content-Length', '5', 'X-A', 'b'], ['hello']],
    rest: 'more',
    keeps: true,
    bad: '',
  });
  assert.deepEqual(read(empty ?? '').said, [[200, 'OK', 'Content-Length', '0'], ['']]);
  assert.deepEqual(read(chunked ?? '').said, [
    [200, ''],
    ['hello0123456789', 'X-End', '1'],
  ]);
  assert.deepEqual([read(plainly ?? '').said.at(-1), read(plainly ?? '').keeps], [['x'], true]);
  assert.deepEqual(read(interim ?? '').said, [['interim', 100], ['interim', 103], [204, 'No Content'], ['']]);
  const until = read(closing ?? '');
  assert.deepEqual([until.said.at(-1), until.keeps], [['until the end'], false]);
  const head = read('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n', 'HEAD');
  assert.deepEqual([head.said.at(-1), head.keeps], [[''], true]);
  assert.equal(read('HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n').keeps, false);
});

test('however an answer is cut into pieces, the same is read', () => {
  for (const text of Object.values(GOOD)) {
    const whole = read(text);
    fc.assert(
      fc.property(fc.array(fc.nat(text.length), { maxLength: 12 }), (cuts) => {
        const at = [0, ...cuts.toSorted((a, b) => a - b), text.length];
        const pieces = at.map((from, i) => Buffer.from(text.slice(from, at[i + 1]), 'latin1'));
        assert.deepEqual(heard(pieces), whole);
      }),
    );
  }
  const single = [...(GOOD['chunked'] ?? '')].map((one) => Buffer.from(one));
  assert.deepEqual(heard(single), read(GOOD['chunked'] ?? ''));
});

test('what is no answer is said to be none, and any bytes at all are read without harm', () => {
  const bad: Readonly<Record<string, RegExp>> = {
    '': /half-way/,
    'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel': /half-way/,
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n': /half-way/,
    'nonsense\r\n\r\n': /status line/,
    'HTTP/2 200 OK\r\n\r\n': /status line/,
    'HTTP/1.1 099 OK\r\n\r\n': /status line/,
    'HTTP/1.1 200 OK\r\n X: folded\r\n\r\n': /no header/,
    'HTTP/1.1 200 OK\r\nX : y\r\n\r\n': /no header/,
    'HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n': /control character/,
    'HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n': /control character/,
    'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello': /Content-Length/,
    'HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello': /Content-Length/,
    'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n': /both/,
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n': /other than chunked/,
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n': /without a size/,
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n': /longer than it said/,
    [`HTTP/1.1 200 OK\r\nX: ${'y'.repeat(40_000)}\r\n\r\n`]: /over 32768 bytes/,
    [`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${'1;'.repeat(2000)}`]: /over 1024 bytes/,
    ['HTTP/1.1 100 Continue\r\n\r\n'.repeat(33)]: /again and again/,
  };
  for (const [text, why] of Object.entries(bad)) assert.match(read(text).bad, why, text.slice(0, 80));
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 5 }), (pieces) => {
      heard(pieces.map((piece) => Buffer.from(piece)));
      heard([Buffer.from('HTTP/1.1 200 OK\r\n'), ...pieces.map((piece) => Buffer.from(piece))]);
    }),
  );
});
