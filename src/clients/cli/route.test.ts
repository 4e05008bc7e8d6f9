import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { hatch, type Ran } from '../../../test/support/cli.ts';
import { field, testApi, type TestApi } from '../../api/test-client.ts';

const ROUTE = /rt-[a-z0-9]{12}/g;
const VM = /vm-[a-z0-9]{12}/g;

/** `hatch` against the API itself over a pretended Hatch, with a running VM `web`. */
async function server(t: TestContext): Promise<{
  readonly call: TestApi['call'];
  /** Ids are shown as ID: they are made. */
  readonly cli: (words: readonly string[], world?: { readonly answer?: string }) => Promise<Ran>;
  /** The first id of a route in a list of them. */
  readonly newest: () => Promise<string>;
}> {
  const api = await testApi();
  const url = await api.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => api.app.close());
  await api.call('POST', '/vms', { name: 'web' });
  const call: TestApi['call'] = (...asked) => api.call(...asked);
  return {
    call,
    cli: async (words, world = {}) => {
      const ran = await hatch(words, { env: { HATCH_URL: url, HATCH_API_KEY: api.key }, ...world });
      const plain = (text: string): string => text.replaceAll(ROUTE, 'rt-ID').replaceAll(VM, 'vm-ID');
      return { ...ran, out: plain(ran.out), err: plain(ran.err) };
    },
    newest: async () => String(field((await call('GET', '/routes')).body, 0, 'id')),
  };
}

