import assert from 'node:assert/strict';
import { test } from 'node:test';
import { VmmError } from '../driver.ts';
import { topFile } from './block-name.ts';

test('a disk is the file QEMU names', () => {
  assert.equal(topFile('disk.qcow2'), 'disk.qcow2');
});

test('a disk with an overlay made while the guest ran is the overlay', () => {
  // As QEMU 7.2 says it after two of them.
  const said =
    'json:{"backing": {"backing": {"driver": "qcow2", "file": {"driver": "file", "filename": "disk.qcow2"}}, "driver": "qcow2", "file": {"driver": "file", "filename": "disk-0.qcow2"}}, "driver": "qcow2", "file": {"driver": "file", "filename": "disk-1.qcow2"}}';
  assert.equal(topFile(said), 'disk-1.qcow2');
});

test('a disk that is no file is refused', () => {
  for (const said of ['json:{}', 'json:{"file": {}}', 'json:{"file": "x"}', 'json:[]', 'json:null'])
    assert.throws(() => topFile(said), VmmError, said);
});
