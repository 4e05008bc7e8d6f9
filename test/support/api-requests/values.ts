import fc from 'fast-check';
import type { ApiDescription } from '../../../src/api/described-answers.ts';

type Schema = Readonly<Record<string, unknown>>;

/** Most entries of a list or an object that is made up: the limits have cases of their own. */
const MOST_ENTRIES = 3;

/**
 * Values as a schema of the description allows them, limits included. `known`: what stands for a field by its name now and then, so that
 * requests also get past the rules no schema can tell.
 */
export function valuesOf(
  description: ApiDescription,
  schema: unknown,
  known: (field: string) => fc.Arbitrary<unknown> | undefined = () => undefined,
  field = '',
): fc.Arbitrary<unknown> {
  const made = madeUp(description, description.resolve(schema), known, field);
  const better = known(field);
  return better ? fc.oneof({ weight: 3, arbitrary: better }, { weight: 1, arbitrary: made }) : made;
}

function madeUp(
  description: ApiDescription,
  schema: Schema,
  known: (field: string) => fc.Arbitrary<unknown> | undefined,
  field: string,
): fc.Arbitrary<unknown> {
  const inner = (node: unknown, name: string): fc.Arbitrary<unknown> =>
    valuesOf(description, node, known, name);
  const choices = schema['anyOf'];
  if (Array.isArray(choices)) return fc.oneof(...choices.map((choice: unknown) => inner(choice, field)));
  if (Array.isArray(schema['enum'])) return fc.constantFrom(...(schema['enum'] as unknown[]));
  if (schema['const'] !== undefined) return fc.constant(schema['const']);
  switch (schema['type']) {
    case 'null':
      return fc.constant(null);
    case 'boolean':
      return fc.boolean();
    case 'integer':
    case 'number':
      return wholeNumbers(schema);
    case 'string':
      return texts(schema);
    case 'array': {
      const size = { minLength: number(schema, 'minItems', 0), maxLength: number(schema, 'maxItems', 3) };
      size.maxLength = Math.min(size.maxLength, Math.max(size.minLength, MOST_ENTRIES));
      const items = inner(schema['items'], field);
      return schema['uniqueItems'] === true ? fc.uniqueArray(items, size) : fc.array(items, size);
    }
    case 'object':
      return objects(schema, inner);
    default:
      return fc.jsonValue();
  }
}

function objects(
  schema: Schema,
  inner: (node: unknown, name: string) => fc.Arbitrary<unknown>,
): fc.Arbitrary<unknown> {
  const properties = Object.entries(fields(schema['properties']));
  const required = Array.isArray(schema['required']) ? schema['required'].map(String) : [];
  if (properties.length === 0 && schema['additionalProperties'] !== false) {
    const pattern = fields(schema['propertyNames'])['pattern'];
    const names = typeof pattern === 'string' ? texts({ pattern }) : fc.string();
    return fc.dictionary(names, inner(schema['additionalProperties'], ''), { maxKeys: MOST_ENTRIES });
  }
  // A few of those that may be left out: all at once hardly ever go together.
  const values = Object.fromEntries(
    properties.map(([name, node]) => [
      name,
      required.includes(name)
        ? inner(node, name)
        : fc.oneof(
            { weight: 4, arbitrary: fc.constant(undefined) },
            { weight: 1, arbitrary: inner(node, name) },
          ),
    ]),
  );
  return fc
    .record(values, { noNullPrototype: true })
    .map((made) => Object.fromEntries(Object.entries(made).filter(([, value]) => value !== undefined)));
}

function wholeNumbers(schema: Schema): fc.Arbitrary<number> {
  const min = number(schema, 'minimum', -(2 ** 31));
  const max = number(schema, 'maximum', 2 ** 31);
  return fc.oneof(
    fc.integer({ min, max: Math.min(max, min + 64) }),
    fc.integer({ min, max }),
    fc.constantFrom(min, max),
  );
}

