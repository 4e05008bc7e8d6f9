/** Quotes a text for a POSIX shell: between single quotes everything is itself but the quote (XCU 2.2.2). */
export function shellQuote(text: string): string {
  if (text.includes('\0')) throw new TypeError('a shell word cannot hold a NUL');
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
