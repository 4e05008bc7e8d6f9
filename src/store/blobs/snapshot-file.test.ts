import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { extract, pack, type Header } from 'tar-stream';
import { BlobError } from './blob-error.ts';
import { openFolderHome } from './folder-home.ts';
import { accountKeys, newAccountSecret, parseMasterKey, type MasterKey } from './keys.ts';
import { knowsNothing } from './lookup.ts';
import { openChunkStore } from './open.ts';
import { FILE_ACCOUNT, FileWriter, readSnapshotFile, type ReadFile } from './snapshot-file.ts';
import { exampleImages } from './testing/example-images.ts';

const EXAMPLES = join(import.meta.dirname, 'testing/example');
const IDENTITY = { machine: 'of an example' };
const MASTER = parseMasterKey(Buffer.from('5a'.repeat(32)));

let folder: string;
let plain: Buffer;
let sealed: Buffer;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-file-'));
  plain = await makeFile(undefined);
  sealed = await makeFile(MASTER);
});
after(() => rm(folder, { recursive: true }));

/** A file of the example's images, as an export makes it. */
async function makeFile(master: MasterKey | undefined): Promise<Buffer> {
  const own = await mkdtemp(join(folder, 'make-'));
  const secret = newAccountSecret(FILE_ACCOUNT, master);
  const keys = accountKeys(FILE_ACCOUNT, secret, master);
  const store = openChunkStore({ home: await openFolderHome(own), keys: async () => keys, threads: 1 });
  try {
    const images = await Promise.all(
      Object.entries(exampleImages()).map(async ([name, bytes]) => {
        await writeFile(join(own, name), bytes);
        return { name, path: join(own, name) };
      }),
    );
    const order = { keys, images, identity: IDENTITY, known: knowsNothing, spool: join(own, 'spool') };
    const saved = await store.save(order);
    const tar = pack();
    const read = buffer(tar);
    const writer = new FileWriter(tar, secret);
    await writer.begin();
    for (const one of saved.packs) await writer.pack(one);
    await writer.end(saved.manifest);
    return await read;
  } finally {
    await store.close();
  }
}

/** Reads a file in pieces; what it kept lies in `kept`. */
async function read(
  file: Uint8Array,
  master?: MasterKey,
  room: (bytes: number) => Promise<void> = async () => undefined,
): Promise<ReadFile & { readonly kept: string }> {
  const kept = await mkdtemp(join(folder, 'read-'));
  async function* source(): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < file.length; at += 1000) yield file.subarray(at, at + 1000);
  }
  return { ...(await readSnapshotFile({ source: source(), folder: kept, master, room })), kept };
}

async function refused(file: Uint8Array, about: RegExp, master?: MasterKey): Promise<void> {
  await assert.rejects(read(file, master), (error: unknown) => {
    assert.ok(error instanceof BlobError, String(error));
    assert.match(error.message, about);
    return true;
  });
}

/** That what was read is the example, to the last byte. */
async function isExample({ manifest, keys, kept }: Awaited<ReturnType<typeof read>>): Promise<void> {
  assert.deepEqual(manifest.identity, IDENTITY);
  const store = openChunkStore({ home: await openFolderHome(kept), keys: async () => keys, threads: 1 });
  try {
    for (const [image, bytes] of Object.entries(exampleImages())) {
      await store.load({ manifest, image, to: join(kept, image) });
      assert.ok((await readFile(join(kept, image))).equals(bytes), image);
    }
  } finally {
    await store.close();
  }
}

interface Part {
  readonly header: Partial<Header> & { readonly name: string };
  readonly bytes: Buffer;
}

async function partsOf(file: Buffer): Promise<Part[]> {
  const tar = extract();
  tar.end(file);
  const parts: Part[] = [];
  for await (const entry of tar) {
    const { name, size, mode, mtime } = entry.header;
    parts.push({ header: { name, size, mode, mtime }, bytes: await buffer(entry as AsyncIterable<Buffer>) });
  }
  return parts;
}

async function tarOf(parts: readonly Part[]): Promise<Buffer> {
  const tar = pack();
  const read = buffer(tar);
  for (const { header, bytes } of parts) tar.entry({ ...header, size: bytes.length }, bytes);
  tar.finalize();
  return read;
}

const part = (name: string, bytes: Buffer | string = ''): Part => ({
  header: { name },
  bytes: Buffer.from(bytes),
});

test('a file is read as it was written, sealed and not', async () => {
  await isExample(await read(plain));
  await isExample(await read(sealed, MASTER));
  assert.ok(!sealed.includes('of an example'), 'what the machine is called cannot be read either');
});

test('files that version 1 wrote are read', async () => {
  await isExample(await read(await readFile(join(EXAMPLES, 'plain.hatch'))));
  await isExample(await read(await readFile(join(EXAMPLES, 'sealed.hatch')), MASTER));
});

test('a sealed file opens with its key alone, and a key is not taken for a file without', async () => {
  await refused(sealed, /it is encrypted, and the key it was exported with is not given/);
  await refused(sealed, /another key than the one given/, parseMasterKey(Buffer.from('5b'.repeat(32))));
  await refused(plain, /it is not encrypted/, MASTER);
});

