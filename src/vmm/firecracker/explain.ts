import { basename } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { DeadlineExceeded } from '../../base/deadline.ts';
import { CommandFailed } from '../../host/run.ts';
import { VmmError } from '../driver.ts';
import { ApiRefused } from './api.ts';

/** Why a machine did not come up, from what failed for us and what the process wrote itself. */
export function explain(error: unknown, output: string): VmmError {
  const cannotStart = whyNotStarted(error);
  if (cannotStart !== undefined) return new VmmError(cannotStart, { kind: 'missing', output, cause: error });
  if (error instanceof DeadlineExceeded)
    return new VmmError(error.message, { kind: 'timeout', output, cause: error });
  const message = error instanceof Error ? error.message : String(error);
  const full = isErrno(error, 'ENOSPC') || /No space left on device/.test(`${message}\n${output}`);
  if (error instanceof ApiRefused)
    return new VmmError(message, { kind: full ? 'no_space' : 'failed', output, cause: error });
  if (error instanceof VmmError && error.kind !== 'failed') return error;
  const last = output.split('\n').at(-1) ?? '';
  return new VmmError(last === '' ? message : `${message}: ${last}`, {
    kind: full ? 'no_space' : 'failed',
    output,
    cause: error,
  });
}

/** Why there is no process at all; undefined where there was one. The program was there when the server started. */
function whyNotStarted(error: unknown): string | undefined {
  if (!(error instanceof CommandFailed) || error.cause === undefined) return undefined;
  const program = basename(error.argv[0]);
  if (error.missing) return `the program ${program} is no longer where it was when the server started`;
  return isErrno(error.cause, 'EACCES') ? `the program ${program} may no longer be executed` : undefined;
}
