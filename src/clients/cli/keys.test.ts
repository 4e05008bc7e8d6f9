import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Type } from 'typebox';
import { cannedApi, type Asked, type Canned } from '../../../test/support/canned-api.ts';
import { hatch, type Ran } from '../../../test/support/cli.ts';
import { Deleted } from '../../contract/common.ts';
import { Key, NewKey } from '../../contract/key.ts';

async function against(
  answer: () => Canned,
  words: readonly string[],
): Promise<Ran & { readonly asked: readonly Asked[] }> {
  await using server = await cannedApi(answer);
  const ran = await hatch(words, { env: { HATCH_URL: server.url, HATCH_API_KEY: 'hatch_k' } });
  return { ...ran, asked: server.asked };
}

test('keys of another account are seen and revoked by its id', async () => {
  const ls = await against(
    () => ({ json: [], schema: Type.Array(Key) }),
    ['key', 'ls', '--account', 'acct-a'],
  );
  assert.equal(ls.asked[0]?.path, '/keys?account_id=acct-a');
  const rm = await against(
    () => ({ json: { status: 'deleted' }, schema: Deleted }),
    ['key', 'rm', 'key-a', '--account', 'acct-a'],
  );
  assert.equal(rm.asked[0]?.path, '/keys/key-a?account_id=acct-a');
});

test('key create shows the secret once and says so', async () => {
  const made: NewKey = {
    id: 'key-abc123def456',
    account_id: 'acct-abc123def456',
    name: 'ci',
    scopes: ['read', 'write'],
    prefix: 'hatch_3kd9',
    created_at: '2026-03-06T10:30:00Z',
    secret: 'hatch_3kd9xyz',
  };
  const ran = await against(() => ({ status: 201, json: made, schema: NewKey }), ['key', 'create', 'ci']);
  assert.deepEqual(ran.asked[0]?.body, { name: 'ci', scopes: ['read', 'write'] });
  assert.match(ran.out, /^hatch_3kd9xyz\n\nKey key-abc123def456 .*not shown again/);
});
