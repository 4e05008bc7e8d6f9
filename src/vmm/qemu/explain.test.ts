import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DeadlineExceeded } from '../../base/deadline.ts';
import { CommandFailed } from '../../host/run.ts';
import { VmmError } from '../driver.ts';
import { explainStart } from './explain.ts';

const gone = new VmmError('QEMU ended the connection');
const said = (output: string, signal: string | null = null) => ({ output, signal });
const words =
  "qemu-system-x86_64: -drive if=none,id=disk0,file=disk.raw: Could not open 'disk.raw': No such file";

test("QEMU's own last words say why it did not come up, without its name", () => {
  const error = explainStart(gone, 'qemu', said(`a warning\n${words}\n`));
  assert.equal(error.kind, 'failed');
  assert.equal(error.message, words.replace('qemu-system-x86_64: ', ''));
  assert.match(error.output, /^a warning\n/);
  assert.equal(error.cause, gone);
});

test('where QEMU said nothing the error speaks', () => {
  assert.equal(explainStart(gone, 'qemu', said('')).message, gone.message);
  assert.equal(explainStart(new Error('odd'), 'qemu', said(' \n')).message, 'odd');
});

test('a full disk is told apart, whoever noticed', () => {
  const full = Object.assign(new Error('write ENOSPC'), { code: 'ENOSPC' });
  assert.equal(explainStart(full, 'qemu', said('')).kind, 'no_space');
  assert.equal(
    explainStart(gone, 'qemu', said('qemu: cannot write: No space left on device')).kind,
    'no_space',
  );
});

test('a QEMU that is not there is missing, and what to install is said', () => {
  const missing = new CommandFailed(['qemu'], 'is not installed', { missing: true });
  const error = explainStart(missing, '/opt/qemu', said(''));
  assert.equal(error.kind, 'missing');
  assert.match(error.message, /\/opt\/qemu.*qemu-system-x86/);
});

test('one that takes too long is a timeout, whatever it had said before', () => {
  const error = explainStart(
    new DeadlineExceeded('the start of QEMU', 60_000),
    'qemu',
    said('qemu: warning: odd'),
  );
  assert.equal(error.kind, 'timeout');
  assert.match(error.message, /60000 ms/);
});

test('what has a kind of its own keeps it', () => {
  const misfit = new VmmError('it does not fit', { kind: 'incompatible' });
  assert.equal(explainStart(misfit, 'qemu', said(words)), misfit);
});

test('memory the disk had no room for is no room', () => {
  const error = explainStart(gone, 'qemu', said('', 'SIGBUS'));
  assert.equal(error.kind, 'no_space');
  assert.match(error.message, /no room for the guest's memory/);
});
