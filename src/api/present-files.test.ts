import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Compile } from 'typebox/compile';
import {
  FileChange,
  FileContentQuery,
  FileEntry,
  FileListQuery,
  SnapshotDiffQuery,
} from '../contract/saved-file.ts';
import { Failure } from '../model/failure.ts';
import { askedPath, fileName, firstOf, type FileFacts } from '../model/saved-files.ts';
import { presentChange, presentFile } from './present-files.ts';

const facts: FileFacts = {
  kind: 'file',
  sizeBytes: 2 ** 41,
  mode: 0o4755,
  uid: 4_294_967_294,
  gid: 0,
  modifiedAt: Date.UTC(2026, 2, 6, 10, 30),
  target: null,
};
const odd = Buffer.from('caf\xe9', 'latin1');

test('a file fits its schema, and a name that is no text has its bytes beside it', () => {
  const shown = presentFile({ name: fileName(odd), ...facts });
  assert.deepEqual(Compile(FileEntry).Errors(shown), []);
  assert.deepEqual(shown, {
    name: 'caf\ufffd',
    name_base64: 'Y2Fm6Q==',
    kind: 'file',
    size_bytes: 2 ** 41,
    mode: '4755',
    uid: 4_294_967_294,
    gid: 0,
    modified_at: '2026-03-06T10:30:00Z',
  });
});

test('a text that has the sign for no text in it, or a byte order mark, is whole', () => {
  for (const text of ['\ufffd', '\ufeffa', 'é', '日本'])
    assert.deepEqual(fileName(Buffer.from(text)), { text, bytes: null });
});

test('links, and times before 1970 and after 2038, fit the schema', () => {
  for (const modifiedAt of [-(2 ** 31) * 1000, 15_032_385_535_999]) {
    const target = fileName(Buffer.concat([Buffer.from('/etc/'), odd]));
    const shown = presentFile({ name: fileName(odd), ...facts, kind: 'link', mode: 0, modifiedAt, target });
    assert.deepEqual(Compile(FileEntry).Errors(shown), []);
    assert.equal(shown.target_base64, 'L2V0Yy9jYWbp');
    assert.equal(shown.mode, '0000');
  }
});

test('a change has what the file was and is, where it was and is', () => {
  const path = fileName(Buffer.from('/a'));
  const added = presentChange({ path, change: 'added', differences: [], before: null, after: facts });
  assert.deepEqual(Compile(FileChange).Errors(added), []);
  assert(!('before' in added) && added.after?.mode === '4755');
  const removed = presentChange({ path, change: 'removed', differences: [], before: facts, after: null });
  assert.deepEqual(Compile(FileChange).Errors(removed), []);
  assert(!('after' in removed) && removed.path === '/a');
});

test('a query takes a path of text or of bytes, and not both', () => {
  for (const schema of [FileListQuery, FileContentQuery, SnapshotDiffQuery]) {
    const takes = (query: unknown): boolean => Compile(schema).Check(query);
    assert(takes({ path: '/a' }) && takes({ path_base64: 'L2Fm6Q==' }));
    for (const bad of [
      { path: 'a' },
      { path: '/a\0' },
      { path_base64: 'L2Fm6Q' },
      { path_base64: '?' },
      { nonsense: 1 },
    ])
      assert(!takes(bad), JSON.stringify(bad));
  }
  assert.equal(askedPath({ path: '/a' }, '/'), '/a');
  assert.equal(askedPath({}, '/'), '/');
  assert.deepEqual(askedPath({ path_base64: 'L2Fm6Q==' }), Buffer.from('/af\xe9', 'latin1'));
  for (const bad of [{}, { path: '/a', path_base64: 'L2E=' }]) {
    assert.throws(
      () => askedPath(bad),
      (error) => error instanceof Failure && error.details['field'] === 'path',
    );
  }
});

test('of a long list the first are taken, and the rest is let go of', async () => {
  let ended = false;
  const endless = async function* (): AsyncGenerator<number> {
    try {
      for (let i = 0; ; i++) yield i;
    } finally {
      ended = true;
    }
  };
  assert.deepEqual(await firstOf(endless(), 3), { first: [0, 1, 2], more: true });
  assert(ended);
  const three = async function* (): AsyncGenerator<number> {
    yield* [0, 1, 2];
  };
  assert.deepEqual(await firstOf(three(), 3), { first: [0, 1, 2], more: false });
});
