import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { FileChange, FileEntry, FileFacts } from '../../contract/saved-file.ts';
import { showDiff, showFiles, writeContent } from './show-files.ts';

const facts: FileFacts = {
  kind: 'file',
  size_bytes: 1536,
  mode: '0644',
  uid: 0,
  gid: 0,
  modified_at: '2026-03-06T10:30:00.250Z',
};
const file = (name: string, more: Partial<FileEntry> = {}): FileEntry => ({ name, ...facts, ...more });

test('files are a table sorted by name, as people know it from ls', () => {
  const table = showFiles([
    file('web', { kind: 'folder', mode: '1777', uid: 33, gid: 33 }),
    file('link', { kind: 'link', mode: '0777', target: '/etc/hosts' }),
    file('su', { mode: '4755', size_bytes: 20 }),
    file('caf\ufffd', { name_base64: 'Y2Fm6Q==' }),
    file('null', { kind: 'other', mode: '2664', size_bytes: 0 }),
  ]);
  assert.equal(
    table,
    [
      'MODE         OWNER   SIZE   MODIFIED              NAME',
      '-rw-r--r--   0:0     1.5K   2026-03-06 10:30:00   caf\ufffd (base64 Y2Fm6Q==)',
      'lrwxrwxrwx   0:0     -      2026-03-06 10:30:00   link -> /etc/hosts',
      '?rw-rwSr--   0:0     -      2026-03-06 10:30:00   null',
      '-rwsr-xr-x   0:0     20B    2026-03-06 10:30:00   su',
      'drwxrwxrwt   33:33   -      2026-03-06 10:30:00   web/',
    ].join('\n'),
  );
  assert.equal(showFiles([]), 'The folder is empty.');
});

const change = (path: string, more: Partial<FileChange>): FileChange => ({
  path,
  change: 'changed',
  differences: [],
  before: facts,
  after: facts,
  ...more,
});

test('a comparison is a line for each file, with in what it changed', () => {
  const shown = showDiff({
    changes: [
      { path: '/new', change: 'added', differences: [], after: { ...facts, kind: 'folder' } },
      { path: '/old', change: 'removed', differences: [], before: facts },
      change('/a', { differences: ['content', 'size'], after: { ...facts, size_bytes: 3 * 1024 ** 2 } }),
      change('/b', { differences: ['mode', 'owner'], after: { ...facts, mode: '0600', uid: 1000 } }),
      change('/c', { differences: ['kind'], after: { ...facts, kind: 'link', target: 'x' } }),
      change('/d', { differences: ['unread'] }),
      change('/e', { differences: ['times'] }),
      change('/f', {
        differences: ['content'],
        before: { ...facts, kind: 'link', target: 'x' },
        after: { ...facts, kind: 'link', target: 'y' },
      }),
    ],
    truncated: true,
  });
  assert.equal(
    shown,
    [
      '+ /new/',
      '- /old',
      '~ /a   content, 1.5K -> 3M',
      '~ /b   mode 0644 -> 0600, owner 0:0 -> 1000:0',
      '~ /c   file -> link',
      '~ /d   maybe content (not compared)',
      '~ /e   times',
      '~ /f   x -> y',
      'There are more. Look at a part: --path /folder, or raise --limit.',
    ].join('\n'),
  );
  assert.equal(showDiff({ changes: [], truncated: false }), 'Nothing changed.');
});

test('what a guest named its files does not move the cursor', () => {
  const evil = 'a\x1b[2J\nb\u009b';
  assert(!/[\x1b\u009b]/.test(showFiles([file(evil, { target: evil })])));
  const shown = showDiff({ changes: [change(evil, { differences: ['times'] })], truncated: false });
  assert.equal(shown, '~ a [2J b    times');
});

const content = async function* (): AsyncGenerator<Uint8Array> {
  yield Buffer.from([0x63, 0x61, 0x66, 0xc3]);
  yield Buffer.from([0xa9, 0x1b, 0x0a, 0xff]);
};
async function written(stdout: boolean): Promise<{ readonly text: string; readonly bytes: Buffer }> {
  let text = '';
  const bytes: Uint8Array[] = [];
  await writeContent(
    {
      out: (piece) => (text += piece),
      outBytes: async (piece) => void bytes.push(piece),
      terminal: { stdin: false, stdout, stderr: false },
    },
    content(),
  );
  return { text, bytes: Buffer.concat(bytes) };
}

test('a content is written byte by byte to a program, and as harmless text to a terminal', async () => {
  assert.deepEqual(await written(false), { text: '', bytes: Buffer.from('caf\xc3\xa9\x1b\n\xff', 'latin1') });
  assert.deepEqual(await written(true), { text: 'café \n\ufffd', bytes: Buffer.alloc(0) });
});