test('route add takes the VM’s name where none is given, and says so', async (t) => {
  const { cli, call } = await server(t);
  const own = await cli(['route', 'add', 'web', '--port', '8080']);
  assert.equal(
    own.out,
    'Route rt-ID leads http://web.hatch.localhost:9090 to port 8080 of web.\n' +
      'It is called as the VM is; --subdomain or --domain gives another name.\n',
  );
  const again = await cli(['route', 'add', 'web', '-p', '9000']);
  assert.equal(again.code, 4);
  assert.match(again.err, /^The VM's own name was tried; choose another with --subdomain\.\nhatch: /);
  const named = await cli(['route', 'add', 'web', '-p', '9000', '--subdomain', 'shop']);
  assert.equal(named.out, 'Route rt-ID leads http://shop.hatch.localhost:9090 to port 9000 of web.\n');
  const domain = await cli(['route', 'add', 'web', '-p', '80', '--domain', 'shop.example.com', '--json']);
  assert.equal(field(JSON.parse(domain.out), 'url'), 'http://shop.example.com:9090');
  await call('POST', '/vms', { name: 'admin' });
  const made = await cli(['route', 'add', 'admin', '-p', '80']);
  assert.match(
    made.out,
    /^Route rt-ID leads http:\/\/[0-9a-f]{12}\.hatch\.localhost:9090 to port 80 of admin\.\n/,
  );
  assert.match(made.out, /The name was made, as the VM has none that would do/);
});

test('route add and set turn their options into a request, and set without any is told', async (t) => {
  const { cli, call, newest } = await server(t);
  const words = ['--wake-methods', 'get,POST', '--wake-path', '/api/*', '--wake-path', '/a,b'];
  words.push('--wake-cidrs', '10.0.0.0/8, ::1', '--wake-budget', '5');
  const added = await cli(['route', 'add', 'web', '-p', '80', '--no-auto-wake', ...words]);
  assert.equal(added.code, 0, added.err);
  const id = await newest();
  const seen = async (): Promise<unknown> => (await call('GET', `/routes/${id}`)).body;
  assert.equal(field(await seen(), 'auto_wake'), false);
  assert.deepEqual(field(await seen(), 'wake'), {
    methods: ['GET', 'POST'],
    paths: ['/api/*', '/a,b'],
    cidrs: ['10.0.0.0/8', '::1/128'],
    daily_budget: 5,
  });
  const changed = await cli(['route', 'set', id, '--port', '3000', '--auto-wake', '--wake-budget', '2']);
  assert.equal(
    changed.out,
    [
      'Id      rt-ID',
      'URL     http://web.hatch.localhost:9090',
      'VM      vm-ID',
      'Port    3000',
      'Wakes   2 times a day',
      'Made    1h ago',
      '',
    ].join('\n'),
  );
  await cli(['route', 'set', id, '--wake-any']);
  assert.equal(field(await seen(), 'wake'), undefined);
  assert.match((await cli(['route', 'get', id])).out, /Wakes +yes, at any request/);
  assert.match((await cli(['route', 'set', id, '--no-auto-wake'])).out, /Wakes +no/);
  const nothing = await cli(['route', 'set', id]);
  assert.equal(nothing.code, 2);
  assert.match(nothing.err, /Say what is to change/);
});

test('route ls shows all, or those of a VM, or ids, and what to do when there are none', async (t) => {
  const { cli, call } = await server(t);
  assert.equal(
    (await cli(['route', 'ls'])).out,
    'No routes yet. Make one: hatch route add <vm> --port 8080\n',
  );
  assert.equal(
    (await cli(['route', 'ls', 'web'])).out,
    'VM web has no routes yet. Make one: hatch route add web --port 8080\n',
  );
  await call('POST', '/vms', { name: 'db' });
  await call('POST', '/vms/web/routes', { subdomain: 'shop', target_port: 80 });
  await call('POST', '/vms/db/routes', { subdomain: 'sql', target_port: 5432, auto_wake: false });
  await call('POST', '/vms/web/routes', { domain: 'a.example', target_port: 80, wake: { methods: ['GET'] } });
  const list = await cli(['route', 'ls']);
  assert.deepEqual(
    list.out.split('\n').map((line) => line.split(/ {2,}/)),
    [
      ['ID', 'URL', 'VM', 'PORT', 'WAKES', 'AGE'],
      ['rt-ID', 'http://a.example:9090', 'vm-ID', '80', 'by rules', '1h'],
      ['rt-ID', 'http://sql.hatch.localhost:9090', 'vm-ID', '5432', 'no', '1h'],
      ['rt-ID', 'http://shop.hatch.localhost:9090', 'vm-ID', '80', 'yes', '1h'],
      [''],
    ],
  );
  assert.equal((await cli(['route', 'ls', 'db', '-q'])).out, 'rt-ID\n');
  assert.match((await cli(['route', 'ls', '--limit', '1'])).out, /a\.example[^\n]*\n$/);
  assert.equal((await cli(['route', 'ls', 'nobody'])).code, 3);
});

test('route rm asks a person first, removes each, and ends with the first failure', async (t) => {
  const { cli, call, newest } = await server(t);
  await call('POST', '/vms/web/routes', { subdomain: 'shop', target_port: 80 });
  const shop = await newest();
  await call('POST', '/vms/web/routes', { subdomain: 'blog', target_port: 80 });
  const blog = await newest();
  const no = await cli(['route', 'rm', shop, blog], { answer: 'n' });
  assert.equal(no.code, 2);
  assert.match(no.out, /Remove rt-ID, rt-ID\? Anyone may have the name then\. \[y\/N\]/);
  const gone = await cli(['route', 'rm', 'rt-abc123def456', shop, blog]);
  assert.equal(gone.code, 3);
  assert.equal(gone.out, 'Removed rt-ID.\nRemoved rt-ID.\n');
  assert.deepEqual((await call('GET', '/routes')).body, []);
});

test('vm open prints the URL alone, makes a route once, and opens a browser only when told', async (t) => {
  const { cli, call } = await server(t);
  const first = await cli(['vm', 'open', 'web']);
  assert.deepEqual(
    [first.out, first.err, first.became],
    ['http://web.hatch.localhost:9090\n', 'Made route rt-ID to port 80.\n', undefined],
  );
  const again = await cli(['vm', 'open', 'web', '--browser']);
  assert.deepEqual([again.out, again.err], ['http://web.hatch.localhost:9090\n', '']);
  assert.deepEqual(again.became, ['xdg-open', 'http://web.hatch.localhost:9090']);
  assert.equal(
    (await cli(['vm', 'open', 'web', '-p', '8080'])).out,
    'http://web-8080.hatch.localhost:9090\n',
  );
  assert.equal((await cli(['vm', 'open', 'web', '-p', '80'])).out, 'http://web.hatch.localhost:9090\n');
  assert.equal((await cli(['vm', 'open', 'web'])).out, 'http://web-8080.hatch.localhost:9090\n');
  const json = await cli(['vm', 'open', 'web', '-p', '80', '--json']);
  assert.equal(field(JSON.parse(json.out), 'target_port'), 80);
  await call('POST', '/vms', { name: 'www' });
  assert.match((await cli(['vm', 'open', 'www'])).out, /^http:\/\/[0-9a-f]{12}\.hatch\.localhost:9090\n$/);
  assert.equal((await cli(['vm', 'open', 'nobody'])).code, 3);
});

test('wrong use of routes ends with 2 before anything is made', async (t) => {
  const { cli, call } = await server(t);
  for (const [words, says] of [
    [['route', 'add', 'web'], /required option '-p, --port <n>'/],
    [['route', 'add', 'web', '-p', 'http'], /--port must be a whole number/],
    [['route', 'add', 'web', '-p', '65536'], /--port must be from 1 to 65535/],
    [['route', 'add', 'web', '-p', '80', '--subdomain', 'a', '--domain', 'b.example'], /do not go together/],
    [['route', 'add', 'web', '-p', '80', '--subdomain', 'www'], /"www": it is reserved/],
    [['route', 'add', 'web', '-p', '80', '--wake-budget', 'few'], /--wake-budget must be a whole number/],
    [['route', 'ls', 'web', '--all'], /do not go together/],
    [['route', 'set', 'rt-abc123def456', '--wake-any', '--wake-budget', '1'], /give it alone/],
    [['route', 'rm', ''], /A name or an id is empty/],
    [['vm', 'open', 'web', '-p', '0'], /--port must be from 1 to 65535/],
  ] as const) {
    const ran = await cli(words);
    assert.equal(ran.code, 2, words.join(' '));
    assert.match(ran.err, says);
  }
  assert.deepEqual((await call('GET', '/routes')).body, []);
});
