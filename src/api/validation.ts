import type { FastifySchemaCompiler, FastifySerializerCompiler } from 'fastify';
import type { TSchema } from 'typebox';
import { Compile, type Validator } from 'typebox/compile';
import { explain, type Part } from './explain.ts';

/**
 * What a schema was compiled to, at its first use: all at once they took more than half a second of each start, and most errors are
 * never answered. A schema is a constant and so is this, so all servers of a process share it.
 */
const compiled = new WeakMap<TSchema, Validator>();

function compile(schema: TSchema): Validator {
  const known = compiled.get(schema);
  if (known) return known;
  const made: Validator = Compile(schema);
  compiled.set(schema, made);
  return made;
}

/**
 * Checks requests against their schemas as they are: nothing is coerced, filled in or dropped. Query strings are text by
 * nature, so there alone whole numbers and true/false are read first, and only as they are usually written.
 */
export const validatorCompiler: FastifySchemaCompiler<TSchema> = ({ schema, httpPart }) => {
  const part: Part = httpPart === 'querystring' || httpPart === 'params' ? httpPart : 'body';
  const readQuery = queryReader(schema);
  return (given: unknown) => {
    const validator = compile(schema);
    const value = part === 'querystring' ? readQuery(given) : given;
    return validator.Check(value)
      ? { value }
      : { error: explain(part, schema, value, validator.Errors(value)) };
  };
};

/** An answer that is not as its schema promises: a defect of ours, and nothing of it may leave the server. */
export class WrongAnswer extends Error {
  override readonly name = 'WrongAnswer';
}

/**
 * Writes answers, each checked against its schema first. A field the schema does not know is not dropped in silence: the
 * answer is withheld (500) and the log says which, so that a leak shows in the first test that meets it.
 */
export const serializerCompiler: FastifySerializerCompiler<TSchema> = ({
  schema,
  method,
  url,
  httpStatus,
}) => {
  return (answer: unknown) => {
    const validator = compile(schema);
    if (validator.Check(answer)) return JSON.stringify(answer);
    const wrong = validator.Errors(answer).map((finding) => `${finding.instancePath} ${finding.message}`);
    throw new WrongAnswer(`${method} ${url} ${httpStatus ?? ''}: ${wrong.slice(0, 5).join('; ')}`);
  };
};

/** Reads parsed query strings as their schema means them; what cannot be read stays text, for the validator to refuse. */
function queryReader(schema: TSchema): (given: unknown) => Record<string, unknown> {
  const properties = Object.entries<unknown>(entriesOf(Reflect.get(schema, 'properties')));
  const types = new Map(properties.map(([name, node]) => [name, entriesOf(node)['type']]));
  return (given) =>
    Object.fromEntries(
      Object.entries(entriesOf(given)).map(([name, value]) => [name, readValue(types.get(name), value)]),
    );
}

function readValue(type: unknown, value: unknown): unknown {
  if (type === 'array') return Array.isArray(value) ? value : [value];
  if (typeof value !== 'string') return value;
  if (type === 'integer' && /^-?[0-9]{1,15}$/.test(value)) return Number(value);
  if (type === 'boolean' && (value === 'true' || value === 'false')) return value === 'true';
  return value;
}

function entriesOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}
