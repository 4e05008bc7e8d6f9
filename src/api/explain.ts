import type { ErrorCode } from '../contract/errors.ts';
import { Failure } from '../model/failure.ts';
import { nearest } from './nearest.ts';

/** Where in a request a value stands. */
export type Part = 'body' | 'querystring' | 'params';

/** One finding of the validator, as TypeBox gives it. */
export interface Finding {
  readonly keyword: string;
  /** The node of the schema that was broken: `#/properties/idle/anyOf/0`. */
  readonly schemaPath: string;
  /** The value that broke it, as a JSON pointer. */
  readonly instancePath: string;
  readonly params: object;
}

type Node = Readonly<Record<string, unknown>>;

/** Fields whose size is a limit of its own: too much of them is 413, as too large a body is. */
const TOO_LARGE_FIELDS = new Set(['user_data', 'stdin']);

/**
 * Puts what a validator found into one sentence that names the field and its limit, as a Failure: `invalid_request`, or
 * `too_large` for a field with a size limit of its own. It shows numbers and short words of the request, never long texts.
 */
export function explain(part: Part, schema: object, value: unknown, findings: readonly Finding[]): Failure {
  const finding = foremost(schema, findings);
  const node = nodeAt(schema, finding.schemaPath);
  const path = segments(finding.instancePath);
  const found = valueAt(value, path);
  const field = path.join('.');
  const place = placeOf(part, field);

  if (finding.keyword === 'additionalProperties') return unknownField(part, node, path, finding);
  if (finding.keyword === 'required') {
    const missing = [...path, texts(finding.params, 'requiredProperties')[0] ?? ''].join('.');
    return refuse(missing, `${placeOf(part, missing)} is required.`);
  }
  const rule = node['x-rule'];
  if (typeof rule === 'string' && ['pattern', 'anyOf'].includes(finding.keyword))
    return refuse(field, `${place} must be ${rule}.`);

  switch (finding.keyword) {
    case 'type':
    case 'minimum':
    case 'maximum':
      return refuse(
        field,
        `${place} must be ${typeWords(node)}${orNull(schema, finding)}; it is ${kindOf(found)}.`,
        {
          ...pick(node, 'minimum', 'maximum'),
        },
      );
    case 'enum':
    case 'const': {
      const allowed = Array.isArray(node['enum']) ? node['enum'].map(String) : [String(node['const'])];
      return refuse(field, `${place} must be one of ${allowed.join(', ')}; it is ${kindOf(found)}.`, {
        allowed,
      });
    }
    case 'maxLength': {
      const limit = Number(node['maxLength']);
      const length = typeof found === 'string' ? found.length : 0;
      const code = TOO_LARGE_FIELDS.has(field) ? 'too_large' : 'invalid_request';
      return refuse(
        field,
        `${place} may have at most ${limit} characters; it has ${length}.`,
        { limit },
        code,
      );
    }
    case 'minLength':
      return refuse(field, `${place} may not be empty.`);
    case 'maxItems':
    case 'maxProperties': {
      const limit = Number(node[finding.keyword]);
      return refuse(field, `${place} may have at most ${limit} entries.`, { limit });
    }
    case 'minItems':
      return refuse(field, `${place} must have at least ${Number(node['minItems'])} entry.`);
    case 'uniqueItems':
      return refuse(field, `${place} names the same thing twice.`);
    default:
      return refuse(field, `${place} is not as it must be (${finding.keyword}).`);
  }
}

function refuse(
  field: string,
  message: string,
  details: Readonly<Record<string, unknown>> = {},
  code: ErrorCode = 'invalid_request',
): Failure {
  return new Failure(code, message, { details: { field, ...details } });
}

function unknownField(part: Part, node: Node, path: readonly string[], finding: Finding): Failure {
  const name = texts(finding.params, 'additionalProperties')[0] ?? '';
  const shown = name.length > 64 ? `${name.slice(0, 64)}...` : name;
  const field = [...path, shown].join('.');
  const keyRule = node['x-key-rule'];
  if (typeof keyRule === 'string')
    return refuse(
      field,
      `${placeOf(part, path.join('.'))} has a key ${JSON.stringify(shown)} that is not allowed: keys are ${keyRule}.`,
    );
  const known = isNode(node['properties']) ? Object.keys(node['properties']) : [];
  const meant = nearest(name, known);
  const what = part === 'querystring' ? 'query parameter' : 'field';
  const hint =
    meant !== undefined
      ? `Did you mean "${[...path, meant].join('.')}"?`
      : known.length === 0
        ? 'None is taken here.'
        : `Known here: ${known.join(', ')}.`;
  return refuse(
    field,
    `Unknown ${what} ${JSON.stringify(field)}. ${hint}`,
    meant === undefined ? {} : { meant },
  );
}