test('whatever is not exactly such a file is refused in a sentence that says what is wrong', async () => {
  const [begin, one, manifest, end] = await partsOf(plain);
  assert.ok(begin && one && manifest && end, 'the example has one pack');
  const cases: readonly (readonly [RegExp, readonly Part[]])[] = [
    [/it begins with "packs\//, [one, begin, manifest, end]],
    [/it begins with "manifest"/, [manifest]],
    [/a part of it is missing/, []],
    [/a part of it is missing/, [begin]],
    [/a part of it is missing/, [begin, one, manifest]],
    [/"end.json", which is unknown or not in its place/, [begin, one, end]],
    [/what it holds is not what its end.json says/, [begin, manifest, end]],
    [/which is unknown or not in its place/, [begin, manifest, one, end]],
    [/"manifest", which is unknown/, [begin, one, manifest, manifest, end]],
    [/has the pack [0-9a-f-]{36} twice/, [begin, one, one, manifest, end]],
    [/"more" after its end/, [begin, one, manifest, end, part('more')]],
    [/"more", which is unknown/, [begin, part('more'), one, manifest, end]],
    [/is no name of a pack/, [begin, part('packs/../../../etc/passwd', 'x'), manifest, end]],
    [/"\.\.\/packs\/x", which is unknown/, [begin, part('../packs/x', 'x')]],
    [
      /is not a plain file/,
      [
        begin,
        { header: { name: 'packs/x', type: 'symlink', linkname: '/' }, bytes: one.bytes.subarray(0, 0) },
      ],
    ],
    [
      /is not a plain file/,
      [begin, { header: { name: 'packs', type: 'directory' }, bytes: Buffer.alloc(0) }],
    ],
    [/is not a plain file/, [begin, { ...one, header: { ...one.header, pax: { comment: 'x' } } }]],
    [/begin.json is no JSON/, [part('begin.json', '{')]],
    [/begin.json has 5000 bytes, and 4096 are the most/, [part('begin.json', Buffer.alloc(5000))]],
    [/begin.json is not as it must be/, [part('begin.json', '[]')]],
    [/no snapshot file of Hatch/, [part('begin.json', '{}')]],
    [
      /of version 2, and this program reads version 1/,
      [part('begin.json', begin.bytes.toString().replace('"version":1', '"version":2'))],
    ],
    [
      /begin.json is not as it must be/,
      [part('begin.json', begin.bytes.toString().replace('"version":1', '"version":1,"more":1'))],
    ],
    [
      /secret in its begin.json is not one/,
      [part('begin.json', begin.bytes.toString().replace('plain:', 'plain:%'))],
    ],
    [/end.json is no JSON/, [begin, one, manifest, part('end.json', 'x')]],
    [/end.json is not as it must be/, [begin, one, manifest, part('end.json', 'null')]],
    [
      /not what its end.json says/,
      [begin, one, manifest, part('end.json', end.bytes.toString().replace('{', '{"more":1,'))],
    ],
  ];
  for (const [about, parts] of cases) await refused(await tarOf(parts), about);
  await refused(Buffer.from('not a tar at all'), /a part of it is missing/);
  await refused(Buffer.alloc(2048, 'x'), /it is no tar/);
});

test('a pack, a manifest or a size that is larger than may be is refused before it is read', async () => {
  const [begin] = await partsOf(plain);
  assert.ok(begin);
  const claim = async (name: string, size: number): Promise<Buffer> => {
    const whole = await tarOf([begin, part(name, Buffer.alloc(1))]);
    const at = whole.indexOf(name);
    const header = whole.subarray(at, at + 512);
    header.write(`${size.toString(8).padStart(11, '0')} `, 124, 'latin1');
    header.fill(' ', 148, 156);
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    return whole.subarray(0, at + 512);
  };
  const id = '01890000-0000-7000-8000-000000000000';
  await refused(await claim(`packs/${id}`, 2 ** 30), /has 1073741824 bytes, and 33554432 are the most/);
  await refused(await claim('manifest', 2 ** 31), /manifest has 2147483648 bytes/);
  const asked: number[] = [];
  const full = read(await claim(`packs/${id}`, 12_345), undefined, async (bytes) => {
    asked.push(bytes);
    throw new BlobError('no_space', 'no room');
  });
  await assert.rejects(full, /no room/);
  assert.deepEqual(asked, [12_345]);
});

test('a file that ends anywhere, or of which one bit is another, is refused', async () => {
  const parts = await partsOf(sealed);
  const holes = new Set<number>();
  const sums = new Set<number>();
  let at = 0;
  for (const { bytes } of parts) {
    // The sum over a header can be written in several ways, with blanks before it or after it.
    for (let byte = 148; byte < 156; byte++) sums.add(at + byte);
    // Nobody looks at what fills an entry up to whole blocks.
    at += 512 + bytes.length;
    for (; at % 512 !== 0; at++) holes.add(at);
  }
  const ofUse = at;
  await fc.assert(
    fc.asyncProperty(fc.nat(ofUse - 1), fc.nat(7), async (offset, bit) => {
      await refused(sealed.subarray(0, offset), /./, MASTER);
      if (holes.has(offset)) return;
      const broken = Buffer.from(sealed);
      broken.writeUInt8(broken.readUInt8(offset) ^ (1 << bit), offset);
      const good = sums.has(offset) ? await read(broken, MASTER).catch(() => undefined) : undefined;
      if (good) await isExample(good);
      else await refused(broken, /./, MASTER);
    }),
    {
      numRuns: 60,
      examples: [
        [154, 0],
        [155, 5],
      ],
    },
  );
});

test('what breaks off while it is read says so itself, and no more is read than can be kept', async () => {
  const kept = await mkdtemp(join(folder, 'broken-'));
  async function* source(): AsyncGenerator<Uint8Array> {
    yield plain.subarray(0, 3000);
    throw new Error('the caller hung up');
  }
  const order = { source: source(), folder: kept, master: undefined, room: async () => undefined };
  await assert.rejects(readSnapshotFile(order), /the caller hung up/);
});
