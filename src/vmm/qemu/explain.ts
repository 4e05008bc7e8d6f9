import { isErrno } from '../../base/errno.ts';
import { DeadlineExceeded } from '../../base/deadline.ts';
import { CommandFailed } from '../../host/run.ts';
import { VmmError } from '../driver.ts';

/** A page of a mapped file that cannot be had (mmap(2), SIGBUS): the guest wrote to memory the disk has no room for. */
export const NO_MEMORY = "the host's disk had no room for the guest's memory";

/**
 * Why a QEMU did not come up, from what failed for us, what it wrote itself (`output`, the end of it), and the signal that
 * ended it.
 */
export function explainStart(
  error: unknown,
  bin: string,
  { output, signal }: { readonly output: string; readonly signal: string | null },
): VmmError {
  if (error instanceof CommandFailed && error.missing) return notInstalled(bin, error);
  if (error instanceof VmmError && error.kind !== 'failed') return error;
  if (error instanceof DeadlineExceeded)
    return new VmmError(error.message, { kind: 'timeout', output, cause: error });
  if (signal === 'SIGBUS') return new VmmError(NO_MEMORY, { kind: 'no_space', output, cause: error });
  const last = output.trim().split('\n').at(-1) ?? '';
  const full = isErrno(error, 'ENOSPC') || isErrno(error, 'EDQUOT') || /No space left on device/.test(last);
  // QEMU's own words: "qemu-system-x86_64: -netdev tap,...: could not open ..."; they name files by relative paths only.
  const words = last.replace(/^\S*qemu\S*: /, '');
  const message = words === '' ? (error instanceof Error ? error.message : String(error)) : words;
  return new VmmError(message, { kind: full ? 'no_space' : 'failed', output, cause: error });
}

/** The sentence for a QEMU that is not there. */
export function notInstalled(bin: string, cause: unknown): VmmError {
  return new VmmError(`QEMU (${bin}) is not installed; install the package qemu-system-x86`, {
    kind: 'missing',
    cause,
  });
}
