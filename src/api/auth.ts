import type { FastifyRequest, RouteOptions } from 'fastify';
import type { Scope } from '../model/records.ts';
import type { Caller, Hatch } from '../ops/hatch.ts';
import { Failure } from '../model/failure.ts';
import type { App } from './app.ts';

/** Who may see VMs and what hangs on them: whoever may change them may see them. */
export const READ: readonly Scope[] = ['read', 'write'];
/** Who may change VMs and what hangs on them. */
export const WRITE: readonly Scope[] = ['write'];
/** Who may deal with the keys of its own account; an operator with those of any. */
export const KEYS: readonly Scope[] = ['admin', 'operator'];
/** Who runs the host. */
export const OPERATOR: readonly Scope[] = ['operator'];
/** Whoever has a key at all. */
export const ANY_KEY: readonly Scope[] = ['read', 'write', 'admin', 'operator'];

/**
 * Guards every route by its `access`, before a body is read: 401 without a good key, 403 without the scope. A route that
 * does not say who may use it keeps the server from coming up, so none is open by forgetting. `countRequest` is told
 * the key of each request and throws when it sends too many.
 */
export function guardRoutes(app: App, hatch: Hatch, countRequest: (key: string) => void): void {
  app.decorateRequest('caller', null);
  app.addHook('onRoute', (route: RouteOptions) => {
    // The pages of the description come out of a package and know nothing of keys.
    if (/^\/docs(\/|$)/.test(route.url)) route.config = { ...route.config, access: 'open' };
    if (route.config?.access === undefined)
      throw new Error(`route ${String(route.method)} ${route.url} does not say who may use it`);
  });
  app.addHook('onRequest', async (request) => {
    const access = request.routeOptions.config.access;
    // No access: not a route, but the answer to a path that is none.
    if (access === undefined || access === 'open') return;
    const caller = await hatch.accounts.authenticate(keyOf(request));
    if (!caller) throw new Failure('unauthorized', 'This API key is unknown, expired or revoked.');
    request.caller = caller;
    countRequest(caller.keyId);
    if (!access.some((scope) => caller.scopes.has(scope))) throw lacking(access[0] ?? 'operator', access);
  });
}

/** Who asks, on a route that is not open. */
export function callerOf(request: FastifyRequest): Caller {
  if (!request.caller) throw new Error('an open route asked who its caller is');
  return request.caller;
}

/** Refuses a caller without the scope, for what a part of a request needs beyond its route. */
export function demand(caller: Caller, scope: Scope, forWhat: string): void {
  if (!caller.scopes.has(scope))
    throw new Failure(
      'forbidden',
      `${forWhat} needs an API key with the scope "${scope}"; this one has ${listed(caller)}.`,
      {
        details: { scope },
      },
    );
}

function lacking(scope: Scope, access: readonly Scope[]): Failure {
  const needed = access.map((each) => `"${each}"`).join(' or ');
  return new Failure('forbidden', `This needs an API key with the scope ${needed}.`, { details: { scope } });
}

function listed(caller: Caller): string {
  return [...caller.scopes].map((scope) => `"${scope}"`).join(', ');
}

function keyOf(request: FastifyRequest): string {
  const { authorization } = request.headers;
  const other = request.headers['x-api-key'];
  if (authorization !== undefined) {
    const match = /^Bearer +([^\s]+)$/i.exec(authorization);
    if (match?.[1] !== undefined) return match[1];
    throw new Failure('unauthorized', 'The Authorization header must read "Bearer YOUR_API_KEY".');
  }
  if (typeof other === 'string' && other !== '') return other;
  throw new Failure(
    'unauthorized',
    'An API key is needed: send "Authorization: Bearer YOUR_API_KEY" or "X-API-Key: YOUR_API_KEY".',
  );
}
