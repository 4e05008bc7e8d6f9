import { Type, type Static } from 'typebox';
import { ERRORS, isErrorCode } from './errors.ts';

/** The body of every answer that is not a success. */
export const ErrorBody = Type.Object(
  {
    error: Type.String({ description: 'A sentence a person can act on.' }),
    code: Type.Enum(Object.keys(ERRORS).filter(isErrorCode), {
      description: 'For programs; a code is never renamed. docs/errors.md explains each.',
    }),
    details: Type.Record(Type.String(), Type.Unknown(), {
      description: 'What the code is about: the field and its limit, the state, the quota...',
    }),
    request_id: Type.String({ description: 'Names the request in the server’s log.' }),
  },
  {
    $id: 'Error',
    additionalProperties: false,
    examples: [
      {
        error: '"vcpu_count" must be a whole number from 1 to 32; it is 64.',
        code: 'invalid_request',
        details: { field: 'vcpu_count', minimum: 1, maximum: 32 },
        request_id: 'req-abc123def456',
      },
    ],
  },
);
export type ErrorBody = Static<typeof ErrorBody>;
