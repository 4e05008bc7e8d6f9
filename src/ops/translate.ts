import { isErrno } from '../base/errno.ts';
import { DeadlineExceeded } from '../base/deadline.ts';
import { AgentGone, AgentRefused } from '../guest/agent.ts';
import { CommandFailed } from '../host/run.ts';
import { Failure } from '../model/failure.ts';
import { OPERATION_NAMES } from '../model/vm.ts';
import { NetError } from '../net/network.ts';
import { VmmError } from '../vmm/driver.ts';
import { Wanted } from './activity.ts';
import { Closing, Overtaken, Stuck } from './steps.ts';

/** The lower rooms' errors as a Failure a caller may see: no path, no command line; those stay in the cause for the log. */
export function translate(error: unknown): Failure {
  if (error instanceof Failure) return error;
  if (error instanceof Stuck) return translate(error.errors[0]);
  if (error instanceof Closing)
    return new Failure('unavailable', 'The server is stopping; ask again in a moment.', { cause: error });
  if (error instanceof Overtaken)
    return new Failure('busy', 'The VM is being deleted, which has cut this short.', {
      details: { operation: OPERATION_NAMES.delete },
      cause: error,
    });
  if (error instanceof Wanted)
    return new Failure('busy', 'Somebody came before the VM was asleep, and it stays awake; ask again.', {
      cause: error,
    });
  if (error instanceof VmmError) return fromVmm(error);
  if (error instanceof NetError) {
    return error.kind === 'no_space'
      ? noSpace(error)
      : new Failure('unavailable', `The host's network failed: ${error.message}`, { cause: error });
  }
  if (error instanceof AgentGone) {
    return new Failure(
      'no_guest_agent',
      "The guest's agent does not answer. Is qemu-guest-agent installed and running in it?",
      { cause: error },
    );
  }
  if (error instanceof AgentRefused)
    return new Failure('no_guest_agent', `The guest's agent refused: ${error.message}`, { cause: error });
  if (error instanceof DeadlineExceeded)
    return new Failure('timeout', `Gave up: ${error.message}.`, { cause: error });
  if (isErrno(error, 'ENOSPC') || isErrno(error, 'EDQUOT')) return noSpace(error);
  if (error instanceof CommandFailed) {
    if (/no space left/i.test(error.stderrTail)) return noSpace(error);
    if (error.missing) {
      return new Failure(
        'unavailable',
        `The host lacks the program ${error.argv[0]}; \`hatchd doctor\` says what to install.`,
        { cause: error },
      );
    }
  }
  return new Failure('internal', 'Something went wrong on the server; its log has the details.', {
    cause: error,
  });
}

function noSpace(cause: unknown): Failure {
  return new Failure(
    'no_space',
    "The host's disk is full. Remove VMs or images you do not need, or give it more room.",
    { cause },
  );
}

function fromVmm(error: VmmError): Failure {
  switch (error.kind) {
    case 'no_space':
      return noSpace(error);
    case 'missing':
      return new Failure(
        'unavailable',
        `The hypervisor is not installed: ${error.message}. \`hatchd doctor\` says what to install.`,
        { cause: error },
      );
    case 'unbootable':
      return new Failure('invalid_request', `The VM's image cannot boot here: ${error.message}.`, {
        details: { field: 'image_id' },
        cause: error,
      });
    case 'incompatible':
      return new Failure('incompatible_snapshot', error.message, { cause: error });
    case 'timeout':
    case 'failed':
      return new Failure('vmm_failed', `The hypervisor failed: ${error.message}`, { cause: error });
  }
}
