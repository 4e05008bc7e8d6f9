import assert from 'node:assert/strict';
import { test } from 'node:test';
import { routeOfHost } from './host-header.ts';

test('a host names a subdomain or a domain, whatever its case, port and last dot', () => {
  const of = (host: string | undefined): unknown => routeOfHost(host, 'hatch.localhost');
  const web = { subdomain: 'web', domain: null };
  for (const host of [
    'web.hatch.localhost',
    'WEB.Hatch.localhost:9090',
    'web.hatch.localhost.',
    'web.hatch.localhost.:80',
  ])
    assert.deepEqual(of(host), web, host);
  assert.deepEqual(of('Shop.Example.com:443'), { subdomain: null, domain: 'shop.example.com' });
  assert.deepEqual(of('xn--bcher-kva.example'), { subdomain: null, domain: 'xn--bcher-kva.example' });
  const none = [
    '',
    'hatch.localhost',
    'a.b.hatch.localhost',
    '127.0.0.1',
    '127.0.0.1:80',
    '[::1]',
    '[::1]:80',
    'localhost',
    'a b.example',
    'bücher.example',
    `${'x'.repeat(64)}.example`,
    `${'abc.'.repeat(80)}example`,
    '..',
    'web.hatch.localhost:99:9',
  ];
  for (const host of [undefined, ...none]) assert.equal(of(host), undefined, host);
});