/**
 * The finding worth telling. Of a value that fits none of several schemas: the rule in words where they have one together,
 * else what is wrong with it as the first of them (the others being null).
 */
function foremost(schema: object, findings: readonly Finding[]): Finding {
  const telling = findings.filter((finding) => finding.keyword !== 'boolean');
  const first = telling[0] ??
    fieldTooMany(findings) ?? { keyword: 'unknown', schemaPath: '#', instancePath: '', params: {} };
  const outer = first.schemaPath.indexOf('/anyOf/');
  const anyOf =
    first.keyword === 'anyOf' ? first.schemaPath : outer < 0 ? undefined : first.schemaPath.slice(0, outer);
  if (anyOf === undefined) return first;
  // The validator gives its first findings only; the one of the whole comes last.
  if (nodeAt(schema, anyOf)['x-rule'] !== undefined)
    return (
      telling.find((finding) => finding.keyword === 'anyOf' && finding.schemaPath === anyOf) ??
      (first.schemaPath === `${anyOf}/anyOf/0` ? { ...first, keyword: 'anyOf', schemaPath: anyOf } : first)
    );
  return telling.find((finding) => finding.schemaPath.startsWith(`${anyOf}/anyOf/0`)) ?? first;
}

/**
 * An unknown field, where the validator had so many of them to tell that it stopped before it named them together: of each it
 * says only that its schema is `false`.
 */
function fieldTooMany(findings: readonly Finding[]): Finding | undefined {
  const rule = '/additionalProperties';
  const finding = findings.find(({ schemaPath }) => schemaPath.endsWith(rule));
  if (!finding) return undefined;
  return {
    keyword: 'additionalProperties',
    schemaPath: finding.schemaPath.slice(0, -rule.length),
    instancePath: finding.instancePath.slice(0, finding.instancePath.lastIndexOf('/')),
    params: { additionalProperties: segments(finding.instancePath).slice(-1) },
  };
}

/** " or null" where the schema around the finding allows it. */
function orNull(schema: object, finding: Finding): string {
  const match = /^(.*)\/anyOf\/0$/.exec(finding.schemaPath);
  if (!match) return '';
  const options = nodeAt(schema, match[1] ?? '#')['anyOf'];
  return Array.isArray(options) && options.some((option) => isNode(option) && option['type'] === 'null')
    ? ' or null'
    : '';
}

function placeOf(part: Part, field: string): string {
  if (field === '') return part === 'body' ? 'The body' : 'The query';
  const quoted = JSON.stringify(field);
  if (part === 'querystring') return `The query parameter ${quoted}`;
  return part === 'params' ? `${quoted} in the path` : quoted;
}

function typeWords(node: Node): string {
  const { type, minimum, maximum } = node;
  const range =
    typeof minimum === 'number' && typeof maximum === 'number' ? ` from ${minimum} to ${maximum}` : '';
  switch (type) {
    case 'integer':
      return `a whole number${range}`;
    case 'number':
      return `a number${range}`;
    case 'boolean':
      return 'true or false';
    case 'string':
      return 'a string';
    case 'array':
      return 'a list';
    case 'object':
      return 'an object';
    default:
      return 'null';
  }
}

/** What a value is, in words; numbers and short words are shown, longer texts may be secrets. */
function kindOf(value: unknown): string {
  if (value === null || typeof value === 'boolean') return String(value);
  if (typeof value === 'number') return String(value);
  if (typeof value === 'string') return /^[\w.:-]{1,24}$/.test(value) ? `the string "${value}"` : 'a string';
  if (Array.isArray(value)) return 'a list';
  return value === undefined ? 'not there' : 'an object';
}

function segments(pointer: string): string[] {
  return pointer
    .split('/')
    .slice(1)
    .map((segment) => segment.replaceAll('~1', '/').replaceAll('~0', '~'));
}

function valueAt(value: unknown, path: readonly string[]): unknown {
  return path.reduce<unknown>(
    (at, key) =>
      typeof at === 'object' && at !== null && Object.hasOwn(at, key) ? Reflect.get(at, key) : undefined,
    value,
  );
}

/** The node of a schema that a path leads to; an empty one where it leads nowhere. */
function nodeAt(schema: object, schemaPath: string): Node {
  const node = valueAt(schema, segments(schemaPath));
  return isNode(node) ? node : {};
}

function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null;
}

function texts(from: object, key: string): string[] {
  const value: unknown = Reflect.get(from, key);
  return Array.isArray(value) ? value.map(String) : [];
}

function pick(node: Node, ...keys: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(keys.filter((key) => node[key] !== undefined).map((key) => [key, node[key]]));
}
