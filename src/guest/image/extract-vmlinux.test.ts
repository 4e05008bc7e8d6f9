import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import type { Run } from '../../host/run.ts';
import { Failure } from '../../model/failure.ts';
import { extractVmlinux } from './extract-vmlinux.ts';
import { bzImage, elf, lz4Frame, lz4Literals, sized, tinyKernel } from './testing.ts';

const never: Run = () => Promise.reject(new Error('no program is to be run'));
const signal = new AbortController().signal;
let workFolder = '';
before(async () => {
  workFolder = await mkdtemp(join(tmpdir(), 'hatch-vmlinux-'));
});
after(() => rm(workFolder, { recursive: true, force: true }));

const refused = (why: RegExp) => (error: unknown) =>
  error instanceof Failure && error.code === 'invalid_request' && why.test(error.message);
const extract = (kernel: Uint8Array, run: Run = never) => extractVmlinux({ run, workFolder }, kernel, signal);

for (const [name, payload] of [
  ['gzip', gzipSync(elf())],
  ['zstd', sized(zstdCompressSync(elf()), elf().length)],
  ['lz4', sized(lz4Frame([lz4Literals(elf())]), elf().length)],
] as const) {
  test(`a kernel compressed with ${name} is taken out, and its entry read`, async () => {
    const { image, entry } = await extract(bzImage(payload));
    assert.deepEqual(image, elf());
    assert.equal(entry, 0x1000000n);
  });
}

for (const [magic, suffix, program] of [
  [[0xfd, 0x37, 0x7a, 0x58, 0x5a, 0], 'xz', 'xz'],
  [[0x5d, 0, 0, 0x80], 'lzma', 'xz'],
  [[0x42, 0x5a, 0x68], 'bz2', 'bzip2'],
] as const) {
  test(`a kernel with the mark of .${suffix} is given to ${program}, and nothing is left`, async () => {
    const run: Run = async (argv) => {
      assert.equal(argv[0], program);
      const file = argv.at(-1) ?? '';
      assert.ok(file.endsWith(`/vmlinux.${suffix}`));
      await writeFile(file.slice(0, -suffix.length - 1), elf());
      return { stdout: '', stderr: '', exitCode: 0 };
    };
    const payload = sized(Buffer.concat([Buffer.from(magic), Buffer.alloc(32)]), elf().length);
    assert.deepEqual((await extract(bzImage(payload), run)).image, elf());
    assert.deepEqual(await readdir(workFolder), []);
  });
}

test('a kernel that is not compressed is taken as it is', async () => {
  assert.deepEqual((await extract(elf())).image, elf());
});

test('what is no kernel, or a damaged one, is refused with the reason', async () => {
  const noMagic = tinyKernel();
  noMagic.write('Nope', 0x202, 'latin1');
  const outside = tinyKernel();
  outside.writeUInt32LE(1 << 20, 0x24c);
  const old = tinyKernel();
  old.writeUInt16LE(0x0203, 0x206);
  const cut = gzipSync(elf());
  cut.fill(0xee, 20, 40);
  const cases: readonly (readonly [Uint8Array, RegExp])[] = [
    [Buffer.alloc(0), /too short/],
    [Buffer.alloc(4096), /no setup header/],
    [noMagic, /no setup header/],
    [outside, /outside the file/],
    [old, /older than 2\.08/],
    [bzImage(cut), /cannot be unpacked/],
    [bzImage(sized(zstdCompressSync(elf()), 77)), /cannot be unpacked|not to 77/],
    [bzImage(sized(zstdCompressSync(elf()), 1000)), /unpacks to 512 bytes and not to 1000/],
    [bzImage(sized(zstdCompressSync(elf()), 0xffffffff)), /larger than a GiB/],
    [bzImage(Buffer.alloc(64, 7)), /compression/],
    [bzImage(gzipSync(Buffer.alloc(512))), /no ELF/],
    [bzImage(gzipSync(elf({ machine: 183 }))), /not for x86-64/],
    [elf({ entry: 0x42n }), /entry/],
    [elf().subarray(0, 40), /no ELF|too short/],
    [elf().subarray(0, 100), /program headers/],
  ];
  for (const [kernel, why] of cases) await assert.rejects(extract(kernel), refused(why));
});

test('whatever byte is wrong, the answer is a kernel or a Failure', async () => {
  const good = tinyKernel();
  await fc.assert(
    fc.asyncProperty(fc.nat(good.length - 1), fc.nat(255), async (at, value) => {
      const bad = Buffer.from(good);
      bad[at] = value;
      try {
        assert.ok(
          (await extract(bad, () => Promise.reject(new Failure('unavailable', 'no tool')))).image.length > 0,
        );
      } catch (error) {
        assert.ok(error instanceof Failure, String(error));
      }
    }),
  );
});
