import { plain, readJson, SerdeError, type Json } from './json-text.ts';

/** What a value must be, and what it is read as; says what serde says when it is something else. */
export interface Shape<T> {
  read(json: Json, text: string): T;
  /** What a field that is not there is read as; without this it must be there. */
  readonly absent?: () => T;
  /** Of a struct: the fields it knows, and whether each must be there. */
  readonly known?: Readonly<Record<string, 'required' | 'optional'>>;
}

export type Value<S> = S extends Shape<infer T> ? T : never;

/** Reads a body. Throws SerdeError. */
export function read<T>(shape: Shape<T>, text: string): T {
  return shape.read(readJson(text), text);
}

function unexpected(json: Json): string {
  switch (json.kind) {
    case 'null':
      return 'null';
    case 'boolean':
      return `boolean \`${json.value}\``;
    case 'number':
      return /[.eE]/.test(json.text) ? `floating point \`${Number(json.text)}\`` : `integer \`${json.text}\``;
    case 'string':
      return `string ${JSON.stringify(json.value)}`;
    case 'array':
      return 'sequence';
    case 'object':
      return 'map';
  }
}

function wrongType(json: Json, text: string, wanted: string): SerdeError {
  const at = json.kind === 'array' || json.kind === 'object' ? json.start : json.end;
  return new SerdeError(`invalid type: ${unexpected(json)}, expected ${wanted}`, text, at);
}

export const string: Shape<string> = {
  read(json, text) {
    if (json.kind !== 'string') throw wrongType(json, text, 'a string');
    return json.value;
  },
};

export const boolean: Shape<boolean> = {
  read(json, text) {
    if (json.kind !== 'boolean') throw wrongType(json, text, 'a boolean');
    return json.value;
  },
};

/** A string that must be of a form. */
export function text(accepts: RegExp, what: string): Shape<string> {
  return {
    read(json, whole) {
      const value = string.read(json, whole);
      if (!accepts.test(value)) throw new SerdeError(what, whole, json.end);
      return value;
    },
  };
}

/** An unsigned whole number, as Rust calls it (`u8`, `usize`), up to `most`. */
export function unsigned(name: string, most: number): Shape<number> {
  return {
    read(json, text) {
      if (json.kind !== 'number' || /[.eE]/.test(json.text)) throw wrongType(json, text, name);
      const value = Number(json.text);
      if (value < 0 || value > most)
        throw new SerdeError(`invalid value: integer \`${json.text}\`, expected ${name}`, text, json.end);
      return value;
    },
  };
}

export const u8 = unsigned('u8', 255);
export const u16 = unsigned('u16', 65_535);
export const u32 = unsigned('u32', 2 ** 32 - 1);
/** Also usize, on 64 bits. */
export const u64 = unsigned('u64', 2 ** 64 - 1);
export const usize = unsigned('usize', 2 ** 64 - 1);

/** Any JSON. */
export const anything: Shape<unknown> = { read: (json) => plain(json) };

/** How serde lists what it would have taken. */
function choices(names: readonly string[]): string {
  const quoted = names.map((name) => `\`${name}\``);
  if (quoted.length === 0) return 'there are no fields';
  return quoted.length <= 2 ? `expected ${quoted.join(' or ')}` : `expected one of ${quoted.join(', ')}`;
}

export function oneOf<const T extends string>(...names: readonly T[]): Shape<T> {
  return {
    read(json, text) {
      if (json.kind === 'object' || json.kind === 'string') {
        const found = names.find((name) => json.kind === 'string' && name === json.value);
        if (found !== undefined) return found;
        if (json.kind === 'string')
          throw new SerdeError(`unknown variant \`${json.value}\`, ${choices(names)}`, text, json.end);
      }
      throw wrongType(json, text, 'string or map');
    },
  };
}

/** null, or not there at all: null. */
export function optional<T>(shape: Shape<T>): Shape<T | null> {
  return {
    read: (json, text) => (json.kind === 'null' ? null : shape.read(json, text)),
    absent: () => null,
  };
}

/** Not there: `value`. */
export function defaulted<T>(shape: Shape<T>, value: T): Shape<T> {
  return { read: (json, text) => shape.read(json, text), absent: () => value };
}

export function list<T>(shape: Shape<T>): Shape<readonly T[]> {
  return {
    read(json, text) {
      if (json.kind !== 'array') throw wrongType(json, text, 'a sequence');
      return json.items.map((item) => shape.read(item, text));
    },
  };
}

type Fields = Readonly<Record<string, Shape<unknown>>>;
type Struct<F extends Fields> = { readonly [K in keyof F]: Value<F[K]> };

/** An object of these fields and no other. `hidden` are fields that this version does not know: they read as if not there. */
export function struct<F extends Fields>(
  name: string,
  fields: F,
  { open = false, hidden = [] }: { readonly open?: boolean; readonly hidden?: readonly (keyof F)[] } = {},
): Shape<Struct<F>> {
  const known = Object.keys(fields).filter((key) => !hidden.includes(key));
  return {
    known: Object.fromEntries(known.map((key) => [key, fields[key]?.absent ? 'optional' : 'required'])),
    read(json, text) {
      if (json.kind !== 'object') throw wrongType(json, text, `struct ${name}`);
      const values: Record<string, unknown> = {};
      for (const { key, keyEnd, value } of json.entries) {
        const shape = known.includes(key) ? fields[key] : undefined;
        if (Object.hasOwn(values, key)) throw new SerdeError(`duplicate field \`${key}\``, text, keyEnd);
        if (shape) values[key] = shape.read(value, text);
        else if (!open) throw new SerdeError(`unknown field \`${key}\`, ${choices(known)}`, text, keyEnd);
      }
      for (const [key, shape] of Object.entries(fields)) {
        if (Object.hasOwn(values, key)) continue;
        if (!shape.absent) throw new SerdeError(`missing field \`${key}\``, text, json.end);
        values[key] = shape.absent();
      }
      return values as Struct<F>;
    },
  };
}
