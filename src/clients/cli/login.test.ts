import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { cannedApi, refusal, type Asked, type Canned } from '../../../test/support/canned-api.ts';
import { hatch } from '../../../test/support/cli.ts';
import { OwnAccount } from '../../contract/account.ts';
import { Type } from 'typebox';

const home = await mkdtemp(join(tmpdir(), 'hatch-login-'));
after(() => rm(home, { recursive: true }));
const file = join(home, '.config', 'hatch', 'login.json');
const account: OwnAccount = {
  id: 'acct-abc123def456',
  name: 'mine',
  quotas: { vms: null, vcpus: null, mem_mib: null },
  created_at: '2026-03-06T10:30:00Z',
  use: { vms: 0, vcpus: 0, mem_mib: 0 },
};

const answer = ({ path, headers }: Asked): Canned =>
  headers['authorization'] !== 'Bearer hatch_good'
    ? refusal(401, 'unauthorized', 'This API key is unknown, expired or revoked.')
    : path === '/account'
      ? { json: account, schema: OwnAccount }
      : { json: [], schema: Type.Array(Type.Unknown()) };

test('a login is kept for this user alone, used from then on, and sent to no other server', async () => {
  await using server = await cannedApi(answer);
  await using other = await cannedApi(() => ({ json: [], schema: Type.Array(Type.Unknown()) }));
  const refused = await hatch(['login', server.url], { home, answer: 'hatch_bad' });
  assert.equal(refused.code, 6);
  await assert.rejects(stat(file), /ENOENT/, 'a key that is no good is not kept');
  const login = await hatch(['login', server.url], { home, answer: ' hatch_good\n' });
  assert.deepEqual(
    [login.code, login.out.includes('account mine'), login.out.includes('hatch_good')],
    [0, true, false],
  );
  assert.equal((await stat(file)).mode & 0o777, 0o600);
  assert.equal((await hatch(['vm', 'ls'], { home })).code, 0);
  assert.equal(server.asked.at(-1)?.path, '/vms');
  await hatch(['vm', 'ls', '--url', other.url], { home });
  await hatch(['vm', 'ls'], { home, env: { HATCH_URL: other.url } });
  assert.deepEqual(
    other.asked.map(({ headers }) => headers['authorization']),
    [undefined, undefined],
  );
  const asEnvironment = await hatch(['vm', 'ls'], { home, env: { HATCH_API_KEY: 'hatch_bad' } });
  assert.equal(asEnvironment.code, 6, 'what the environment says goes first');
  assert.equal((await hatch(['logout'], { home })).out, 'Logged out.\n');
  assert.equal((await hatch(['logout'], { home })).out, 'Nobody was logged in.\n');
});

test('the key may come by an option or standard input, and a file that holds no login is none', async () => {
  await using server = await cannedApi(answer);
  assert.equal((await hatch(['login', server.url], { home, stdin: 'hatch_good\n' })).code, 0);
  assert.equal((await hatch(['--api-key', 'hatch_good', '--url', server.url, 'login'], { home })).code, 0);
  assert.deepEqual(JSON.parse(await readFile(file, 'utf8')), { url: server.url, api_key: 'hatch_good' });
  assert.equal((await hatch(['login', server.url], { home, stdin: '' })).code, 2);
  assert.equal((await hatch(['login', 'nonsense'], { home, stdin: 'hatch_good' })).code, 2);
  await writeFile(file, 'nonsense');
  const without = await hatch(['vm', 'ls', '--url', server.url], { home });
  assert.deepEqual([without.code, without.err.includes('`hatch login`')], [6, true]);
  assert.equal((await hatch(['logout'], { home })).out, 'Logged out.\n');
});
