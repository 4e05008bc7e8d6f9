import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { isBlobError, type BlobErrorKind } from './blob-error.ts';
import { listAll, type BlobHome } from './home.ts';

/** A home to try, and how to let it go. It must be empty. */
export interface HomeUnderTest {
  readonly home: BlobHome;
  close(): Promise<void>;
}

/** What every home of blobs must do. */
export function homeSuite(name: string, make: () => Promise<HomeUnderTest>): void {
  describe(`${name} as a home for blobs`, () => {
    let home: BlobHome;
    let close: () => Promise<void>;
    let folder: string;

    before(async () => {
      const made = await make();
      home = made.home;
      close = () => made.close();
      folder = await mkdtemp(join(tmpdir(), 'hatch-home-'));
    });
    after(async () => {
      await close();
      await rm(folder, { recursive: true });
    });

    const put = (blob: string, bytes: Uint8Array): Promise<void> =>
      home.put(blob, { bytes }, { sha256: sha256(bytes) });
    const get = (blob: string): Promise<Buffer> => home.get(blob, { maxBytes: 2 ** 26 });

    it('gives back what was put, from bytes and from a file', async () => {
      const bytes = randomBytes(3_000_001);
      const file = join(folder, 'source');
      await writeFile(file, bytes);
      await put('a/acct-1/p/bytes', bytes);
      await home.put('a/acct-1/p/file', { file }, { sha256: sha256(bytes) });
      assert.ok((await get('a/acct-1/p/bytes')).equals(bytes));
      assert.ok((await get('a/acct-1/p/file')).equals(bytes));
      assert.deepEqual(await home.head('a/acct-1/p/file'), { name: 'a/acct-1/p/file', bytes: 3_000_001 });
    });

    it('keeps an empty blob', async () => {
      await put('empty', Buffer.alloc(0));
      assert.equal((await get('empty')).length, 0);
      assert.deepEqual(await home.head('empty'), { name: 'empty', bytes: 0 });
    });

    it('gives any range, and says when the blob ends before', async () => {
      const bytes = randomBytes(100_000);
      await put('ranges', bytes);
      assert.ok((await home.getRange('ranges', 0, 1)).equals(bytes.subarray(0, 1)));
      assert.ok((await home.getRange('ranges', 70_000, 30_000)).equals(bytes.subarray(70_000)));
      assert.equal((await home.getRange('ranges', 500, 0)).length, 0);
      await fails('damaged', home.getRange('ranges', 99_999, 2));
      await fails('damaged', home.getRange('ranges', 200_000, 2));
      await fails('refused', home.getRange('ranges', -1, 2));
    });

    it('takes the same put twice', async () => {
      const bytes = randomBytes(1000);
      await Promise.all([put('twice', bytes), put('twice', bytes)]);
      await put('twice', bytes);
      assert.ok((await get('twice')).equals(bytes));
    });

    it('keeps nothing of bytes that are not those of the checksum', async () => {
      const bytes = randomBytes(100_000);
      const file = join(folder, 'other');
      await writeFile(file, bytes);
      const other = sha256(randomBytes(10));
      await fails('damaged', home.put('wrong', { bytes }, { sha256: other }));
      await fails('damaged', home.put('wrong', { file }, { sha256: other }));
      assert.equal(await home.head('wrong'), undefined);
      await fails('missing', get('wrong'));
    });

    it('says that a blob is missing', async () => {
      await fails('missing', get('a/nobody/p/none'));
      await fails('missing', home.getRange('a/nobody/p/none', 0, 10));
      assert.equal(await home.head('a/nobody/p/none'), undefined);
    });

    it('removes a blob once and twice', async () => {
      await put('gone', randomBytes(10));
      await home.remove('gone');
      assert.equal(await home.head('gone'), undefined);
      await home.remove('gone');
      await home.remove('never/there');
    });

    it('lists by prefix, in order of the names', async () => {
      const names = ['l/a/p/2', 'l/a/p/1', 'l/a/m/9', 'l/a.b', 'l/ab/x', 'l/b/p/1', 'm/a'];
      for (const blob of names) await put(blob, Buffer.from(blob));
      const list = async (prefix: string): Promise<string[]> =>
        (await listAll(home, prefix)).map(({ name: blob, bytes }) => {
          assert.equal(bytes, blob.length);
          return blob;
        });
      assert.deepEqual(await list('l/'), ['l/a.b', 'l/a/m/9', 'l/a/p/1', 'l/a/p/2', 'l/ab/x', 'l/b/p/1']);
      assert.deepEqual(await list('l/a'), ['l/a.b', 'l/a/m/9', 'l/a/p/1', 'l/a/p/2', 'l/ab/x']);
      assert.deepEqual(await list('l/a/p/'), ['l/a/p/1', 'l/a/p/2']);
      assert.deepEqual(await list('l/a/p/2'), ['l/a/p/2']);
      assert.deepEqual(await list('none/'), []);
    });

    it('reads no more into memory than was asked for', async () => {
      await put('large', randomBytes(1001));
      await fails('refused', home.get('large', { maxBytes: 1000 }));
      assert.equal((await home.get('large', { maxBytes: 1001 })).length, 1001);
    });

    it('takes only names that mean the same everywhere', async () => {
      for (const bad of [
        '',
        '/a',
        'a/',
        'a//b',
        '../a',
        'a/../b',
        '.a',
        'a/.b',
        'a b',
        'ä',
        'a\0',
        'x'.repeat(600),
      ]) {
        await fails('refused', put(bad, Buffer.from('x')));
        await fails('refused', get(bad));
        await fails('refused', home.remove(bad));
        await fails('refused', home.head(bad));
      }
    });

    it('stops when it is told to, and keeps nothing', async () => {
      const why = new Error('enough');
      const signal = AbortSignal.abort(why);
      const bytes = randomBytes(10);
      const calls = [
        home.put('stopped', { bytes }, { sha256: sha256(bytes), signal }),
        home.get('twice', { maxBytes: 10_000, signal }),
        home.getRange('twice', 0, 1, signal),
        home.head('twice', signal),
        home.remove('twice', signal),
        listAll(home, '', signal),
      ];
      for (const call of calls) await assert.rejects(call, why);
      assert.equal(await home.head('stopped'), undefined);
      assert.ok(await home.head('twice'));
    });

    it('stops in the middle of a put, and keeps nothing', async () => {
      const why = new Error('enough');
      const stop = new AbortController();
      const file = join(folder, 'long');
      const bytes = randomBytes(30_000_000);
      await writeFile(file, bytes);
      const putting = home.put('stopped', { file }, { sha256: sha256(bytes), signal: stop.signal });
      setImmediate(() => stop.abort(why));
      await assert.rejects(putting, why);
      assert.equal(await home.head('stopped'), undefined);
    });
  });
}

async function fails(kind: BlobErrorKind, call: Promise<unknown>): Promise<void> {
  await assert.rejects(call, (error) => {
    assert.ok(isBlobError(error, kind), `expected ${kind}: ${String(error)}`);
    return true;
  });
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
