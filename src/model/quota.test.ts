import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { checkQuota, effectiveLimits } from './quota.ts';

const none = { vms: null, vcpus: null, memMib: null };

test("an account's own quota wins over the server's, also a larger one and zero", () => {
  const server = { vms: 50, vcpus: 8, memMib: null };
  assert.deepEqual(effectiveLimits(none, server), server);
  assert.deepEqual(effectiveLimits({ vms: 0, vcpus: 100, memMib: 512 }, server), {
    vms: 0,
    vcpus: 100,
    memMib: 512,
  });
});

test('a quota that would be exceeded is named with what is used and the limit', () => {
  const use = { vms: 2, vcpus: 3, memMib: 1024 };
  const adding = { vms: 1, vcpus: 2, memMib: 512 };
  const refused = (limits: Partial<typeof none> | Record<string, number>) =>
    checkQuota(use, { ...none, ...limits }, adding);
  assert.equal(refused({}), undefined);
  assert.deepEqual(refused({ vms: 2 })?.details, { quota: 'vms', used: 2, limit: 2 });
  assert.deepEqual(refused({ vcpus: 4 })?.details, { quota: 'vcpus', used: 3, limit: 4 });
  assert.deepEqual(refused({ memMib: 1535 })?.details, { quota: 'mem_mib', used: 1024, limit: 1535 });
  assert.equal(refused({ vms: 3, vcpus: 5, memMib: 1536 }), undefined);
  assert.equal(refused({ vms: 2 })?.code, 'quota_exceeded');
  assert.match(refused({ vms: 2 })?.message ?? '', /uses 2 of at most 2 VMs, and this needs 1 more/);
});

test('an account over a quota that was lowered may shrink, and grow what is within its quota', () => {
  const use = { vms: 5, vcpus: 9, memMib: 4096 };
  const limits = { vms: 1, vcpus: 1, memMib: 8192 };
  assert.equal(checkQuota(use, limits, { vms: 0, vcpus: -1, memMib: 0 }), undefined);
  assert.equal(checkQuota(use, limits, { vms: 0, vcpus: 0, memMib: 4096 }), undefined);
  assert.equal(checkQuota(use, limits, { vms: 0, vcpus: 1, memMib: 0 })?.details['quota'], 'vcpus');
});

test('what is let in one by one never goes over any limit', () => {
  const size = fc.record({ vms: fc.constant(1), vcpus: fc.nat(8), memMib: fc.nat(4096) });
  fc.assert(
    fc.property(size, fc.array(size, { maxLength: 20 }), (limits, asked) => {
      let use = { vms: 0, vcpus: 0, memMib: 0 };
      for (const adding of asked) {
        if (checkQuota(use, limits, adding)) continue;
        use = {
          vms: use.vms + adding.vms,
          vcpus: use.vcpus + adding.vcpus,
          memMib: use.memMib + adding.memMib,
        };
      }
      return use.vms <= limits.vms && use.vcpus <= limits.vcpus && use.memMib <= limits.memMib;
    }),
  );
});
