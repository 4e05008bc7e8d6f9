import { Failure } from '../../model/failure.ts';

/** The disk holds something Hatch cannot look into. */
export function unreadable(what: string): Failure {
  return new Failure('invalid_request', `The saved disk cannot be looked into: ${what}.`, {
    details: { field: 'path', reason: 'unreadable_disk' },
  });
}

/** What a file system says of itself cannot be. */
export function damaged(what: string): Failure {
  return new Failure('invalid_request', `The file system on the saved disk is damaged: ${what}.`, {
    details: { field: 'path', reason: 'damaged_disk' },
  });
}
