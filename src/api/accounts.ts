import { Type } from 'typebox';
import { Account, AccountParams, CreateAccount, OwnAccount, PatchAccount } from '../contract/account.ts';
import { ListQuery } from '../contract/common.ts';
import type { Quotas } from '../model/records.ts';
import type { ApiDeps, App } from './app.ts';
import { ANY_KEY, callerOf, OPERATOR } from './auth.ts';
import { answerPage } from './page.ts';
import { presentAccount, presentQuotas, rfc3339 } from './present.ts';

const tags = ['Accounts'];

/** Accounts and their quotas: all of them for operators, the own for everyone. */
export function accountRoutes(app: App, { hatch }: Pick<ApiDeps, 'hatch'>): void {
  app.get(
    '/account',
    {
      config: { access: ANY_KEY },
      schema: {
        operationId: 'getOwnAccount',
        tags,
        summary: 'See the own account, its quotas and their use',
        response: { 200: OwnAccount },
      },
    },
    async (request) => {
      const { account, limits, use } = await hatch.accounts.own(callerOf(request));
      return {
        id: account.id,
        name: account.name,
        quotas: presentQuotas(limits),
        created_at: rfc3339(account.createdAt),
        use: { vms: use.vms, vcpus: use.vcpus, mem_mib: use.memMib },
      };
    },
  );

  app.post(
    '/accounts',
    {
      config: { idempotent: true, access: OPERATOR, errors: ['already_exists'] },
      schema: {
        operationId: 'createAccount',
        tags,
        summary: 'Make an account',
        body: CreateAccount,
        response: { 201: Account },
      },
    },
    async (request, reply) => {
      const { name, quotas = {} } = request.body;
      const account = await hatch.accounts.create(callerOf(request), { name, quotas: readQuotas(quotas) });
      reply.code(201);
      return presentAccount(account);
    },
  );

  app.get(
    '/accounts',
    {
      config: { access: OPERATOR },
      schema: {
        operationId: 'listAccounts',
        tags,
        summary: 'List accounts',
        querystring: ListQuery,
        response: { 200: Type.Array(Account) },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const accounts = await answerPage(request, reply, (page) => hatch.accounts.list(caller, page));
      return accounts.map(presentAccount);
    },
  );

  app.patch(
    '/accounts/:id',
    {
      config: { access: OPERATOR, errors: ['already_exists'] },
      schema: {
        operationId: 'patchAccount',
        tags,
        summary: 'Change an account’s name or quotas',
        params: AccountParams,
        body: PatchAccount,
        response: { 200: Account },
      },
    },
    async (request) => {
      const { name, quotas } = request.body;
      const patch = { name, quotas: quotas && readQuotas(quotas) };
      return presentAccount(await hatch.accounts.patch(callerOf(request), request.params.id, patch));
    },
  );
}

/** Quotas as the operations take them; what was not said is absent. */
function readQuotas(body: {
  vms?: number | null;
  vcpus?: number | null;
  mem_mib?: number | null;
}): Partial<Quotas> {
  return {
    ...(body.vms === undefined ? {} : { vms: body.vms }),
    ...(body.vcpus === undefined ? {} : { vcpus: body.vcpus }),
    ...(body.mem_mib === undefined ? {} : { memMib: body.mem_mib }),
  };
}
