import assert from 'node:assert/strict';
import { domainToASCII } from 'node:url';
import { test } from 'node:test';
import fc from 'fast-check';
import { isSubdomain } from '../contract/route.ts';
import { Failure } from './failure.ts';
import { isHostName, isWithin, whyNotHostName } from './host-name.ts';
import { hostOf, readRouteName, readWakeRules, urlOf, type ProxyPlace } from './route.ts';

const BASE = 'hatch.localhost';

/** The failure of what must fail with `invalid_request`. */
function refused(work: () => unknown): Failure {
  try {
    work();
  } catch (error) {
    assert.ok(error instanceof Failure, String(error));
    assert.equal(error.code, 'invalid_request');
    assert.match(error.message, /\.$/);
    return error;
  }
  assert.fail('it was not refused');
}

test('a domain that cannot be is refused in a sentence that says what to give', () => {
  const cases: readonly [string, RegExp][] = [
    ['', /a whole host name such as shop\.example\.com/],
    ['192.168.1.1', /not an address/],
    ['10.1', /not an address/],
    ['shop.0x7f', /not an address/],
    ['::1', /not an address/],
    ['[2001:db8::1]', /not an address/],
    ['shop.example.com:8080', /without a port/],
    ['https://shop.example.com', /without "http:\/\/"/],
    ['shop.example.com/x', /without a path/],
    ['*.example.com', /wildcards are not taken/],
    ['shop.example.com.', /without a dot at its end/],
    ['shop', /give it as "subdomain"/],
    ['größe.example.com', /punycode: write it as xn--gre-6ka8i\.example\.com/],
    ['ex\u00adample..com\u00e9', /punycode/],
    ['xn--0.example.com', /is no punycode/],
    ['-shop.example.com', /inner dashes/],
    ['shop..com', /inner dashes/],
    ['shop_1.example.com', /inner dashes/],
    ['shop.example.com\n', /inner dashes/],
    [' shop.example.com', /inner dashes/],
    [`${'a'.repeat(64)}.com`, /1 to 63/],
    [`${'a.'.repeat(130)}com`, /at most 253 characters; it has 263/],
    ['web.hatch.localhost', /must not lie under hatch\.localhost/],
    ['HATCH.localhost', /must not lie under hatch\.localhost/],
  ];
  for (const [domain, says] of cases) {
    const failure = refused(() => readRouteName({ domain }, BASE));
    assert.equal(failure.details['field'], 'domain', domain);
    assert.match(failure.message, says, domain);
  }
});

test('a good domain is kept in lower case, and a name that only ends alike is not under the base domain', () => {
  const read = (domain: string) => readRouteName({ domain }, BASE).domain;
  assert.equal(read('Shop.Example.COM'), 'shop.example.com');
  assert.equal(read('xn--gre-6ka8i.example.com'), 'xn--gre-6ka8i.example.com');
  assert.equal(read('myhatch.localhost'), 'myhatch.localhost');
  assert.equal(read('1.example.c0m'), '1.example.c0m');
});

test('a subdomain is lower case and not reserved; with none a name is made, and two names are refused', () => {
  assert.deepEqual(readRouteName({ subdomain: 'web-1' }, BASE), { subdomain: 'web-1', domain: null });
  for (const [subdomain, says] of [
    ['www', /"www": it is reserved/],
    ['Web', /lower-case/],
    ['a.b', /lower-case/],
    ['-a', /inner dashes/],
    ['a'.repeat(64), /1 to 63/],
    ['', /1 to 63/],
    ['xn--0', /no punycode/],
  ] as const) {
    const failure = refused(() => readRouteName({ subdomain }, BASE));
    assert.equal(failure.details['field'], 'subdomain');
    assert.match(failure.message, says);
  }
  const made = readRouteName({}, BASE);
  assert.match(made.subdomain ?? '', /^[0-9a-f]{12}$/);
  assert.notDeepEqual(readRouteName({}, BASE), made);
  assert.match(
    refused(() => readRouteName({ subdomain: 'a', domain: 'a.example.com' }, BASE)).message,
    /either "subdomain" or "domain"/,
  );
});

const label = fc.stringMatching(/^[a-zA-Z0-9-]{0,65}$/);
const anyText = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.stringMatching(/^[a-z0-9.:[\]/*-]{0,40}$/),
  fc.array(label, { maxLength: 5 }).map((labels) => labels.join('.')),
  fc.ipV4(),
  fc.ipV6(),
  fc.domain(),
);

test('whatever is let through is the host a browser would ask for, and an address never is', () => {
  fc.assert(
    fc.property(anyText, (text) => {
      const why = whyNotHostName(text);
      const name = text.toLowerCase();
      assert.equal(why === undefined, isHostName(name));
      if (why !== undefined) return assert.match(why, /^(must|may) .*\.$/s);
      const { hostname } = new URL(`http://${text}/`);
      assert.equal(hostname, name);
      assert.equal(domainToASCII(text), name);
      assert.doesNotMatch(hostname, /^[0-9.]+$|:/);
      return undefined;
    }),
    { numRuns: 2000 },
  );
});

test('every domain of the public form is let through', () => {
  fc.assert(
    fc.property(fc.domain(), (domain) => {
      // What looks like punycode by chance is told so.
      fc.pre(!domain.includes('xn--'));
      assert.equal(whyNotHostName(domain), undefined);
    }),
  );
});

test('a name and its URL lead back to each other', () => {
  fc.assert(
    fc.property(
      fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/).filter(isSubdomain),
      fc.record({
        scheme: fc.constantFrom('http' as const, 'https' as const),
        port: fc.integer({ min: 1, max: 65535 }),
        baseDomain: fc.constant(BASE),
      }),
      (subdomain, proxy: ProxyPlace) => {
        fc.pre(!subdomain.startsWith('xn--'));
        const name = readRouteName({ subdomain }, BASE);
        const url = new URL(urlOf(name, proxy));
        assert.equal(url.hostname, hostOf(name, proxy));
        assert.equal(url.hostname, `${subdomain}.${BASE}`);
        assert.ok(isWithin(url.hostname, BASE) && !isWithin(`x${BASE}`, BASE));
        assert.equal(Number(url.port || (url.protocol === 'https:' ? 443 : 80)), proxy.port);
        assert.equal(url.origin, urlOf(name, proxy));
      },
    ),
  );
});

test('wake rules are kept in their normal form, and none is null', () => {
  assert.equal(readWakeRules(undefined), null);
  assert.equal(readWakeRules(null), null);
  assert.equal(readWakeRules({}), null);
  const rules = {
    methods: ['GET'],
    paths: ['/api/*'],
    cidrs: ['10.1.2.3/8', '10.0.0.0/8', '192.0.2.1', '2001:DB8::/32', '::1'],
    dailyBudget: 5,
  };
  assert.deepEqual(readWakeRules(rules), {
    ...rules,
    cidrs: ['10.0.0.0/8', '192.0.2.1/32', '2001:db8::/32', '::1/128'],
  });
  for (const bad of ['', 'all', '10.0.0.0/33', '10.0.0/8', '::1/129', 'fe80::1%eth0/64', '10.0.0.0/8/8']) {
    const failure = refused(() => readWakeRules({ cidrs: ['10.0.0.0/8', bad] }));
    assert.equal(failure.details['field'], 'wake.cidrs.1');
    assert.match(failure.message, /a network such as/);
  }
});
