import { Compile, type Validator } from 'typebox/schema';
import { ERRORS, isErrorCode } from '../contract/errors.ts';

/** An answer, as far as the description says anything of it. */
export interface DescribedAnswer {
  readonly method: string;
  /** With its query, as it was asked. */
  readonly url: string;
  readonly status: number;
  /** undefined where there is no body. */
  readonly contentType: string | undefined;
  /** The body, of which JSON alone is looked into; undefined where it was not read to its end. */
  readonly text: string | undefined;
}

/** An operation of the description: what can be done at a path with a method. */
export interface Operation {
  /** In capital letters. */
  readonly method: string;
  /** With its parameters in braces. */
  readonly path: string;
  readonly id: string;
  /** As it stands in the description, references and all. */
  readonly described: Record<string, unknown>;
}

/**
 * The server's description of itself (OpenAPI 3.1), for tests: what can be asked, and whether an answer is one it may give. It is built of
 * the document alone, so that what is checked is what a client reads.
 */
export class ApiDescription {
  readonly operations: readonly Operation[];
  readonly #document: unknown;
  readonly #places: readonly { readonly matches: RegExp; readonly operation: Operation }[];
  readonly #validators = new Map<string, Validator>();

  /** `document`: what `/openapi.json` answers. */
  constructor(document: unknown) {
    this.#document = document;
    this.operations = Object.entries(fields(get(document, 'paths'))).flatMap(([path, calls]) =>
      Object.entries(fields(calls)).map(([method, described]) => ({
        method: method.toUpperCase(),
        path,
        id: String(get(described, 'operationId')),
        described: fields(described),
      })),
    );
    this.#places = this.operations.map((operation) => ({
      matches: new RegExp(`^${operation.path.replace(/\{\w+\}/g, '[^/]+')}/?$`),
      operation,
    }));
  }

  /** The operation a request is for, with the one that names a path in full before the one with a parameter there. */
  operationOf(method: string, url: string): Operation | undefined {
    const path = url.split('?')[0] ?? '';
    const asked = method === 'HEAD' ? 'GET' : method;
    return this.#places
      .filter(({ matches, operation }) => operation.method === asked && matches.test(path))
      .map(({ operation }) => operation)
      .sort((one, other) => one.path.split('{').length - other.path.split('{').length)[0];
  }

  /** The schema a reference leads to; anything else as it is. */
  resolve(schema: unknown): Record<string, unknown> {
    const reference = get(schema, '$ref');
    if (typeof reference !== 'string') return fields(schema);
    return this.resolve(reference.split('/').slice(1).reduce(get, this.#document));
  }

  /** What is wrong with an answer, in words: nothing where the description allows it, and an error is one of the catalogue. */
  wrongWith({ method, url, status, contentType, text }: DescribedAnswer): string[] {
    const wrong: string[] = [];
    const operation = this.operationOf(method, url);
    const type = contentType?.split(';')[0]?.trim();
    const body = type === 'application/json' && text !== undefined && text !== '' ? parse(text) : undefined;
    if (status >= 400 && method !== 'HEAD') {
      wrong.push(...this.#errors(['components', 'schemas', 'Error'], body));
      const code = String(get(body, 'code'));
      if (isErrorCode(code) && ERRORS[code].status !== status)
        wrong.push(`${code} is not answered with ${status}`);
    }
    // What only a GET is answered need not be described of a HEAD.
    if (!operation || (method === 'HEAD' && status === 405)) return wrong;
    const at = ['paths', operation.path, operation.method.toLowerCase(), 'responses', String(status)];
    const answer = at.reduce(get, this.#document);
    if (answer === undefined) return [...wrong, `${operation.id} is not said to answer ${status}`];
    if (method === 'HEAD' || text === undefined) return wrong;
    const content = fields(get(answer, 'content'));
    if (type === undefined || !Object.hasOwn(content, type))
      return [...wrong, `${operation.id} ${status} is not said to be ${type ?? 'empty'}`];
    if (type !== 'application/json') return wrong;
    return [...wrong, ...this.#errors([...at, 'content', type, 'schema'], body)];
  }

  #errors(at: readonly string[], value: unknown): string[] {
    const pointer = at.map((name) => name.replaceAll('~', '~0').replaceAll('/', '~1')).join('/');
    let validator = this.#validators.get(pointer);
    if (!validator) {
      // References count from the root of the document.
      const components = get(this.#document, 'components');
      validator = Compile({ ...fields(at.reduce(get, this.#document)), components });
      this.#validators.set(pointer, validator);
    }
    if (validator.Check(value)) return [];
    const [, errors] = validator.Errors(value);
    return errors.map(
      ({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`,
    );
  }
}

function parse(text: string): unknown {
  return JSON.parse(text);
}

function get(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, name)
    ? Reflect.get(value, name)
    : undefined;
}

function fields(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}
