/** A JSON text as serde_json reads it: every value knows where it ends, for the errors say where. */
export type Json = { readonly end: number } & (
  | { readonly kind: 'null' }
  | { readonly kind: 'boolean'; readonly value: boolean }
  | { readonly kind: 'number'; readonly text: string }
  | { readonly kind: 'string'; readonly value: string }
  | { readonly kind: 'array'; readonly start: number; readonly items: readonly Json[] }
  | { readonly kind: 'object'; readonly start: number; readonly entries: readonly Entry[] }
);

export interface Entry {
  readonly key: string;
  readonly keyEnd: number;
  readonly value: Json;
}

/** What serde_json says of a text that is not what was to be read. */
export class SerdeError extends Error {
  override readonly name = 'SerdeError';
  constructor(what: string, text: string, at: number) {
    const line = text.slice(0, at).split('\n');
    super(`${what} at line ${line.length} column ${line.at(-1)?.length ?? 0}`);
  }
}

/** Reads one JSON value that is the whole text. Throws SerdeError. */
export function readJson(text: string): Json {
  const reader = new Reader(text);
  const value = reader.value();
  reader.finish();
  return value;
}

/** The value as JavaScript has it. */
export function plain(json: Json): unknown {
  switch (json.kind) {
    case 'null':
      return null;
    case 'boolean':
    case 'string':
      return json.value;
    case 'number':
      return Number(json.text);
    case 'array':
      return json.items.map(plain);
    case 'object':
      return Object.fromEntries(json.entries.map(({ key, value }) => [key, plain(value)]));
  }
}

const ESCAPES: Readonly<Record<string, string>> = {
  '"': '"',
  '\\': '\\',
  '/': '/',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
};

class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** An error at the character that is next, or at the end. */
  #fail(what: string): SerdeError {
    return new SerdeError(what, this.#text, Math.min(this.#text.length, this.#at + 1));
  }

  #peek(): string | undefined {
    while (/[ \t\r\n]/.test(this.#text[this.#at] ?? 'x')) this.#at++;
    return this.#text[this.#at];
  }

  finish(): void {
    if (this.#peek() !== undefined) throw this.#fail('trailing characters');
  }

  value(): Json {
    const next = this.#peek();
    switch (next) {
      case undefined:
        throw this.#fail('EOF while parsing a value');
      case '{':
        return this.#object();
      case '[':
        return this.#array();
      case '"':
        return { kind: 'string', value: this.#string(), end: this.#at };
      case 't':
        return this.#word('true', () => ({ kind: 'boolean', value: true, end: this.#at }));
      case 'f':
        return this.#word('false', () => ({ kind: 'boolean', value: false, end: this.#at }));
      case 'n':
        return this.#word('null', () => ({ kind: 'null', end: this.#at }));
      default:
        return this.#number();
    }
  }

  #word(word: string, make: () => Json): Json {
    for (const letter of word) {
      if (this.#text[this.#at] === undefined) throw this.#fail('EOF while parsing a value');
      if (this.#text[this.#at++] !== letter) throw new SerdeError('expected ident', this.#text, this.#at);
    }
    return make();
  }

  #number(): Json {
    const found = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/.exec(this.#text.slice(this.#at))?.[0];
    if (found === undefined) {
      if (this.#text[this.#at] !== '-') throw this.#fail('expected value');
      this.#at++;
      throw this.#fail('invalid number');
    }
    this.#at += found.length;
    return { kind: 'number', text: found, end: this.#at };
  }

  #string(): string {
    this.#at++;
    let text = '';
    for (;;) {
      const next = this.#text[this.#at];
      if (next === undefined) throw this.#fail('EOF while parsing a string');
      this.#at++;
      if (next === '"') return text;
      if (next < ' ')
        throw new SerdeError(
          'control character (\\u0000-\\u001F) found while parsing a string',
          this.#text,
          this.#at,
        );
      text += next === '\\' ? this.#escape() : next;
    }
  }

  #escape(): string {
    const letter = this.#text[this.#at++];
    if (letter === undefined) throw this.#fail('EOF while parsing a string');
    if (letter !== 'u') {
      const known = ESCAPES[letter];
      if (known === undefined) throw new SerdeError('invalid escape', this.#text, this.#at);
      return known;
    }
    const digits = this.#text.slice(this.#at, this.#at + 4);
    if (!/^[0-9a-fA-F]{4}$/.test(digits)) throw this.#fail('invalid escape');
    this.#at += 4;
    return String.fromCharCode(Number.parseInt(digits, 16));
  }

  #array(): Json {
    const start = this.#at++;
    const items: Json[] = [];
    for (;;) {
      const next = this.#peek();
      if (next === undefined) throw this.#fail('EOF while parsing a list');
      if (next === ']') break;
      if (items.length > 0) {
        if (next !== ',') throw this.#fail('expected `,` or `]`');
        this.#at++;
        if (this.#peek() === ']') throw this.#fail('trailing comma');
      }
      items.push(this.value());
    }
    this.#at++;
    return { kind: 'array', items, start, end: this.#at };
  }

  #object(): Json {
    const start = this.#at++;
    const entries: Entry[] = [];
    for (;;) {
      let next = this.#peek();
      if (next === undefined) throw this.#fail('EOF while parsing an object');
      if (next === '}') break;
      if (entries.length > 0) {
        if (next !== ',') throw this.#fail('expected `,` or `}`');
        this.#at++;
        next = this.#peek();
        if (next === '}') throw this.#fail('trailing comma');
      }
      if (next !== '"')
        throw this.#fail(next === undefined ? 'EOF while parsing a value' : 'key must be a string');
      const key = this.#string();
      const keyEnd = this.#at;
      const colon = this.#peek();
      if (colon !== ':')
        throw this.#fail(colon === undefined ? 'EOF while parsing an object' : 'expected `:`');
      this.#at++;
      entries.push({ key, keyEnd, value: this.value() });
    }
    this.#at++;
    return { kind: 'object', entries, start, end: this.#at };
  }
}
