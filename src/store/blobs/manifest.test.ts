import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { BlobError, isBlobError } from './blob-error.ts';
import { CHUNK, newManifestId, newPackId, type FrameRef, type PackRef } from './format.ts';
import { ByteReader, ByteWriter } from './byte-stream.ts';
import { accountKeys, newAccountSecret, parseMasterKey, type AccountKeys } from './keys.ts';
import { at, frameAt, HOLE, LayoutBuilder, type Layout } from './layout.ts';
import { readLayout, writeLayout } from './layout-bytes.ts';
import { decodeManifest, encodeManifest, type Manifest } from './manifest.ts';

const master = parseMasterKey(Buffer.alloc(32, 7));
const open = accountKeys('acct-a', newAccountSecret('acct-a', undefined), undefined);
const sealed = accountKeys('acct-a', newAccountSecret('acct-a', master), master);

type Piece =
  { readonly hole: number } | { readonly frame: number; readonly slot: number; readonly chunks: number };

/** Any layout: frames in some packs, images of holes and pieces of frames. */
const layouts = fc
  .record({
    frames: fc.array(
      fc.record({
        pack: fc.nat(3),
        gap: fc.nat(5000),
        stored: fc.integer({ min: 1, max: 300_000 }),
        chunks: fc.integer({ min: 1, max: 16 }),
        raw: fc.boolean(),
      }),
      { minLength: 1, maxLength: 40 },
    ),
    images: fc.array(
      fc.array(
        fc.oneof(
          fc.record({ hole: fc.integer({ min: 1, max: 2 ** 24 }) }),
          fc.record({ frame: fc.nat(39), slot: fc.nat(15), chunks: fc.integer({ min: 1, max: 16 }) }),
        ),
        { maxLength: 60 },
      ),
      { maxLength: 4 },
    ),
    cut: fc.integer({ min: 0, max: CHUNK - 1 }),
  })
  .map(({ frames, images, cut }) => build(frames, images, cut));

function build(
  frames: readonly { pack: number; gap: number; stored: number; chunks: number; raw: boolean }[],
  images: readonly (readonly Piece[])[],
  cut: number,
): Layout {
  const packs: PackRef[] = [0, 1, 2, 3].map((i) => ({
    account: i === 3 ? 'system' : 'acct-a',
    id: newPackId(1000 + i),
    bytes: 30_000_000,
    sealed: i % 2 === 0,
  }));
  const ends = packs.map(() => ({ number: 0, offset: 64 }));
  const refs = frames.map((frame): FrameRef => {
    const pack = packs[frame.pack];
    const end = ends[frame.pack];
    assert.ok(pack && end);
    const ref: FrameRef = {
      pack,
      number: end.number,
      offset: end.offset + frame.gap,
      stored: Math.min(frame.stored, frame.chunks * CHUNK + 16),
      chunks: frame.chunks,
      codec: frame.raw ? 'raw' : 'zstd',
      check: Buffer.alloc(16, frame.stored),
    };
    end.number += 1 + (frame.gap % 3);
    end.offset = ref.offset + ref.stored;
    return ref;
  });
  const builder = new LayoutBuilder();
  images.forEach((pieces, index) => {
    const fitted = pieces.map((piece) => {
      if ('hole' in piece) return { chunks: piece.hole };
      const frame = refs[piece.frame % refs.length];
      assert.ok(frame);
      const slot = piece.slot % frame.chunks;
      return { frame, slot, chunks: Math.min(piece.chunks, frame.chunks - slot) };
    });
    const chunks = fitted.reduce((sum, piece) => sum + piece.chunks, 0);
    const image = builder.image(`disk.${index}`, Math.max(0, chunks * CHUNK - (chunks > 0 ? cut : 0)));
    for (const piece of fitted)
      if (piece.frame) image.data(piece.chunks, builder.handle(piece.frame), piece.slot);
      else image.hole(piece.chunks);
  });
  return builder.finish();
}

function manifestOf(layout: Layout, identity: unknown = { vmm: 'qemu' }): Manifest {
  return { id: newManifestId(5), account: 'acct-a', createdAt: 1_700_000_000_000, identity, ...layout };
}

/** What a manifest says, with nothing of how it is held. */
function said({ images, ...rest }: Manifest): unknown {
  return {
    ...rest,
    frames: rest.frames.count,
    images: images.map((image) => ({
      name: image.name,
      bytes: image.bytes,
      runs: [...image.chunks].map((chunks, run) => {
        const frame = at(image.frame, run);
        if (frame === HOLE) return { chunks };
        const { check, ...ref } = frameAt({ images, ...rest }, frame);
        return { run: chunks, slot: at(image.slot, run), ...ref, check: Buffer.from(check).toString('hex') };
      }),
    })),
  };
}

