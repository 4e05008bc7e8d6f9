/**
 * What every room logs through: fields first, then a short constant message, as pino has it. The daemon gives the real
 * one; `silent` is for those who do not care.
 */
export interface Logger {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  /** A logger that adds `fields` to every line. */
  child(fields: object): Logger;
}

const nothing = (): void => undefined;

/** A logger that says nothing. */
export const silent: Logger = {
  debug: nothing,
  info: nothing,
  warn: nothing,
  error: nothing,
  child: () => silent,
};

/** An error as fields of a log line: name, message, code and the chain of causes, never a secret-bearing object. */
export function errorFields(error: unknown): { readonly err: object } {
  if (!(error instanceof Error)) return { err: { message: String(error) } };
  return {
    err: {
      name: error.name,
      message: error.message,
      ...('code' in error && typeof error.code === 'string' ? { code: error.code } : {}),
      stack: error.stack,
      ...(error.cause === undefined ? {} : { cause: errorFields(error.cause).err }),
    },
  };
}
