import type { SwaggerTransform, SwaggerTransformObject } from '@fastify/swagger';
import type { FastifyContextConfig } from 'fastify';
import type { TSchema } from 'typebox';
import { ERRORS, type ErrorCode } from '../contract/errors.ts';
import { SCHEMAS } from '../contract/schemas.ts';
import type { App } from './app.ts';

type Json = Readonly<Record<string, unknown>>;

const LINK = {
  Link: { type: 'string', description: 'The next page, with `rel="next"`; absent on the last.' },
};

/** Makes the named schemas known, so that the description refers to them by name instead of repeating them. */
export function nameSchemas(app: App): void {
  for (const schema of SCHEMAS) app.addSchema(described(schema, true));
}

/**
 * Turns a route into its description: schemas by name, the keys it takes, and every error it may answer with, told by the
 * error catalogue.
 */
export const describeRoute: SwaggerTransform = ({ schema, url, route }) => {
  const config = route.config;
  if (schema?.hide === true || config?.access === undefined)
    return { schema: { ...schema, hide: true }, url };
  const parts = { ...schema };
  for (const part of ['body', 'querystring', 'params'] as const)
    if (parts[part] !== undefined) parts[part] = described(parts[part], false);
  if (config.upload !== undefined)
    parts.body = {
      content: { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } },
      description: config.upload,
    };
  if (config.idempotent === true) parts.headers = withKey(parts.headers);
  return {
    url,
    schema: {
      ...parts,
      security: config.access === 'open' ? [] : [{ bearer: [] }, { apiKey: [] }],
      description: [schema?.description, whoMay(config)].filter(Boolean).join('\n\n'),
      response: {
        ...successes(schema?.response, config),
        ...failures(errorsOf(parts, config, String(route.method))),
      },
    },
  };
};

/** Says of each body without a required field that it may be left out; the generator takes every body for required. */
export const relaxBodies: SwaggerTransformObject = (document) => {
  if (!('openapiObject' in document)) return document.swaggerObject;
  const { openapiObject } = document;
  const optional = new Set(
    SCHEMAS.filter((schema) => asJson(schema)['required'] === undefined).map(
      (schema, index) => `#/components/schemas/${schemaName(schema, index)}`,
    ),
  );
  for (const path of Object.values(openapiObject.paths ?? {}))
    for (const call of [path?.post, path?.patch]) {
      const body = call?.requestBody;
      const schema = body && 'content' in body ? asJson(body.content['application/json']?.schema) : {};
      if (body && 'content' in body && optional.has(String(schema['$ref']))) body.required = false;
    }
  return openapiObject;
};

/** The headers of a request that may be sent again. */
function withKey(headers: unknown): Json {
  const known = asJson(headers);
  return {
    type: 'object',
    ...known,
    properties: {
      ...asJson(known['properties']),
      'Idempotency-Key': {
        type: 'string',
        maxLength: 255,
        description:
          'A name of your own for this request, such as a UUID. Sent again with it within 24 h, the request is not carried out again: it is ' +
          'given the same answer, with the header `Idempotency-Replayed: true`. Another request with the same key is refused.',
      },
    },
  };
}

function whoMay({ access }: FastifyContextConfig): string {
  if (access === undefined || access === 'open') return 'Needs no key.';
  if (access.length === 4) return 'Needs a key, of any scope.';
  return `Needs a key with the scope ${access.map((scope) => `\`${scope}\``).join(' or ')}.`;
}

function successes(response: unknown, config: FastifyContextConfig): Record<string, unknown> {
  if (config.text !== undefined)
    return { 200: { description: config.text, content: { 'text/plain': { schema: { type: 'string' } } } } };
  if (config.bytes !== undefined)
    return {
      200: {
        description: config.bytes,
        content: { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } },
      },
    };
  return Object.fromEntries(
    Object.entries(asJson(response)).map(([status, schema]) => {
      const { description, type } = asJson(schema);
      const text =
        typeof description === 'string' ? description : type === 'array' ? 'A page, newest first.' : 'Done.';
      return [
        status,
        {
          description: text,
          ...(type === 'array' && status === '200' ? { headers: LINK } : {}),
          content: {
            'application/json': { schema: described(schema, false) },
            ...(config.stream === undefined ? {} : { 'text/event-stream': { schema: { type: 'string' } } }),
          },
        },
      ];
    }),
  );
}

/** The codes a route may answer with: those of its kind and its own. */
function errorsOf(
  schema: { body?: unknown; params?: unknown },
  config: FastifyContextConfig,
  method: string,
): ErrorCode[] {
  // Any request may come too slowly or be none, any call may meet a server that starts or stops, and any that writes a full disk.
  const codes = new Set<ErrorCode>([
    ...(['invalid_request', 'request_timeout', 'headers_too_large', 'internal', 'unavailable'] as const),
    ...(config.errors ?? []),
  ]);
  if (method !== 'GET') codes.add('no_space');
  if (config.idempotent === true) codes.add('already_exists');
  if (config.access !== 'open')
    for (const code of ['unauthorized', 'forbidden', 'rate_limited'] as const) codes.add(code);
  if (schema.params !== undefined) codes.add('not_found');
  // A body of a DELETE is read, too, though nothing is asked in it.
  if (schema.body !== undefined || method === 'DELETE')
    for (const code of ['too_large', 'unsupported_media_type'] as const) codes.add(code);
  return [...codes];
}

function failures(codes: readonly ErrorCode[]): Record<string, unknown> {
  const byStatus = Map.groupBy(codes, (code) => ERRORS[code].status);
  return Object.fromEntries(
    [...byStatus].map(([status, same]) => [
      status,
      {
        description: same.map((code) => `\`${code}\`: ${ERRORS[code].meaning}`).join('\n\n'),
        content: { 'application/json': { schema: { $ref: 'Error#' } } },
      },
    ]),
  );
}

/** A schema as plain JSON, with those inside it that have a name replaced by a reference. */
function described(schema: unknown, whole: boolean): Record<string, unknown> {
  const walk = (value: unknown, outermost: boolean): unknown => {
    if (Array.isArray(value)) return value.map((each) => walk(each, false));
    if (typeof value !== 'object' || value === null) return value;
    const node = asJson(value);
    if (!outermost && typeof node['$id'] === 'string') return { $ref: `${node['$id']}#` };
    const isChoice = Array.isArray(node['enum']) && node['type'] === undefined;
    // The generator knows no patternProperties: it makes of them what every further property must be, whatever its name.
    const [pattern] = Object.keys(asJson(node['patternProperties']));
    return {
      ...(isChoice ? { type: 'string' } : {}),
      ...(pattern === undefined ? {} : { propertyNames: { pattern } }),
      ...Object.fromEntries(
        Object.entries(node).map(([key, inner]) => [key, key === 'examples' ? inner : walk(inner, false)]),
      ),
    };
  };
  return { ...asJson(walk(schema, whole)) };
}

function asJson(value: unknown): Json {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}

/** What a schema is called in the description. */
export function schemaName(schema: TSchema | Json, index: number): string {
  const { $id } = asJson(schema);
  return typeof $id === 'string' ? $id : `Schema${index}`;
}