/** Decodes, and lets only a BlobError of the two kinds through. */
function tryDecode(bytes: Uint8Array, keys: AccountKeys): Manifest | undefined {
  try {
    return decodeManifest(bytes, keys);
  } catch (error) {
    assert.ok(isBlobError(error, 'damaged', 'wrong_key'), String(error));
    assert.match(error.message, /^(the|this|what)\b.{10,}/);
    return undefined;
  }
}

test('any layout is read back as it was written, sealed or not', () => {
  fc.assert(
    fc.property(layouts, fc.jsonValue(), fc.boolean(), (layout, identity, secret) => {
      const manifest = manifestOf(layout, JSON.parse(JSON.stringify(identity)));
      const keys = secret ? sealed : open;
      const { bytes, sha256 } = encodeManifest(manifest, keys);
      assert.deepEqual(said(decodeManifest(bytes, keys, sha256)), said(manifest));
      assert.deepEqual(encodeManifest(manifest, keys).bytes, bytes);
    }),
  );
});

test('a sealed manifest with any bit changed is refused', () => {
  fc.assert(
    fc.property(layouts, fc.nat(), fc.integer({ min: 0, max: 7 }), (layout, where, bit) => {
      const { bytes } = encodeManifest(manifestOf(layout), sealed);
      const index = where % bytes.length;
      bytes[index] = (bytes[index] ?? 0) ^ (1 << bit);
      assert.equal(tryDecode(bytes, sealed), undefined);
    }),
  );
});

test('an open manifest with bytes changed, cut or added is read as another or refused with a sentence', () => {
  fc.assert(
    fc.property(
      layouts,
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 3 }),
      fc.nat(40),
      fc.uint8Array({ maxLength: 3 }),
      (layout, changes, cut, more) => {
        const { bytes } = encodeManifest(manifestOf(layout), open);
        for (const [where, value] of changes) bytes[where % bytes.length] = value;
        tryDecode(Buffer.concat([bytes.subarray(0, bytes.length - cut), more]), open);
      },
    ),
  );
});

test('columns with bytes changed, cut or added lead nowhere but into what they name, or are refused', () => {
  fc.assert(
    fc.property(
      layouts,
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 3 }),
      fc.nat(3),
      (layout, changes, cut) => {
        const to = new ByteWriter();
        writeLayout(to, layout);
        const bytes = Buffer.from(to.bytes());
        for (const [where, value] of changes) bytes[where % bytes.length] = value;
        let read: Layout;
        try {
          read = readLayout(new ByteReader(bytes.subarray(0, bytes.length - cut), 'the manifest'));
        } catch (error) {
          return assert.ok(isBlobError(error, 'damaged'), String(error));
        }
        for (const image of read.images) {
          const runs = [...image.chunks.keys()];
          assert.equal(
            runs.reduce((sum, run) => sum + at(image.chunks, run), 0),
            Math.ceil(image.bytes / CHUNK),
          );
          for (const run of runs.filter((run) => image.frame[run] !== HOLE)) {
            const frame = frameAt(read, at(image.frame, run));
            assert.ok(at(image.slot, run) + at(image.chunks, run) <= frame.chunks);
            assert.ok(frame.offset + frame.stored <= frame.pack.bytes);
          }
        }
      },
    ),
    { numRuns: 500 },
  );
});

test('bytes that are no manifest are refused', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      assert.equal(tryDecode(bytes, open), undefined);
    }),
  );
});

test('a manifest of other bytes than those whose checksum was kept is refused', () => {
  const one = encodeManifest(manifestOf(build([], [], 0)), open);
  const other = encodeManifest(manifestOf(build([], [], 0), { vmm: 'other' }), open);
  assert.throws(() => decodeManifest(other.bytes, open, one.sha256), /its SHA-256 is another/);
});

test('a sealed manifest says which key it wants', () => {
  const { bytes } = encodeManifest(manifestOf(build([], [], 0)), sealed);
  const stranger = accountKeys('acct-a', newAccountSecret('acct-a', master), master);
  for (const keys of [open, stranger])
    assert.throws(
      () => decodeManifest(bytes, keys),
      (error) => error instanceof BlobError && error.kind === 'wrong_key',
    );
});

test('a manifest of another version is refused by its number', () => {
  const { bytes } = encodeManifest(manifestOf(build([], [], 0)), open);
  bytes.writeUInt16BE(2, 8);
  assert.throws(() => decodeManifest(bytes, open), /version 2, and this program reads version 1/);
});
