import { ERRORS, type ErrorCode } from '../contract/errors.ts';

/**
 * What went wrong, in a sentence a person can act on and a code a program can decide by. The message and details are
 * public: no path, no secret, no stack. What only the log may know goes into `cause`.
 */
export class Failure extends Error {
  override readonly name = 'Failure';
  readonly code: ErrorCode;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(
    code: ErrorCode,
    message: string,
    {
      details = {},
      cause,
    }: { readonly details?: Readonly<Record<string, unknown>>; readonly cause?: unknown } = {},
  ) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.details = details;
  }

  get retryable(): boolean {
    return ERRORS[this.code].retryable;
  }
}

/** A 400 naming the field. */
export function invalid(
  field: string,
  message: string,
  details: Readonly<Record<string, unknown>> = {},
): Failure {
  return new Failure('invalid_request', message, { details: { field, ...details } });
}

/** A 404 for a thing of the given kind. */
export function notFound(what: string, id: string): Failure {
  const where = what === 'account' ? '' : ' in this account';
  return new Failure('not_found', `There is no ${what} "${id}"${where}.`, { details: { [what]: id } });
}
