import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { newId, parseId } from '../base/ids.ts';
import {
  elementsOf,
  ownerOf,
  readElements,
  renderChange,
  renderNew,
  renderTables,
  tableName,
  type Entry,
} from './rules.ts';

const vmId = parseId('vm', 'vm-aaaaaaaaaaaa') ?? newId('vm');
const entry: Entry = { vmId, ip: '192.168.241.10', mac: '02:fc:00:00:00:0a' };
const firewall = { bridge: 'hatch0', net: '192.168.241.0/24', egress: 'allow' } as const;

test('tables of different bridges have different names, all of them nftables accepts', () => {
  const sign = fc.constantFrom(...'abzAZ09._-'.split(''));
  const name = fc.array(sign, { minLength: 1, maxLength: 15 }).map((signs) => signs.join(''));
  fc.assert(
    fc.property(name, name, (a, b) => {
      assert.match(tableName(a), /^[a-zA-Z][a-zA-Z0-9_]*$/);
      assert.equal(tableName(a) === tableName(b), a === b);
    }),
  );
  assert.equal(tableName('hatch0'), 'hatch');
});

test('both tables are replaced in one text that also works where there are none', () => {
  const text = renderTables(firewall, new Set(elementsOf(entry)));
  for (const family of ['bridge', 'inet']) {
    const declared = text.indexOf(`table ${family} hatch\n`);
    const deleted = text.indexOf(`delete table ${family} hatch\n`);
    const made = text.indexOf(`table ${family} hatch {`);
    assert.ok(declared >= 0 && declared < deleted && deleted < made, family);
  }
  assert.match(
    text,
    /add element bridge hatch guests { "vm-aaaaaaaaaaaa" \. 02:fc:00:00:00:0a \. 192\.168\.241\.10 }/,
  );
  assert.match(text, /add element bridge hatch chaddrs { "vm-aaaaaaaaaaaa" \. 0x02fc0000000a }/);
});

test('egress is allowed, closed, or open to the networks named', () => {
  /** What the chain of outgoing traffic ends with. */
  const fromGuest = (egress: 'allow' | 'deny' | string[]): string =>
    /set rt mtu\n([^}]*)\n {2}\}/.exec(renderTables({ ...firewall, egress }, new Set()))?.[1]?.trim() ?? '';
  assert.equal(fromGuest('allow'), 'accept');
  assert.equal(fromGuest('deny'), 'drop');
  assert.equal(fromGuest([]), 'drop');
  assert.match(fromGuest(['10.0.0.0/8', '198.51.100.0/24']), /^ip daddr @egress accept\s+drop/);
  assert.match(
    renderTables({ ...firewall, egress: ['10.0.0.0/8'] }, new Set()),
    /elements = { 10\.0\.0\.0\/8 }/,
  );
});

test('a change deletes what is too much and adds what is missing, and is empty when nothing differs', () => {
  const are = new Set(elementsOf(entry));
  assert.equal(renderChange('hatch0', are, are), '');
  const moved = new Set(elementsOf({ ...entry, ip: '192.168.241.11' }));
  assert.equal(
    renderChange('hatch0', are, moved),
    'delete element bridge hatch guests { "vm-aaaaaaaaaaaa" . 02:fc:00:00:00:0a . 192.168.241.10 }\n' +
      'add element bridge hatch guests { "vm-aaaaaaaaaaaa" . 02:fc:00:00:00:0a . 192.168.241.11 }\n',
  );
});

test('elements are read from a listing as they are written, leading zeros of a MAC included', () => {
  // As nft 1.0.6 printed it.
  const listing = [
    { metainfo: { version: '1.0.6' } },
    { table: { family: 'bridge', name: 'hatch', handle: 7 } },
    { set: { family: 'bridge', name: 'taps', table: 'hatch', handle: 1, elem: ['vm-aaaaaaaaaaaa'] } },
    { set: { name: 'macs', handle: 2, elem: [{ concat: ['vm-aaaaaaaaaaaa', '02:fc:00:00:00:0a'] }] } },
    {
      set: {
        name: 'guests',
        handle: 3,
        elem: [{ concat: ['vm-aaaaaaaaaaaa', '02:fc:00:00:00:0a', '192.168.241.10'] }],
      },
    },
    { set: { name: 'chaddrs', handle: 4, elem: [{ concat: ['vm-aaaaaaaaaaaa', 0x02fc0000000a] }] } },
    { set: { name: 'empty', handle: 5 } },
  ];
  assert.deepEqual(readElements(listing), new Set(elementsOf(entry)));
  for (const element of readElements(listing)) assert.equal(ownerOf(element), 'vm-aaaaaaaaaaaa');
});

test('what is new is added by a transaction that fails where it is there, after both tables were shown', () => {
  const [one, other, ...lines] = renderNew('hatch0', new Set(elementsOf(entry)))
    .trimEnd()
    .split('\n');
  assert.deepEqual([one, other], ['list table bridge hatch', 'list table inet hatch']);
  assert.equal(lines.length, 4);
  for (const line of lines) assert.match(line, /^create element bridge hatch \w+ { "vm-aaaaaaaaaaaa".* }$/);
});
