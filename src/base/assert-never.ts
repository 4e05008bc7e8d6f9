/** Marks a place the types say cannot be reached; throws if it is, naming the value. */
export function assertNever(value: never): never {
  throw new Error(`unexpected value: ${JSON.stringify(value)}`);
}
