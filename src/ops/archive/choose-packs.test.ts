import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { newId, type AccountId, type SnapshotId } from '../../base/ids.ts';
import { newPackId, PACK_TARGET } from '../../store/blobs/format.ts';
import type { NeededPack } from '../../store/ledger.ts';
import { CLASSES, mergeable, SMALL_LEFT, SNAPSHOTS, TOGETHER } from './choose-packs.ts';

const HALF = PACK_TARGET / 2;
const account = newId('acct');

function packOf(
  bytes: number,
  snapshots: readonly SnapshotId[] = [],
  accountId: AccountId = account,
): NeededPack {
  return {
    id: newPackId(0),
    kind: 'pack',
    accountId,
    bytes,
    state: 'live',
    stateAt: 0,
    verifiedAt: null,
    snapshots,
  };
}

test('however many packs come, few small ones are left, and no byte is copied more often than there are classes', () => {
  const lowest = CLASSES[0] ?? 0;
  const sizes = fc.array(
    fc.oneof(fc.integer({ min: lowest, max: HALF }), fc.integer({ min: 1, max: PACK_TARGET })),
    {
      maxLength: 300,
    },
  );
  fc.assert(
    fc.property(sizes, (all) => {
      // How often what is in a pack was copied.
      const packs = new Map<NeededPack, number>();
      for (const bytes of all) {
        packs.set(packOf(bytes), 0);
        for (
          let chosen = mergeable([...packs.keys()]);
          chosen.length > 0;
          chosen = mergeable([...packs.keys()])
        ) {
          assert.ok(chosen.length >= TOGETHER);
          const often = Math.max(...chosen.map((pack) => packs.get(pack) ?? 0));
          const sum = chosen.reduce((sum, pack) => sum + pack.bytes, 0);
          for (const pack of chosen) packs.delete(pack);
          const counted = chosen.every((pack) => pack.bytes >= lowest);
          for (let left = sum; left > 0; left -= PACK_TARGET)
            packs.set(packOf(Math.min(left, PACK_TARGET)), counted ? often + 1 : often);
        }
      }
      const small = [...packs.keys()].filter(({ bytes }) => bytes < HALF);
      assert.ok(small.length <= SMALL_LEFT, `${small.length} small packs are left`);
      for (const often of packs.values()) assert.ok(often <= CLASSES.length, `copied ${often} times`);
      const bytes = [...packs.keys()].reduce((sum, pack) => sum + pack.bytes, 0);
      assert.equal(
        bytes,
        all.reduce((sum, one) => sum + one, 0),
      );
    }),
  );
});

test('only packs of one account and one size are merged, and none that is large', () => {
  const mine = [1, 2, 3].map((bytes) => packOf(bytes));
  const large = [0, 1, 2, 3].map((more) => packOf(HALF + more));
  const theirs = [1, 2, 3].map((bytes) => packOf(bytes, [], newId('acct')));
  const wide = packOf(CLASSES[0] ?? 0);
  assert.deepEqual(mergeable([...mine, ...theirs, wide, ...large]), []);
  const last = packOf(4);
  assert.deepEqual(mergeable([...theirs, ...mine, wide, last, ...large]), [...mine, last]);
});

test('packs for which too many snapshots would be made anew are passed over, for others that share theirs', () => {
  const ids = (count: number): readonly SnapshotId[] => Array.from({ length: count }, () => newId('snap'));
  const chain = ids(SNAPSHOTS);
  const strangers = Array.from({ length: TOGETHER }, () => packOf(1, ids(SNAPSHOTS / 2)));
  assert.deepEqual(mergeable(strangers), []);
  const alike = Array.from({ length: TOGETHER }, (_, index) => packOf(1, chain.slice(index)));
  assert.deepEqual(mergeable([...strangers, ...alike]), alike);
  assert.deepEqual(mergeable([...strangers, ...alike.slice(1)]), []);
});
