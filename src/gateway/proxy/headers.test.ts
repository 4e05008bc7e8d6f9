import assert from 'node:assert/strict';
import { test } from 'node:test';
import { clientOf } from './headers.ts';

test('a client is who is at the other end, or whom a proxy of ours speaks for: nobody says who he is himself', () => {
  const trusts = (address: string): boolean => address.startsWith('10.');
  const of = (from: string, forwardedFor?: string): string => clientOf(from, forwardedFor, trusts);
  assert.equal(of('203.0.113.9'), '203.0.113.9');
  assert.equal(of('203.0.113.9', '198.51.100.1'), '203.0.113.9');
  assert.equal(of('10.0.0.1'), '10.0.0.1');
  assert.equal(of('10.0.0.1', '198.51.100.1'), '198.51.100.1');
  assert.equal(of('10.0.0.1', '6.6.6.6, 198.51.100.1'), '198.51.100.1');
  assert.equal(of('10.0.0.1', '6.6.6.6,198.51.100.1 , 10.0.0.2'), '198.51.100.1');
  assert.equal(of('10.0.0.1', '10.0.0.3, 10.0.0.2'), '10.0.0.3');
  assert.equal(of('10.0.0.1', 'unknown'), '10.0.0.1');
  assert.equal(of('10.0.0.1', '2001:db8::1'), '2001:db8::1');
});