function texts(schema: Schema): fc.Arbitrary<string> {
  const { pattern } = schema;
  const minLength = number(schema, 'minLength', 0);
  const maxLength = number(schema, 'maxLength', 64);
  const fits = (text: string): boolean => text.length >= minLength && text.length <= maxLength;
  if (typeof pattern !== 'string') {
    const longest = fc.constantFrom('a', 'é', '"', '\n').map((unit) => unit.repeat(maxLength));
    const any = fc.string({ unit: 'grapheme', minLength, maxLength: Math.min(maxLength, 64) }).filter(fits);
    return fc.oneof({ weight: 5, arbitrary: any }, { weight: 1, arbitrary: longest });
  }
  const rule = new RegExp(pattern);
  const allowed = (text: string): boolean => rule.test(text) && fits(text);
  const matching = fc.stringMatching(new RegExp(withoutLookahead(pattern))).filter(allowed);
  // As long as may be: as the limit says, or the pattern (names have 63 letters).
  const longest = matching.map(
    (text) =>
      [maxLength, 63].map((length) => text.slice(0, 1) + text.slice(-1).repeat(length - 1)).find(allowed) ??
      text,
  );
  return fc.oneof({ weight: 5, arbitrary: matching }, { weight: 1, arbitrary: longest });
}

/** A pattern without what it says must not follow, which the generator of texts does not know. */
function withoutLookahead(pattern: string): string {
  const begin = pattern.indexOf('(?!');
  if (begin < 0) return pattern;
  let [depth, end] = [0, begin];
  do {
    if (pattern[end] === '(') depth++;
    if (pattern[end] === ')') depth--;
    end++;
  } while (depth > 0);
  return withoutLookahead(pattern.slice(0, begin) + pattern.slice(end));
}

/** What no schema asks for, and clients send all the same. */
export const ODD_VALUES: fc.Arbitrary<unknown> = fc.oneof(
  fc.constantFrom<unknown[]>(
    null,
    true,
    0,
    -1,
    1.5,
    1e308,
    2 ** 53,
    '',
    ' ',
    '0',
    'null',
    '__proto__',
    '\u0000',
    'a\u0000b',
    '\r\nx: y',
    '\u202e\ufeff💥',
    '../../etc/passwd',
    "' OR 1=1 --",
    '\ud800',
    [],
    [[]],
    {},
    { constructor: { prototype: {} } },
  ),
  fc.constantFrom(64, 256, 2049, 70_000, 300_000).map((length) => 'x'.repeat(length)),
  fc.constantFrom(5, 100, 2000).map(nested),
  fc.jsonValue({ maxDepth: 3 }),
  fc.integer(),
  fc.string({ unit: 'binary' }),
);

function nested(depth: number): unknown {
  let value: unknown = [];
  for (let at = 1; at < depth; at++) value = at % 2 === 0 ? [value] : { a: value };
  return value;
}

/** Just below and above what a schema allows, where it has limits. */
export function beyond(description: ApiDescription, schema: unknown): fc.Arbitrary<unknown> {
  const node = description.resolve(schema);
  const over: unknown[] = [];
  for (const [limit, step] of [
    ['minimum', -1],
    ['maximum', 1],
  ] as const)
    if (typeof node[limit] === 'number') over.push(node[limit] + step, node[limit]);
  const { maxLength, minLength, maxItems, maxProperties } = node;
  if (typeof maxLength === 'number')
    over.push('a'.repeat(maxLength + 1), 'a'.repeat(maxLength), 'é'.repeat(maxLength));
  if (typeof minLength === 'number') over.push('a'.repeat(Math.max(0, minLength - 1)));
  if (typeof maxItems === 'number')
    for (const item of ['a', 1, {}]) over.push(Array.from({ length: maxItems + 1 }, () => item));
  if (typeof maxProperties === 'number')
    over.push(Object.fromEntries(Array.from({ length: maxProperties + 1 }, (_, at) => [`k${at}`, 'v'])));
  return over.length === 0 ? ODD_VALUES : fc.oneof(fc.constantFrom(...over), ODD_VALUES);
}

function number(schema: Schema, name: string, otherwise: number): number {
  const value = schema[name];
  return typeof value === 'number' ? value : otherwise;
}

export function fields(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}
