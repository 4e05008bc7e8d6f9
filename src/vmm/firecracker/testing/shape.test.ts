import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SerdeError } from './json-text.ts';
import { anything, defaulted, list, oneOf, optional, read, string, struct, u8, type Shape } from './shape.ts';

const place = struct('Place', { name: string, floor: optional(u8) });
const shape = struct('House', {
  kind: oneOf('File', 'Uffd'),
  floors: u8,
  place: optional(place),
  doors: defaulted(list(string), []),
});
const GOOD = '{"kind":"File","floors":2}';

function refusal<T>(shape: Shape<T>, text: string): string {
  try {
    read(shape, text);
  } catch (error) {
    if (error instanceof SerdeError) return error.message;
    throw error;
  }
  return 'none';
}

test('a body is read with what it leaves out', () => {
  assert.deepEqual(read(shape, GOOD), { kind: 'File', floors: 2, place: null, doors: [] });
  assert.deepEqual(
    read(shape, '{"kind":"Uffd","floors":0,"place":{"name":"x","floor":null},"doors":["a"]}'),
    {
      kind: 'Uffd',
      floors: 0,
      place: { name: 'x', floor: null },
      doors: ['a'],
    },
  );
  assert.deepEqual(read(anything, ' {"a":[1,true,null,"\\u00e9\\n"]} '), { a: [1, true, null, 'é\n'] });
});

test('what is wrong is said as serde_json says it, and where', () => {
  for (const [text, wanted] of [
    ['{"kind":"File"}', 'missing field `floors` at line 1 column 15'],
    ['{"kind":"foo","floors":1}', 'unknown variant `foo`, expected `File` or `Uffd` at line 1 column 13'],
    [
      '{"kind":"File","floor":1}',
      'unknown field `floor`, expected one of `kind`, `floors`, `place`, `doors` at line 1 column 22',
    ],
    ['{"kind":"File","floors":256}', 'invalid value: integer `256`, expected u8 at line 1 column 27'],
    ['{"kind":"File","floors":-1}', 'invalid value: integer `-1`, expected u8 at line 1 column 26'],
    ['{"kind":"File","floors":1.5}', 'invalid type: floating point `1.5`, expected u8 at line 1 column 27'],
    ['{"kind":"File","floors":"1"}', 'invalid type: string "1", expected u8 at line 1 column 27'],
    ['{"kind":"File","floors":null}', 'invalid type: null, expected u8 at line 1 column 28'],
    ['{"kind":"File","floors":1,"floors":1}', 'duplicate field `floors` at line 1 column 34'],
    ['{"kind":"File","floors":1,"place":{}}', 'missing field `name` at line 1 column 36'],
    ['{"kind":"File",\n "floors":true}', 'invalid type: boolean `true`, expected u8 at line 2 column 14'],
    ['[]', 'invalid type: sequence, expected struct House at line 1 column 0'],
    ['"x"', 'invalid type: string "x", expected struct House at line 1 column 3'],
    ['', 'EOF while parsing a value at line 1 column 0'],
    ['{"kind"', 'EOF while parsing an object at line 1 column 7'],
    ['{"kind":"Fi', 'EOF while parsing a string at line 1 column 11'],
    ['{"kind" "File"}', 'expected `:` at line 1 column 9'],
    ['{"kind":"File",}', 'trailing comma at line 1 column 16'],
    ['{kind:1}', 'key must be a string at line 1 column 2'],
    ['{"kind":File}', 'expected value at line 1 column 9'],
    [`${GOOD} x`, 'trailing characters at line 1 column 28'],
  ] as const) {
    assert.equal(refusal(shape, text), wanted, text);
  }
});

test('a struct that is open passes over what it does not know; a hidden field is not known', () => {
  const open = struct('Open', { name: string }, { open: true });
  assert.deepEqual(read(open, '{"name":"x","more":1}'), { name: 'x' });
  const older = struct('Older', { name: string, newer: optional(u8) }, { hidden: ['newer'] });
  assert.deepEqual(read(older, '{"name":"x"}'), { name: 'x', newer: null });
  assert.equal(
    refusal(older, '{"name":"x","newer":1}'),
    'unknown field `newer`, expected `name` at line 1 column 19',
  );
});

test('names of every object are fields like any other', () => {
  assert.match(refusal(place, '{"toString":1}'), /^unknown field `toString`/);
  assert.deepEqual(read(anything, '{"toString":1}'), { toString: 1 });
});
