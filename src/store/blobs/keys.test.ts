import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import fc from 'fast-check';
import { isBlobError } from './blob-error.ts';
import { ChunkTable } from './chunk-table.ts';
import { CHUNK_ID } from './format.ts';
import { accountKeys, newAccountSecret, parseMasterKey, rewrapAccountSecret, wrappedBy } from './keys.ts';
import type { AccountKeys } from './keys.ts';

const raw = randomBytes(32);
const master = parseMasterKey(raw);
const other = parseMasterKey(randomBytes(32));

function bytesOf(keys: AccountKeys): string {
  return [keys.dedup, keys.seal?.key].map((key) => key?.export().toString('hex')).join(' ');
}

test('a key file holds 32 bytes, as they are, in hexadecimal or in base64', () => {
  for (const content of [
    raw.toString('hex'),
    `${raw.toString('hex')}\n`,
    raw.toString('base64'),
    raw.toString('base64url'),
  ])
    assert.equal(parseMasterKey(Buffer.from(content)).id, master.id);
  for (const bad of ['', 'secret', raw.toString('hex').slice(2), randomBytes(33)])
    assert.throws(() => parseMasterKey(Buffer.from(bad)), /must hold 32 random bytes.*openssl rand -hex 32/);
});

test('a secret gives the same keys every time, and each account and each secret others', () => {
  const secret = newAccountSecret('acct-a', master);
  assert.equal(
    bytesOf(accountKeys('acct-a', secret, master)),
    bytesOf(accountKeys('acct-a', secret, master)),
  );
  const plain = newAccountSecret('acct-a', undefined);
  const seen = [
    accountKeys('acct-a', secret, master),
    accountKeys('acct-a', newAccountSecret('acct-a', master), master),
    accountKeys('acct-a', plain, undefined),
    accountKeys('acct-b', plain, undefined),
  ].map(({ dedup }) => dedup.export().toString('hex'));
  assert.equal(new Set(seen).size, seen.length);
});

test('without a master key nothing is sealed, and chunks are still named by account', () => {
  const keys = accountKeys('acct-a', newAccountSecret('acct-a', undefined), undefined);
  assert.equal(keys.seal, undefined);
});

test('a wrapped secret opens with its master key and for its account only', () => {
  const secret = newAccountSecret('acct-a', master);
  assert.equal(wrappedBy(secret), master.id);
  assert.throws(
    () => accountKeys('acct-a', secret, other),
    (error) =>
      isBlobError(error, 'wrong_key') &&
      error.message.includes(master.id) &&
      error.message.includes(other.id),
  );
  assert.throws(
    () => accountKeys('acct-a', secret, undefined),
    (error) => isBlobError(error, 'wrong_key') && error.message.includes('HATCH_SNAPSHOT_KEY_FILE'),
  );
  assert.throws(
    () => accountKeys('acct-b', secret, master),
    (error) => isBlobError(error, 'damaged'),
  );
});

test('a master key can be set, changed and taken away, and the account keeps its keys', () => {
  const plain = newAccountSecret('acct-a', undefined);
  const wrapped = rewrapAccountSecret('acct-a', plain, undefined, master);
  const changed = rewrapAccountSecret('acct-a', wrapped, master, other);
  assert.equal(wrappedBy(plain), undefined);
  assert.equal(wrappedBy(changed), other.id);
  assert.equal(
    bytesOf(accountKeys('acct-a', wrapped, master)),
    bytesOf(accountKeys('acct-a', changed, other)),
  );
  assert.equal(rewrapAccountSecret('acct-a', changed, other, undefined), plain);
});

test('a text that is no secret is refused, whatever it is', () => {
  const refused = (text: string): void =>
    assert.throws(
      () => accountKeys('acct-a', text, master),
      (error) => isBlobError(error, 'damaged', 'wrong_key'),
    );
  const secret = newAccountSecret('acct-a', master);
  for (let at = 0; at < secret.length; at++) {
    refused(secret.slice(0, at));
    refused(`${secret.slice(0, at)}*${secret.slice(at + 1)}`);
  }
  fc.assert(fc.property(fc.string(), refused));
});

test('a table of chunks holds what a map holds', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(3000), fc.nat(2 ** 31)), { maxLength: 3000 }), (entries) => {
      const table = new ChunkTable();
      const map = new Map<number, number>();
      // Ids that begin alike fall on the same place.
      const idOf = (n: number): Buffer => Buffer.alloc(CHUNK_ID, n % 7).fill(String(n).padStart(24), 8);
      for (const [n, value] of entries) {
        table.add(idOf(n), 0, value);
        if (!map.has(n)) map.set(n, value);
      }
      assert.equal(table.size, map.size);
      for (let n = 0; n < 3000; n += 7) assert.equal(table.get(idOf(n), 0), map.get(n));
      for (const [n, value] of map)
        assert.equal(table.get(Buffer.concat([Buffer.alloc(5), idOf(n)]), 5), value);
    }),
    { numRuns: 20 },
  );
});
