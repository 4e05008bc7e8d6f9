declare const holds: unique symbol;

/** A text column that holds JSON of one type: what was written by `toJson` is read back by `fromJson`. */
export type Json<T> = string & { readonly [holds]: T };

/** Writes a value for a JSON column. Characters a text column cannot hold (NUL) are escaped by JSON itself. */
export function toJson<T>(value: T): Json<T> {
  return JSON.stringify(value) as Json<T>;
}

/** Reads a JSON column. */
export function fromJson<T>(text: Json<T>): T {
  return JSON.parse(text) as T;
}

/** As `toJson`, with null for null. */
export function toJsonOrNull<T>(value: T | null): Json<T> | null {
  return value === null ? null : toJson(value);
}

/** As `fromJson`, with null for null. */
export function fromJsonOrNull<T>(text: Json<T> | null): T | null {
  return text === null ? null : fromJson(text);
}

/** A yes or no, as both engines keep it. */
export type Flag = 0 | 1;

/** Writes a yes or no. */
export function toFlag(value: boolean): Flag {
  return value ? 1 : 0;
}

/** Free text for a text column: NUL, which PostgreSQL cannot keep, becomes the replacement character. */
export function toText(text: string): string {
  return text.replaceAll('\0', '\uFFFD');
}
