import { ApiError, NoName, Unreachable } from '../http.ts';
import { UsageError } from './words.ts';

/** What the exit codes of `hatch` mean; README.md lists them too. `vm exec` ends with the guest's own. */
export const EXIT = {
  failure: 1,
  usage: 2,
  notFound: 3,
  conflict: 4,
  unreachable: 5,
  unauthorized: 6,
} as const;

/** The exit code for what went wrong. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError || error instanceof NoName) return EXIT.usage;
  if (error instanceof Unreachable) return EXIT.unreachable;
  if (!(error instanceof ApiError)) return EXIT.failure;
  if (error.status === 400 || error.status === 413) return EXIT.usage;
  if (error.status === 401 || error.code === 'forbidden') return EXIT.unauthorized;
  if (error.status === 404) return EXIT.notFound;
  if (error.status === 409) return EXIT.conflict;
  return EXIT.failure;
}

/** What went wrong, for a person: the sentence, and beneath it what can be done where we know more than the server. */
export function describeFailure(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const hint = hintFor(error);
  return hint === undefined ? error.message : `${error.message}\n${hint}`;
}

/** The same for programs: the body as the API gave it, or one alike. */
export function failureJson(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const body =
    error instanceof ApiError
      ? { error: message, code: error.code, details: error.details, request_id: error.requestId }
      : { error: message, code: error instanceof Unreachable ? 'unreachable' : 'client', details: {} };
  return JSON.stringify(body);
}

/** What the API calls something in its sentences, and what it is here. */
const HERE = [
  ['"discard"', '--discard'],
  ['"parents=true"', '-p'],
  ['"wake=true"', '--wake'],
  ['"timeout_seconds"', '--timeout'],
] as const;

function hintFor(error: Error): string | undefined {
  if (error instanceof Unreachable)
    return 'Is hatchd running? Start it with bin/hatchd, or say where it is: --url or HATCH_URL.';
  if (!(error instanceof ApiError)) return undefined;
  const { code, requestId, retryAfter } = error;
  if (code === 'unauthorized')
    return "Give a key with --api-key or HATCH_API_KEY, or keep one with `hatch login`. The server's first start left one in its data folder, in admin-key.";
  if (code === 'internal' && requestId !== undefined) return `The server's log has more under ${requestId}.`;
  // The sentences are of the API; here the words for it are others.
  const word = HERE.find(([said]) => error.message.includes(said));
  if (word) return `Here: ${word[1]}.`;
  if (retryAfter !== undefined) return `Try again in ${retryAfter} s.`;
  return undefined;
}
