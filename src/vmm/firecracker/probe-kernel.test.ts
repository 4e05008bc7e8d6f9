import assert from 'node:assert/strict';
import { test } from 'node:test';
import { probeKernel } from './probe-kernel.ts';

test('the kernel that tries KVM is an ELF file whose entry is its code', () => {
  const elf = probeKernel();
  assert.equal(elf.subarray(0, 4).toString('latin1'), '\x7fELF');
  const [entry, segments] = [elf.readBigUInt64LE(24), Number(elf.readBigUInt64LE(32))];
  const [offset, address, bytes] = [8, 16, 32].map((at) => Number(elf.readBigUInt64LE(segments + at)));
  assert.equal(BigInt(address ?? 0), entry);
  assert.equal((offset ?? 0) + (bytes ?? 0), elf.length);
  // The code ends in a halt for ever, should the reset not be heard.
  assert.deepEqual([...elf.subarray(-3)], [0xf4, 0xeb, 0xfd]);
});
