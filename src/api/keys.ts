import { Type } from 'typebox';
import { Deleted } from '../contract/common.ts';
import { CreateKey, Key, KeyListQuery, KeyParams, KeyQuery, NewKey } from '../contract/key.ts';
import { invalid } from '../model/failure.ts';
import type { Caller } from '../ops/hatch.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, demand, KEYS } from './auth.ts';
import { answerPage } from './page.ts';
import { presentKey } from './present.ts';

const tags = ['Accounts'];
/** The first time that has no four digits for its year in UTC; an offset can lead there. */
const YEAR_10000 = Date.UTC(10_000, 0);

/** API keys of the own account; for an operator those of others too. */
export function keyRoutes(app: App, { hatch, clock }: Pick<ApiDeps, 'hatch' | 'clock'>): void {
  app.post(
    '/keys',
    {
      config: { access: KEYS },
      schema: {
        operationId: 'createKey',
        tags,
        summary: 'Make an API key',
        description:
          'The answer holds the secret, once. Nobody but an operator can give the scope `operator`.',
        body: CreateKey,
        response: { 201: NewKey },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { name, scopes, expires_at: expires, account_id: accountId } = request.body;
      // A key must not make a mightier one.
      if (scopes.includes('operator')) demand(caller, 'operator', 'Giving the scope "operator"');
      demandOver(caller, accountId);
      const expiresAt = expires === undefined ? undefined : readExpiry(expires, clock.now());
      const { key, secret } = await hatch.keys.create(caller, { name, scopes, expiresAt, accountId });
      reply.code(201);
      return { ...presentKey(key), secret };
    },
  );

  app.get(
    '/keys',
    {
      config: { access: KEYS },
      schema: {
        operationId: 'listKeys',
        tags,
        summary: 'List the account’s API keys',
        querystring: KeyListQuery,
        response: { 200: Type.Array(Key) },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { account_id: accountId } = request.query;
      demandOver(caller, accountId);
      const keys = await answerPage(request, reply, (page) => hatch.keys.list(caller, page, accountId));
      return keys.map(presentKey);
    },
  );

  app.delete(
    '/keys/:id',
    {
      config: { access: KEYS },
      schema: {
        operationId: 'deleteKey',
        tags,
        summary: 'Revoke an API key',
        description: 'It is dead at once, also when it is the one this is asked with.',
        params: KeyParams,
        querystring: KeyQuery,
        response: { 200: Deleted },
      },
    },
    async (request) => {
      const caller = callerOf(request);
      const { account_id: accountId } = request.query;
      demandOver(caller, accountId);
      await hatch.keys.revoke(caller, request.params.id, accountId);
      return { status: 'deleted' as const };
    },
  );
}

function demandOver(caller: Caller, accountId: string | undefined): void {
  if (accountId !== undefined && accountId !== caller.accountId)
    demand(caller, 'operator', 'A key of another account');
}

/** The end of a key's life in milliseconds; throws for a day or an hour no calendar has, and for the past. */
function readExpiry(text: string, now: number): number {
  const at = Date.parse(text);
  // Date.parse takes the 30th of February for the 2nd of March, and 24:00 for the next day.
  const [date = '', time = ''] = text.split('T');
  const day = new Date(`${date}T00:00:00Z`);
  const exists = !Number.isNaN(at) && day.toISOString().startsWith(date) && !time.startsWith('24');
  if (!exists) throw invalid('expires_at', '"expires_at" is a time that does not exist.');
  if (at >= YEAR_10000)
    throw invalid('expires_at', '"expires_at" must lie before the year 10000 in UTC; RFC 3339 ends there.');
  if (at <= now) throw invalid('expires_at', '"expires_at" must lie in the future.');
  return at;
}
