import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exitReason, type Ending } from './exit-reason.ts';

const ended = (what: Partial<Ending>): ReturnType<typeof exitReason> =>
  exitReason({
    killed: false,
    said: null,
    exitCode: 0,
    signal: null,
    outOfMemory: false,
    console: '',
    output: '',
    ...what,
  });

test("the guest's own words come before exit code 0, which a reboot and a panic share", () => {
  assert.equal(ended({ console: 'hatch-shutdown: reboot\n' }).kind, 'reboot');
  assert.equal(ended({ console: '' }).kind, 'reboot');
  assert.equal(ended({ console: 'Kernel panic - not syncing: why\n' }).kind, 'panic');
  assert.equal(
    ended({ console: 'hatch-shutdown: poweroff\n', exitCode: null, said: 'poweroff' }).kind,
    'poweroff',
  );
  // A panic before a clean end was of an earlier boot on the same console.
  assert.equal(ended({ console: 'Kernel panic\nLinux version\nhatch-shutdown: reboot\n' }).kind, 'reboot');
});

test('a daemon that adopted it, and so learns no exit code, goes by the words alone', () => {
  assert.equal(ended({ exitCode: null, console: 'hatch-shutdown: reboot\n' }).kind, 'reboot');
  assert.equal(ended({ exitCode: null, console: 'hatch-shutdown: poweroff\n' }).kind, 'poweroff');
  assert.equal(ended({ exitCode: null, console: 'Kernel panic\n' }).kind, 'panic');
  assert.equal(ended({ exitCode: null, console: '' }).kind, 'crashed');
});

test('killed is killed, whatever was said before', () => {
  assert.equal(ended({ killed: true, exitCode: null, signal: 'SIGKILL' }).kind, 'killed');
  assert.equal(ended({ killed: true, exitCode: null, console: 'Kernel panic\n' }).kind, 'killed');
});

test("Firecracker's exit codes are told in words, with its last line", () => {
  for (const code of [1, 2, 148, 149, 150, 151, 152, 153, 154, 155, 156, 157]) {
    const exit = ended({ exitCode: code, output: 'first\nits last line' });
    assert.equal(exit.kind, 'crashed');
    assert.equal(exit.exitCode, code);
    assert.match(exit.message, /^\w.*; its last line$/, String(code));
  }
  const unknown = ended({ exitCode: 99 });
  assert.deepEqual(unknown, { kind: 'crashed', exitCode: 99, signal: null, message: '' });
  const signalled = ended({ exitCode: null, signal: 'SIGSEGV' });
  assert.equal(signalled.kind === 'crashed' && signalled.signal, 'SIGSEGV');
});

test('one the kernel ended for its memory says so, also when its exit code is not known; what the guest did comes first', () => {
  const starved = { outOfMemory: true, exitCode: null, signal: 'SIGKILL', output: 'last line' } as const;
  const exit = ended(starved);
  assert.equal(exit.kind, 'crashed');
  assert.match(exit.kind === 'crashed' ? exit.message : '', /took more memory than its limit \(memory\.max/);
  assert.equal(ended({ ...starved, signal: null, console: 'hatch-shutdown: reboot\n' }).kind, 'crashed');
  assert.equal(ended({ ...starved, killed: true }).kind, 'killed');
  assert.equal(ended({ ...starved, said: 'poweroff' }).kind, 'poweroff');
});
