import { isErrno } from '../../base/errno.ts';
import { CommandFailed } from '../../host/run.ts';
import { Failure } from '../../model/failure.ts';
import { packageOf } from './debian-packages.ts';

/** Puts what went wrong while an image was built so that the one who builds it can act on it. */
export function explainBuild(error: unknown, mirror: string): unknown {
  if (error instanceof Failure) return error;
  const said = error instanceof CommandFailed ? `${error.message}\n${error.stderrTail}` : '';
  if (
    isErrno(error, 'ENOSPC') ||
    isErrno(error, 'EDQUOT') ||
    /No space left on device|Disk quota exceeded/.test(said)
  )
    return new Failure('no_space', 'The disk that the image is built on is full; it takes about 2 GiB.', {
      cause: error,
    });
  if (isErrno(error, 'EACCES') || isErrno(error, 'EPERM') || isErrno(error, 'EROFS'))
    return new Failure('unavailable', 'The folder the image is built in cannot be written to.', {
      cause: error,
    });
  if (!(error instanceof CommandFailed)) return error;
  const program = error.argv.find((word) => word === 'mmdebstrap') ?? error.argv[0];
  if (error.missing) return missingProgram(error.argv[0], error);
  const notFound =
    /(?:^|\s)(\S+): (?:command )?not found/m.exec(said)?.[1] ??
    /unshare: failed to execute (\S+): No such file/.exec(said)?.[1];
  if (notFound !== undefined) return missingProgram(notFound, error);
  if (/NO_PUBKEY|is not signed|couldn't be verified|EXPKEYSIG/.test(said))
    return new Failure(
      'unavailable',
      `What the mirror ${mirror} sends is not signed by a key this machine has; install or upgrade the package debian-archive-keyring.`,
      { details: { mirror }, cause: error },
    );
  if (
    /Could not resolve|failure resolving|Could not connect|Unable to connect|Connection (?:refused|timed out|failed)|Failed to fetch|Cannot initiate the connection|Network is unreachable|does not have a Release file/.test(
      said,
    )
  )
    return new Failure(
      'unavailable',
      `The Debian mirror ${mirror} cannot be reached, or does not have what the image needs. Look at the network, the proxy settings of apt, and its sources.`,
      { details: { mirror }, cause: error },
    );
  return new Failure(
    'unavailable',
    `Building the image failed: ${program} ${error.exitCode === undefined ? 'was ended' : `ended with exit code ${error.exitCode}`}. ${lastWords(error.stderrTail)}`.trim(),
    { details: { program }, cause: error },
  );
}

function missingProgram(program: string, cause: unknown): Failure {
  return new Failure(
    'unavailable',
    `This machine lacks the program ${program}; install the package ${packageOf(program)}.`,
    { details: { program }, cause },
  );
}

/** The last error line of a Debian program's output, or its last line of all. */
function lastWords(said: string): string {
  const lines = said.split('\n').filter((line) => line.trim() !== '');
  return lines.findLast((line) => /^E: /.test(line)) ?? lines.at(-1) ?? '';
}
