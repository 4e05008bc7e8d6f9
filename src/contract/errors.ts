/**
 * Every error Hatch answers with. A code is never renamed: clients decide by it. `fault` answers who can do something
 * about it, `retryable` whether the same request may succeed later without anyone changing anything.
 */
export interface ErrorKind {
  readonly status: number;
  readonly fault: 'caller' | 'us' | 'host';
  readonly retryable: boolean;
  /** What the code means, for docs/errors.md. */
  readonly meaning: string;
}

const kind = (status: number, fault: ErrorKind['fault'], retryable: boolean, meaning: string): ErrorKind => ({
  status,
  fault,
  retryable,
  meaning,
});

export const ERRORS = {
  invalid_request: kind(
    400,
    'caller',
    false,
    'A field is missing, unknown, of the wrong type or out of range; `details.field` names it.',
  ),
  unauthorized: kind(401, 'caller', false, 'No API key, or one that is unknown, expired or revoked.'),
  forbidden: kind(403, 'caller', false, 'The key lacks the scope this needs; `details.scope` names it.'),
  quota_exceeded: kind(
    403,
    'caller',
    false,
    'The account has reached a quota; `details` has which, used and limit.',
  ),
  not_found: kind(404, 'caller', false, 'There is no such thing in this account.'),
  method_not_allowed: kind(405, 'caller', false, 'The path exists, but not with this method.'),
  request_timeout: kind(408, 'caller', true, 'The request did not come whole in time.'),
  wrong_state: kind(
    409,
    'caller',
    false,
    'The VM is in a state this cannot be done in; `details` has the state and what is allowed in it.',
  ),
  in_use: kind(409, 'caller', false, 'Something else still needs it; `details` names what.'),
  busy: kind(409, 'caller', true, 'Another operation on this VM is under way; `details.operation` names it.'),
  already_exists: kind(409, 'caller', false, 'A name, address or port is taken; `details.field` names it.'),
  no_guest_agent: kind(409, 'caller', false, 'The guest runs no agent, or it does not answer.'),
  incompatible_snapshot: kind(
    409,
    'caller',
    false,
    'The snapshot was made by a hypervisor or machine this host does not have.',
  ),
  too_large: kind(413, 'caller', false, 'The body or a field is over its limit.'),
  unsupported_media_type: kind(415, 'caller', false, 'The body is not JSON, or does not say it is.'),
  headers_too_large: kind(
    431,
    'caller',
    false,
    'The request’s path and headers together are over their limit.',
  ),
  rate_limited: kind(429, 'caller', true, 'Too many requests with this key; wait for `Retry-After` seconds.'),
  internal: kind(500, 'us', false, 'A defect in Hatch; the log has the request id.'),
  guest_unreachable: kind(
    502,
    'host',
    true,
    'Nobody listens at the port in the guest, or it ended the connection without an answer.',
  ),
  vmm_failed: kind(
    502,
    'host',
    false,
    'The hypervisor did not do what it was told; `details` has its last words.',
  ),
  unavailable: kind(
    503,
    'host',
    true,
    'The host cannot serve this now: starting, stopping, or a part of it is broken.',
  ),
  no_capacity: kind(503, 'host', true, 'The host has no room: no address, port or memory left.'),
  timeout: kind(504, 'host', true, 'It took longer than was allowed; the VM is left as it is.'),
  no_space: kind(507, 'host', true, 'The disk is full.'),
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERRORS;

/** Whether a text is one of the codes. */
export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(ERRORS, text);
}
