import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Type } from 'typebox';
import { cannedApi, type Asked, type Canned } from '../../../test/support/canned-api.ts';
import { hatch, type Ran } from '../../../test/support/cli.ts';
import { Deleted } from '../../contract/common.ts';
import { Key, NewKey } from '../../contract/key.ts';
import { Vm } from '../../contract/vm.ts';

async function against(
  answer: () => Canned,
  words: readonly string[],
): Promise<Ran & { readonly asked: readonly Asked[] }> {
  await using server = await cannedApi(answer);
  const ran = await hatch(words, { env: { HATCH_URL: server.url, HATCH_API_KEY: 'hatch_k' } });
  return { ...ran, asked: server.asked };
}

test('who makes a VM nobody has a key of is told so', async () => {
  const vm: Vm = {
    id: 'vm-abc123def456',
    name: 'web',
    image_id: 'img-default',
    state: 'running',
    vcpu_count: 1,
    mem_mib: 512,
    enable_network: true,
    guest_ip: '192.168.241.10',
    ssh_port: 2200,
    created_at: '2026-03-06T10:30:00Z',
    updated_at: '2026-03-06T10:30:00Z',
    ready: true,
  };
  const answer = (): Canned => ({ status: 201, json: vm, schema: Vm });
  const keyless = await against(answer, ['vm', 'create', 'web']);
  assert.match(keyless.out, /No SSH key lets anybody in: .*--ssh-key.* hatch vm exec web -- id$/m);
  assert.doesNotMatch(keyless.out, /Go in/);
  for (const words of [['--no-ssh-key'], ['--template', 'web'], ['--image', 'own']])
    assert.match((await against(answer, ['vm', 'create', 'web', ...words])).out, /Go in: hatch vm ssh web/);
});

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
