/**
 * What can go wrong with stored bytes:
 * - `missing`: there is nothing of this name;
 * - `refused`: the store does not let us (credentials, permissions, a name or range it does not take);
 * - `unreachable`: no answer; nothing is known about whether it was done;
 * - `throttled`: asked to come back later;
 * - `no_space`: the disk or the bucket is full;
 * - `damaged`: the bytes came, and they are not those that were written;
 * - `wrong_key`: the bytes are sealed under a key that is not the one at hand;
 * - `failed`: anything else, with its cause.
 */
export type BlobErrorKind =
  'missing' | 'refused' | 'unreachable' | 'throttled' | 'no_space' | 'damaged' | 'wrong_key' | 'failed';

/**
 * The one error of the chunk store. Its message is a sentence that names the blob and not where it is kept: no path of
 * this machine and no key. Trying the same again can help for `unreachable`, `throttled` and, once there is room, `no_space`.
 */
export class BlobError extends Error {
  override readonly name = 'BlobError';
  readonly kind: BlobErrorKind;

  constructor(kind: BlobErrorKind, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.kind = kind;
  }
}

/** Whether an error is a BlobError of one of these kinds (of any, when none is named). */
export function isBlobError(error: unknown, ...kinds: readonly BlobErrorKind[]): error is BlobError {
  return error instanceof BlobError && (kinds.length === 0 || kinds.includes(error.kind));
}

/** Bytes that are not what was written. */
export function damaged(message: string, cause?: unknown): BlobError {
  return new BlobError('damaged', message, cause);
}

const FULL = ['ENOSPC', 'EDQUOT', 'EFBIG'];
const CLOSED = ['EACCES', 'EPERM', 'EROFS'];

/** An error of the file system as a BlobError: `what` begins the sentence ("pack 0190... could not be written"). */
export function fromErrno(error: unknown, what: string): BlobError {
  if (error instanceof BlobError) return error;
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  if (code === 'ENOENT' || code === 'ENOTDIR')
    return new BlobError('missing', `${what}: it is not there`, error);
  if (FULL.includes(code)) return new BlobError('no_space', `${what}: the disk is full`, error);
  if (CLOSED.includes(code)) return new BlobError('refused', `${what}: it is not allowed (${code})`, error);
  return new BlobError('failed', `${what}${code ? ` (${code})` : ''}`, error);
}
