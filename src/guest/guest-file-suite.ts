import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import { silent } from '../base/logger.ts';
import { Failure } from '../model/failure.ts';
import type { FileFacts } from '../model/saved-files.ts';
import type { GuestAgent } from './agent.ts';
import { PIECE_BYTES, readGuestFile, writeGuestFile, type GuestFileToWrite } from './guest-file.ts';

export interface GuestWithFiles {
  readonly agent: GuestAgent;
  /** A folder of its own that is there, without a `/` at its end. */
  readonly folder: string;
  /** The names of what is in it. */
  readonly list: () => Promise<readonly string[]>;
}

/** Pieces as they come from somewhere else: now many, now few bytes. */
async function* inBits(bytes: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0, size = 1; at < bytes.length; at += size, size = (size * 7) % 100_003)
    yield bytes.subarray(at, at + size);
}

const NONE = { mode: null, owner: null, group: null, parents: false } as const;

/** Refuses everything but a Failure with this code, and gives it. */
export async function refused(code: string, work: Promise<unknown>): Promise<Failure> {
  const failed: unknown = await work.then(
    () => assert.fail('it was not refused'),
    (error: unknown) => error,
  );
  assert.ok(failed instanceof Failure, String(failed));
  assert.equal(failed.code, code, failed.message);
  return failed;
}

