import { inspect } from 'node:util';
import fc from 'fast-check';
import type { ApiDescription, Operation } from '../../../src/api/described-answers.ts';
import { knownAt, PLAIN, type Plain } from './plain.ts';
import { ROLES, type Role } from './stock.ts';
import { fields, valuesOf } from './values.ts';

/** A request as it is made up. `@vm#0` and the like in its texts stand for what is in stock when it is sent. */
export interface Asked {
  readonly operation: string;
  readonly as: Role;
  readonly method: string;
  readonly path: string;
  readonly query: readonly (readonly [name: string, value: string])[];
  readonly headers: Readonly<Record<string, string>>;
  /** A text is sent as it is. */
  readonly body: { readonly json: unknown } | { readonly text: string } | 'file' | undefined;
  /** What was done to it that no client should do. */
  readonly odd: readonly string[];
}

/** One of the parameters of an operation. */
export interface Parameter {
  readonly name: string;
  readonly in: string;
  readonly required: boolean;
  readonly schema: unknown;
}

/** The plainest request for an operation; throws where nobody has said what that is. */
export function plainRequest({ id, method, path }: Operation): Asked {
  const plain: Plain | undefined = PLAIN[id];
  if (!plain) throw new Error(`No request is known for ${id}, ${method} ${path}: add one to PLAIN.`);
  const { params = {}, query = [], body, file } = plain;
  return {
    operation: id,
    as: 'everything',
    method,
    path: path.replace(/\{(\w+)\}/g, (_, name: string) => params[name] ?? ''),
    query: query.map(([name, value]) => [name, asText(value)]),
    headers: {},
    body: file ? 'file' : body === undefined ? undefined : { json: body },
    odd: [],
  };
}

/** Requests for an operation as its description allows them, with whatever is allowed. */
export function validRequests(description: ApiDescription, operation: Operation): fc.Arbitrary<Asked> {
  const plain = plainRequest(operation);
  const known = knownAt(operation.path);
  const parameters = parametersOf(operation);
  const values = parameters.map(({ schema, required, name, in: where }) => {
    const value = valuesOf(description, schema, known, name);
    // Who says when its key is to end is one of few; what a path names has to be there.
    return where === 'path' || required
      ? value
      : fc.oneof({ weight: 2, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: value });
  });
  const schema = bodySchema(operation);
  const body = schema === undefined ? fc.constant(undefined) : valuesOf(description, schema, known);
  return fc.tuple(fc.tuple(...values), body, roles()).map(([given, json, as]) => {
    const by = (where: string): (readonly [Parameter, unknown])[] =>
      parameters.flatMap((each, at) =>
        each.in === where && given[at] !== undefined ? [[each, given[at]] as const] : [],
      );
    return printed({
      ...plain,
      as,
      path: by('path').reduce(
        (path, [{ name }, value]) => path.replace(`{${name}}`, segment(value)),
        operation.path,
      ),
      query: by('query').flatMap(([{ name }, value]) =>
        (Array.isArray(value) ? value : [value]).map((each: unknown) => [name, asText(each)] as const),
      ),
      headers: Object.fromEntries(by('header').map(([{ name }, value]) => [name, headerText(asText(value))])),
      body: plain.body === 'file' ? 'file' : json === undefined ? undefined : { json },
    });
  });
}

/** Whose key it is sent with: one that may do everything, more often than not. */
export function roles(): fc.Arbitrary<Role> {
  return fc.oneof(
    { weight: 4, arbitrary: fc.constant<Role>('everything') },
    { weight: 1, arbitrary: fc.constantFrom(...ROLES) },
  );
}

/** What may be said in path, query and headers. */
export function parametersOf({ described }: Operation): Parameter[] {
  return Object.values(fields(described['parameters'])).map((each) => {
    const { name, in: where, required, schema } = fields(each);
    return { name: String(name), in: String(where), required: required === true, schema };
  });
}

/** The schema of a body of JSON; undefined where none is taken. */
export function bodySchema({ described }: Operation): unknown {
  const content = fields(fields(described['requestBody'])['content']);
  return fields(content['application/json'])['schema'];
}

function segment(value: unknown): string {
  const text = asText(value);
  return text.startsWith('@') ? text : encodeWhole(text);
}

/** A text in percent-encoding; half a surrogate pair as what stands for it. */
export function encodeWhole(text: string): string {
  return encodeURIComponent(text.toWellFormed());
}

/** A value as a query has it. */
export function asText(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** What a header can carry of a text. */
function headerText(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, '?').slice(0, 300);
}

/** Shown in a failure as far as it can be read. */
export function printed(asked: Asked): Asked {
  return Object.defineProperty({ ...asked }, fc.toStringMethod, {
    value: () => inspect(asked, { maxStringLength: 200, maxArrayLength: 8, depth: 5 }),
    enumerable: false,
  });
}
