import assert from 'node:assert/strict';
import { test } from 'node:test';
import { whyNotWake, type WakeRequest } from './wake-rules.ts';

const asking = (more: Partial<WakeRequest> = {}): WakeRequest => ({
  method: 'GET',
  path: '/',
  from: '203.0.113.9',
  userAgent: 'Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0',
  ...more,
});

test('without rules whoever looks like a visitor wakes, and crawlers, scanners and checks do not', () => {
  assert.equal(whyNotWake(null, asking()), undefined);
  assert.equal(whyNotWake(null, asking({ userAgent: undefined })), undefined);
  for (const userAgent of ['curl/8.5', 'Abbott/1.0', 'robotics-lab', 'okhttp/4'])
    assert.equal(whyNotWake(null, asking({ userAgent })), undefined, userAgent);
  for (const userAgent of [
    'Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)',
    'Mozilla/5.0 (compatible; bingbot/2.0)',
    'facebookexternalhit-crawler',
    'kube-probe/1.31',
    'ELB-HealthChecker/2.0',
    'Mozilla/5.0 zgrab/0.x',
    'CensysInspect/1.1',
    'UptimeRobot/2.0',
  ])
    assert.match(whyNotWake(null, asking({ userAgent })) ?? '', /crawlers/, userAgent);
});

test('all that the rules say must hold', () => {
  const rules = {
    methods: ['GET', 'POST'],
    paths: ['/api/*', '/'],
    cidrs: ['203.0.113.0/24', '2001:db8::/32'],
  };
  assert.equal(whyNotWake(rules, asking()), undefined);
  assert.equal(whyNotWake(rules, asking({ path: '/api/a/b', from: '2001:db8::1' })), undefined);
  assert.equal(whyNotWake(rules, asking({ from: '::ffff:203.0.113.1' })), undefined);
  assert.match(whyNotWake(rules, asking({ method: 'PUT' })) ?? '', /only GET, POST/);
  assert.match(whyNotWake(rules, asking({ path: '/apis' })) ?? '', /this path/);
  assert.match(whyNotWake(rules, asking({ from: '198.51.100.1' })) ?? '', /your network/);
});

test('a star stands for any characters, slashes too, also many of them', () => {
  const wakes = (pattern: string, path: string): boolean =>
    whyNotWake({ paths: [pattern] }, asking({ path })) === undefined;
  assert.ok(wakes('/a*c', '/ac') && wakes('/a*c', '/a/b/c') && wakes('*', '/x') && wakes('/*/z', '/a/b/z'));
  assert.ok(
    !wakes('/a*c', '/a') && !wakes('/ab*ba', '/aba') && !wakes('/a', '/a/') && !wakes('/a.c', '/abc'),
  );
  // A regular expression would still be at it tomorrow.
  assert.ok(!wakes(`/${'a*'.repeat(100)}b`, `/${'a'.repeat(10_000)}`));
});
