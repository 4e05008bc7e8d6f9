import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type {
  FastifyBaseLogger,
  FastifyInstance,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify';
import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { ErrorCode } from '../contract/errors.ts';
import type { Scope } from '../model/records.ts';
import type { Caller, Hatch } from '../ops/hatch.ts';
import type { Meter } from './meter.ts';

/** What the API is made of. */
export interface ApiDeps {
  readonly hatch: Hatch;
  readonly log: Logger;
  readonly clock: Clock;
  /** Of the server, as `/healthz` says it. */
  readonly version: string;
  readonly meter: Meter;
}

/** A web server whose routes are typed by their schemas. */
export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

/** Who may use a route: anyone, or a key with at least one of the scopes. */
export type Access = 'open' | readonly Scope[];

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Who may use the route. A route without it does not come up. */
    access?: Access;
    /** Codes it may answer with, beside those every route of its kind has; for its description. */
    errors?: readonly ErrorCode[];
    /** What a text/plain answer holds, where the answer is not JSON; for its description. */
    text?: string;
    /** It answers with server-sent events, too, where they are asked for. */
    stream?: true;
    /** What an application/octet-stream answer holds; for its description. */
    bytes?: string;
    /** What the body is where it is a file, taken as it comes; for its description. */
    upload?: string;
  }
  interface FastifyRequest {
    /** Who asks; null on open routes and before the key was looked at. */
    caller: Caller | null;
    /** When it came, in milliseconds of the clock. */
    cameAt: number;
  }
}
