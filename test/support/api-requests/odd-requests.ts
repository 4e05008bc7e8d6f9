import { inspect } from 'node:util';
import fc from 'fast-check';
import type { ApiDescription, Operation } from '../../../src/api/described-answers.ts';
import {
  asText,
  bodySchema,
  encodeWhole,
  parametersOf,
  plainRequest,
  printed,
  roles,
  validRequests,
  type Asked,
} from './requests.ts';
import { beyond, fields, ODD_VALUES } from './values.ts';

/** Requests with one or two things in them that no client should send. */
export function oddRequests(description: ApiDescription, operation: Operation): fc.Arbitrary<Asked> {
  const start = fc.oneof(fc.constant(plainRequest(operation)), validRequests(description, operation));
  const oddities = fc.array(oddity(description, operation), { minLength: 1, maxLength: 2 });
  return fc
    .tuple(start, oddities, roles())
    .map(([asked, done, as]) =>
      printed(done.reduce((so, each) => each.to({ ...so, odd: [...so.odd, each.name] }), { ...asked, as })),
    );
}

interface Oddity {
  readonly name: string;
  readonly to: (asked: Asked) => Asked;
}

function oddity(description: ApiDescription, operation: Operation): fc.Arbitrary<Oddity> {
  const all = [...ODD_HEADERS, oddQueries(description, operation)];
  if (operation.path.includes('{')) all.push(oddPaths(operation));
  const schema = bodySchema(operation);
  if (schema !== undefined)
    all.push(oddBodies, oddFields(description, schema), oddFields(description, schema));
  return fc.oneof(...all);
}

const odd = <T>(
  name: string,
  values: fc.Arbitrary<T>,
  to: (asked: Asked, value: T) => Asked,
): fc.Arbitrary<Oddity> =>
  values.map((value) => ({
    name: `${name} ${inspect(value, { maxStringLength: 60, depth: 2, breakLength: Infinity })}`,
    to: (asked) => to(asked, value),
  }));

const withHeader = (asked: Asked, name: string, value: string): Asked => ({
  ...asked,
  headers: { ...asked.headers, [name]: value },
});

const ODD_HEADERS: fc.Arbitrary<Oddity>[] = [
  odd(
    'content-type',
    fc.constantFrom(
      'text/plain',
      'application/x-www-form-urlencoded',
      'multipart/form-data',
      'x',
      '',
      'application/json; charset=latin1',
      'application/octet-stream',
      'APPLICATION/JSON',
    ),
    (asked, type) => withHeader(asked, 'content-type', type),
  ),
  odd(
    'header',
    fc.constantFrom<(readonly [string, string])[]>(
      ['accept', 'text/event-stream'],
      ['accept', 'nothing/at-all'],
      ['accept', ','.repeat(2000)],
      ['content-encoding', 'gzip'],
      ['idempotency-key', ''],
      ['idempotency-key', 'k'.repeat(256)],
      ['idempotency-key', 'two words'],
      ['idempotency-key', 'k-1'],
      ['last-event-id', 'evt-abc123def456'],
      ['last-event-id', '\u00e9'],
      ['hatch-snapshot-key', 'x'],
      ['hatch-snapshot-key', Buffer.alloc(32).toString('base64')],
      ['range', 'bytes=0-1'],
      ['if-none-match', '*'],
      ['x-http-method-override', 'DELETE'],
      ['host', 'x y'],
      ['cookie', 'a'.repeat(8000)],
      ['__proto__', 'x'],
    ),
    (asked, [name, value]) => withHeader(asked, name, value),
  ),
  odd(
    'method',
    fc.constantFrom('PUT', 'OPTIONS', 'TRACE', 'HEAD', 'DELETE', 'POST', 'PATCH', 'PROPFIND', 'QUERY'),
    (asked, method) => ({ ...asked, method }),
  ),
];

function oddQueries(description: ApiDescription, operation: Operation): fc.Arbitrary<Oddity> {
  const known = parametersOf(operation).filter(({ in: where }) => where === 'query');
  const names = [
    'limit',
    'colour',
    '__proto__',
    'constructor',
    'limit[]',
    'limit.max',
    'toString',
    '',
    '\u0000',
    '💥',
  ];
  const values = ODD_VALUES.map((value) => asText(value).slice(0, 3000));
  const named = known.map(({ name, schema }) =>
    odd(
      `?${name}=`,
      fc.oneof(
        beyond(description, schema).map((value) => asText(value).slice(0, 3000)),
        values,
      ),
      (asked, value) => ({
        ...asked,
        query: [...asked.query.filter(([each]) => each !== name), [name, value]],
      }),
    ),
  );
  return fc.oneof(
    ...named,
    odd('?', fc.tuple(fc.constantFrom(...names), values), (asked, pair) => ({
      ...asked,
      query: [...asked.query, pair],
    })),
    odd('? twice', fc.constantFrom(1, 200), (asked, times) => {
      const first = asked.query[0] ?? (['limit', '1'] as const);
      return { ...asked, query: [...asked.query, ...Array.from({ length: times }, () => first)] };
    }),
    odd(
      '? raw',
      fc.constantFrom(
        '%',
        '%zz',
        '%00',
        '&&&=',
        '=',
        '?',
        '%ff',
        'limit=%31',
        'a+b=c%20d',
        '#x',
        ';',
        '%u0041',
      ),
      (asked, raw) => ({ ...asked, query: [...asked.query, ['', `!${raw}`]] }),
    ),
  );
}

