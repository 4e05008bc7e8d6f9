import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allowSources } from './sources.ts';

test('only the listed networks may connect', () => {
  const allowed = allowSources(['10.1.0.0/16', '127.0.0.1', 'fd00::/8']);
  for (const address of ['10.1.2.3', '127.0.0.1', 'fd12::1', '::ffff:10.1.2.3', '::FFFF:127.0.0.1']) {
    assert.equal(allowed(address), true, address);
  }
  for (const address of ['10.2.0.1', '127.0.0.2', 'fe80::1%eth0', '::1', '::ffff:10.2.0.1', '', undefined]) {
    assert.equal(allowed(address), false, address);
  }
});

test('everyone of one family is not everyone of the other', () => {
  assert.equal(allowSources(['0.0.0.0/0'])('203.0.113.9'), true);
  assert.equal(allowSources(['0.0.0.0/0'])('::1'), false);
  assert.equal(allowSources(['::/0'])('::1'), true);
  assert.equal(allowSources(['::/0'])('203.0.113.9'), false);
  assert.equal(allowSources([])('127.0.0.1'), false);
});

test('what is no network is refused by name', () => {
  for (const text of [
    '10.0.0.0/33',
    '010.0.0.1',
    'fd00::/129',
    'fd00::/8/8',
    'fe80::1%eth0/64',
    'localhost',
    '',
  ]) {
    assert.throws(() => allowSources([text]), RangeError, text);
  }
});
