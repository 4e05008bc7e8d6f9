import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostCpu, parseCpu } from './cpu.ts';

test("an x86 host's processor is known by its name and what it can do", () => {
  const text = `processor	: 0
vendor_id	: GenuineIntel
model name	: Intel(R) Xeon(R) Processor @ 2.60GHz
flags		: sse2 fpu avx2

processor	: 1
model name	: another
flags		: none
`;
  assert.deepEqual(parseCpu(text), {
    model: 'Intel(R) Xeon(R) Processor @ 2.60GHz',
    flags: ['avx2', 'fpu', 'sse2'],
  });
});

test("an ARM host's processor is known by its numbers", () => {
  const text = `processor	: 0
Features	: fp asimd
CPU implementer	: 0x41
CPU part	: 0xd40
`;
  assert.deepEqual(parseCpu(text), { model: '0x41 0xd40', flags: ['asimd', 'fp'] });
  assert.deepEqual(parseCpu(''), { model: 'unknown', flags: [] });
});

test('the processor we run on can be read', async () => {
  const { model, flags } = await hostCpu();
  assert.notEqual(model, 'unknown');
  assert.ok(flags.length > 0);
});
