import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import { errorFields, type Logger } from '../base/logger.ts';
import { ERRORS } from '../contract/errors.ts';
import { Failure } from '../model/failure.ts';
import { ANSWER_HEADERS, errorBody, errorHeaders, statusOf } from '../model/failure-answer.ts';
import { cameOfHangUp } from './hung-up.ts';
import { BODY_BYTES } from './json-body.ts';

/** Whatever was thrown, as a Failure: those of the web server by its codes; what nobody foresaw is `internal` and says nothing. */
export function toFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  switch (webCode(error)) {
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new Failure(
        'unsupported_media_type',
        'The body must be JSON: send the header "Content-Type: application/json".',
        { cause: error },
      );
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new Failure('too_large', `The body may have at most ${BODY_BYTES} bytes (1 MiB).`, {
        details: { limit: BODY_BYTES },
        cause: error,
      });
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return new Failure('invalid_request', 'The body is not as long as Content-Length says.', {
        cause: error,
      });
    case 'FST_ERR_BAD_URL':
      return new Failure(
        'invalid_request',
        'The path is not a valid URL: every % must be followed by two hex digits, and what they spell must be UTF-8.',
        {
          cause: error,
        },
      );
    case 'FST_STATIC_FORBIDDEN_PATH':
      return new Failure('not_found', 'There is nothing at this path.', { cause: error });
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return new Failure('invalid_request', 'The id in the path is far too long to be one.', {
        details: { field: 'id' },
        cause: error,
      });
    default:
      return new Failure(
        'internal',
        'Something in Hatch itself went wrong; its log has more under the request id.',
        {
          cause: error,
        },
      );
  }
}

/** Makes the handler that answers whatever a route throws. What is not the caller's fault goes into the log, with its cause. */
export function errorHandler(log: Logger) {
  return (error: FastifyError | Error, request: FastifyRequest, reply: FastifyReply): FastifyReply => {
    // Who hung up is told nothing any more, and it is no defect.
    const left = error === request.raw.errored || cameOfHangUp(error);
    const failure = left ? cutOff(error) : toFailure(error);
    if (ERRORS[failure.code].fault !== 'caller')
      log[failure.code === 'internal' ? 'error' : 'warn'](
        {
          request_id: request.id,
          code: failure.code,
          ...logged(failure),
        },
        'request failed',
      );
    return sendFailure(failure, request, reply);
  };
}

function cutOff(error: Error): Failure {
  return new Failure('invalid_request', 'The connection ended before this was done.', {
    cause: error,
  });
}

/** What the log is told of a failure. One that was seen coming and has no cause says all in its sentence. */
function logged(failure: Failure): Readonly<Record<string, unknown>> {
  if (failure.code === 'internal') return errorFields(failure.cause);
  return failure.cause === undefined ? { reason: failure.message } : errorFields(failure);
}

/** Answers with a failure. */
export function sendFailure(failure: Failure, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  return reply
    .code(statusOf(failure))
    .headers({ ...ANSWER_HEADERS, 'x-request-id': request.id, ...errorHeaders(failure) })
    .header('content-type', 'application/json; charset=utf-8')
    .serializer((body: unknown) => JSON.stringify(body))
    .send(errorBody(failure, request.id));
}

function webCode(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';
}
