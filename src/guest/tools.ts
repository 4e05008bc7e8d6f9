import { isErrno } from '../base/errno.ts';
import { CommandFailed, type Run } from '../host/run.ts';
import { Failure } from '../model/failure.ts';

/** The Debian package that brings each program this room runs. */
const PACKAGES: Readonly<Record<string, string>> = {
  genisoimage: 'genisoimage',
  'qemu-img': 'qemu-utils',
  'qemu-nbd': 'qemu-utils',
  sfdisk: 'fdisk',
  debugfs: 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  cp: 'coreutils',
  dd: 'coreutils',
};

/**
 * Makes of what went wrong with a file or a program what a person can act on: a full disk is `no_space`, a program that
 * is not installed is `unavailable` and names its package. Anything else is given back as it is.
 */
export function explain(error: unknown): unknown {
  if (error instanceof Failure) return error;
  if (isFull(error)) {
    return new Failure(
      'no_space',
      "The disk that holds the server's data is full. Delete VMs or images that are not needed, or make it larger.",
      { cause: error },
    );
  }
  if (error instanceof CommandFailed && error.missing) {
    const program = error.argv[0];
    return new Failure(
      'unavailable',
      `The host lacks the program ${program}; install the package ${PACKAGES[program] ?? program}.`,
      { details: { program }, cause: error },
    );
  }
  return error;
}

/** `run` whose failures are put as `explain` puts them. */
export function explaining(run: Run): Run {
  return async (argv, options) => {
    try {
      return await run(argv, options);
    } catch (error) {
      throw explain(error);
    }
  };
}

function isFull(error: unknown): boolean {
  if (isErrno(error, 'ENOSPC') || isErrno(error, 'EDQUOT')) return true;
  return (
    error instanceof CommandFailed &&
    /No space left on device|Disk quota exceeded/.test(`${error.stderrTail}\n${error.message}`)
  );
}