/** What files of every guest do when they are copied in and out, whoever pretends it. */
export function guestFileSuite(
  name: string,
  { guest, mostMs }: { readonly guest: () => Promise<GuestWithFiles>; readonly mostMs: number },
): void {
  let made: Promise<GuestWithFiles> | undefined;
  const inGuest = (): Promise<GuestWithFiles> => (made ??= guest());
  const put = async (
    file: string,
    source: Buffer | AsyncIterable<Uint8Array>,
    more: Partial<GuestFileToWrite> = {},
    signal = AbortSignal.timeout(mostMs),
  ): Promise<FileFacts> => {
    const { agent, folder } = await inGuest();
    return writeGuestFile(
      { guest: { agent }, log: silent },
      { ...NONE, ...more, path: `${folder}/${file}` },
      Buffer.isBuffer(source) ? inBits(source) : source,
      signal,
    );
  };
  const get = async (file: string): Promise<{ readonly facts: FileFacts; readonly bytes: Buffer }> => {
    const { agent, folder } = await inGuest();
    const found = await readGuestFile({ guest: { agent } }, `${folder}/${file}`, AbortSignal.timeout(mostMs));
    const bytes = await buffer(found.content);
    assert.equal(bytes.length, found.sizeBytes, 'as many as were promised');
    return { facts: found.facts, bytes };
  };

  test(`${name}: a file that was copied in comes out as it was, whatever is in it and however long`, async () => {
    for (const length of [1, PIECE_BYTES, 2 * PIECE_BYTES + 77, 0]) {
      const bytes = randomBytes(length);
      const facts = await put('any', bytes);
      const found = await get('any');
      assert.ok(found.bytes.equals(bytes), `${length} bytes`);
      assert.deepEqual(found.facts, facts);
      assert.deepEqual([facts.kind, facts.sizeBytes, facts.target], ['file', length, null]);
    }
    const { bytes } = await put('text', Buffer.from('é\n')).then(() => get('text'));
    assert.equal(bytes.toString(), 'é\n');
  });

  test(`${name}: names may hold anything`, async () => {
    const odd = `it's "$(id)" *\n\\ é -- ;&|.txt`;
    await put(odd, Buffer.from('odd'));
    assert.equal((await get(odd)).bytes.toString(), 'odd');
    const { list } = await inGuest();
    assert.ok((await list()).includes(odd));
  });

  test(`${name}: a new file is 0644, another keeps its mode and owner, and both may be said`, async () => {
    const first = await put('modes', Buffer.from('a'));
    assert.equal(first.mode, 0o644);
    assert.equal((await put('modes', Buffer.from('b'), { mode: 0o750 })).mode, 0o750);
    const kept = await put('modes', Buffer.from('c'));
    assert.deepEqual([kept.mode, kept.uid, kept.gid], [0o750, first.uid, first.gid]);
    // After the owner, which takes such bits away.
    const owner = { owner: String(first.uid), group: String(first.gid) };
    const special = await put('modes', Buffer.from('d'), { mode: 0o4711, ...owner });
    assert.deepEqual([special.mode, special.uid, special.gid], [0o4711, first.uid, first.gid]);
    assert.equal((await put('secret', Buffer.from('s'), { mode: 0 })).mode, 0);
  });

  test(`${name}: an owner nobody knows is refused before a byte is read, and nothing is left`, async () => {
    const unread = async function* (): AsyncGenerator<Uint8Array> {
      yield assert.fail('it was read');
    };
    for (const field of ['owner', 'group']) {
      const failed = await refused('invalid_request', put('nobodys', unread(), { [field]: 'hatch-nobody' }));
      assert.equal(failed.details['field'], field, failed.message);
      assert.match(failed.message, /"hatch-nobody"/);
    }
    const { list } = await inGuest();
    assert.deepEqual(
      (await list()).filter((one) => one === 'nobodys' || one.startsWith('.hatch-file')),
      [],
    );
  });

  test(`${name}: what is not there, is a folder, or has none is said, and folders are made when told`, async () => {
    const { details } = await refused('not_found', get('nothing'));
    assert.match(String(details['path']), /\/nothing$/);
    const nowhere = await refused('not_found', put('a/b/c', Buffer.from('deep')));
    assert.match(nowhere.message, /parents=true/);
    await put('a/b/c', Buffer.from('deep'), { parents: true });
    assert.equal((await get('a/b/c')).bytes.toString(), 'deep');
    for (const work of [() => get('a/b'), () => put('a/b', Buffer.from('x'))]) {
      const failed = await refused('invalid_request', work());
      assert.deepEqual([failed.details['field'], failed.details['kind']], ['path', 'folder']);
    }
    const under = await refused('invalid_request', put('a/b/c/d', Buffer.from('x'), { parents: true }));
    assert.match(under.message, /Not a directory/);
  });

  test(`${name}: an upload that breaks off, or is given up, leaves the old file and nothing else`, async () => {
    await put('whole', Buffer.from('old'));
    const { list } = await inGuest();
    const before = await list();
    const breaking = async function* (): AsyncGenerator<Uint8Array> {
      yield randomBytes(PIECE_BYTES + 10);
      throw new Error('it broke off');
    };
    await assert.rejects(put('whole', breaking()), /it broke off/);
    const stop = new AbortController();
    const endless = async function* (): AsyncGenerator<Uint8Array> {
      yield randomBytes(PIECE_BYTES + 10);
      stop.abort(new Error('enough'));
      await new Promise(() => undefined);
    };
    await assert.rejects(put('whole', endless(), {}, stop.signal), /enough/);
    const early = AbortSignal.abort(new Error('too late'));
    await assert.rejects(put('whole', Buffer.from('new'), {}, early), /too late/);
    assert.deepEqual((await list()).toSorted(), before.toSorted());
    assert.equal((await get('whole')).bytes.toString(), 'old');
  });

  test(`${name}: several at once do not mix, and the guest answers others in between`, async () => {
    const { agent } = await inGuest();
    const all = [0, 1, 2].map((i) => ({ file: `many-${i}`, bytes: randomBytes(PIECE_BYTES + i) }));
    let answered = 0;
    const writing = Promise.all(all.map(({ file, bytes }) => put(file, bytes)));
    const over = writing.then(() => true);
    do {
      await agent.ping(AbortSignal.timeout(mostMs));
      answered++;
      // One in memory answers before anything else comes to its turn.
      await new Promise((resolve) => setImmediate(resolve));
    } while (!(await Promise.race([over, Promise.resolve(false)])));
    assert.ok(answered > 3, `${answered} answers meanwhile`);
    const found = await Promise.all(all.map(({ file }) => get(file)));
    for (const [i, { bytes, file }] of all.entries()) {
      assert.ok(found[i]?.bytes.equals(bytes), file);
      await put(file, Buffer.alloc(0));
    }
  });

  test(`${name}: a file nobody reads on costs nothing once it is let go`, async () => {
    const { agent, folder } = await inGuest();
    await put('long', randomBytes(3 * PIECE_BYTES));
    const signal = AbortSignal.timeout(mostMs);
    const { content } = await readGuestFile({ guest: { agent } }, `${folder}/long`, signal);
    for await (const piece of content) {
      assert.ok(Buffer.isBuffer(piece));
      break;
    }
    assert.ok(content.destroyed);
    await agent.ping(signal);
  });
}