function oddPaths({ path }: Operation): fc.Arbitrary<Oddity> {
  const raw = fc.constantFrom(
    '',
    '.',
    '..',
    '%2e%2e',
    '%2E%2E%2F',
    '%00',
    '%',
    '%zz',
    '%ff',
    'a%2fb',
    '%0a',
    '%20',
    '*',
    ':id',
    '{id}',
    '%7Bid%7D',
    '%F0%9F%92%A5',
    'WEB',
    'vm-',
    'vm-abc123def456',
    'snap-abc123def456',
    'rt-abc123def456',
    '__proto__',
    'constructor',
    'a'.repeat(63),
    'a'.repeat(64),
    'a'.repeat(600),
    'a'.repeat(7000),
    'import',
    'a;b',
    '-',
    '0',
    'null',
    '@vm#1',
    '@snapshot#1',
    '@route#0',
    '@template#0',
    '@image#0',
    '@key#0',
  );
  const text = fc.string({ unit: 'binary' }).map(encodeWhole);
  return fc.oneof(
    odd('id', fc.oneof(raw, text), (asked, id) => ({
      ...asked,
      path: path.replace(/\{\w+\}/, () => id).replace(/\{\w+\}/, () => id),
    })),
    odd(
      'path',
      fc.constantFrom('/', '//', '/x', '%2f', '/%2e%2e', '/.', ';x', '%3f', '%23'),
      (asked, end) => ({ ...asked, path: `${asked.path}${end}` }),
    ),
  );
}

const oddBodies: fc.Arbitrary<Oddity> = fc.oneof(
  odd('body', ODD_VALUES, (asked, json) => ({ ...asked, body: { json } })),
  odd(
    'body as text',
    fc.constantFrom(
      '',
      ' ',
      '{',
      '{"a":1,}',
      'nul',
      '\ufeff{}',
      '{}{}',
      '{"__proto__":{}}',
      '{"labels":{"__proto__":"x"}}',
      '{"constructor":{"prototype":{"x":1}}}',
      '{"name":"a","name":"b"}',
      '"\\ud800"',
      '['.repeat(100_000),
      '{"a":'.repeat(100_000),
      `${'['.repeat(100_000)}${']'.repeat(100_000)}`,
      '1e999',
      '{"vcpu_count":1e400}',
      '{"vcpu_count":-0}',
      `{"x":"${'y'.repeat(1_048_576)}"}`,
      '\u0000',
    ),
    (asked, text) => ({ ...asked, body: { text } }),
  ),
  odd('body as text', fc.string({ unit: 'binary' }), (asked, text) => ({ ...asked, body: { text } })),
);

function oddFields(description: ApiDescription, schema: unknown): fc.Arbitrary<Oddity> {
  const node = description.resolve(schema);
  const properties = Object.entries(fields(node['properties']));
  const put = (asked: Asked, name: string, value: unknown): Asked => {
    const json = typeof asked.body === 'object' && 'json' in asked.body ? fields(asked.body.json) : {};
    return { ...asked, body: { json: { ...json, [name]: value } } };
  };
  const unknown = fc.constantFrom(
    'colour',
    '',
    'toString',
    'hasOwnProperty',
    'a.b',
    'a/b~c',
    '\u0000',
    '💥',
    'n'.repeat(5000),
    '$ref',
    '0',
  );
  const all = [
    odd('field', fc.tuple(unknown, ODD_VALUES), (asked, [name, value]) => put(asked, name, value)),
  ];
  for (const [name, inner] of properties) {
    all.push(odd(`"${name}"`, beyond(description, inner), (asked, value) => put(asked, name, value)));
    const below = Object.entries(fields(description.resolve(inner)['properties']));
    for (const [under, deepest] of below)
      all.push(
        odd(`"${name}.${under}"`, beyond(description, deepest), (asked, value) =>
          put(asked, name, { [under]: value }),
        ),
      );
  }
  const [required] = Array.isArray(node['required']) ? node['required'].map(String) : [];
  if (required !== undefined)
    all.push(odd('without', fc.constant(required), (asked, name) => put(asked, name, undefined)));
  return fc.oneof(...all);
}
