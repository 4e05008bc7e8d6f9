import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MachineExit } from '../driver.ts';
import { exitReason, OUT_OF_MEMORY, type Ending } from './exit-reason.ts';

const NOTHING: Ending = {
  killed: false,
  shutdown: null,
  exitCode: null,
  signal: null,
  outOfMemory: false,
  console: '',
  output: '',
};
const POWEROFF = '\r\nhatch-shutdown: poweroff\r\n[   40.1] reboot: Power down\r\n';
const REBOOT = '\r\nhatch-shutdown: reboot\r\n[   40.1] reboot: Restarting system\r\n';
const PANIC =
  '[   27.9] Kernel panic - not syncing: Fatal exception\r\n[   27.9] ---[ end Kernel panic ]---\r\n';
const poweroff: MachineExit = { kind: 'poweroff' };
const reboot: MachineExit = { kind: 'reboot' };

const table: readonly [string, Partial<Ending>, MachineExit][] = [
  [
    'one the kernel ended for its memory',
    { signal: 'SIGKILL', outOfMemory: true, output: 'the last it said' },
    { kind: 'crashed', exitCode: null, signal: 'SIGKILL', message: OUT_OF_MEMORY },
  ],
  // The guest's own word: QEMU, run with -no-reboot, says guest-shutdown or guest-reset for whatever ends it.
  ['a poweroff', { shutdown: 'guest-shutdown', exitCode: 0, console: POWEROFF }, poweroff],
  ['a reboot', { shutdown: 'guest-reset', exitCode: 0, console: REBOOT }, reboot],
  ['a poweroff by way of a reset', { shutdown: 'guest-reset', exitCode: 0, console: POWEROFF }, poweroff],
  ['a reboot by way of a shutdown', { shutdown: 'guest-shutdown', exitCode: 0, console: REBOOT }, reboot],
  [
    'the last word of several',
    { shutdown: 'guest-reset', exitCode: 0, console: REBOOT + POWEROFF },
    poweroff,
  ],
  [
    'a panic that resets',
    { shutdown: 'guest-reset', exitCode: 0, console: PANIC },
    { kind: 'panic', console: PANIC },
  ],
  [
    'a panic after the hook has spoken',
    { shutdown: 'guest-reset', exitCode: 0, console: POWEROFF + PANIC },
    { kind: 'panic', console: POWEROFF + PANIC },
  ],
  [
    'a panic that was survived',
    { shutdown: 'guest-shutdown', exitCode: 0, console: PANIC + POWEROFF },
    poweroff,
  ],
  ['a panic QEMU was told of', { shutdown: 'guest-panic', exitCode: 0 }, { kind: 'panic', console: '' }],
  // Images without the hook.
  ['a poweroff without a word', { shutdown: 'guest-shutdown', exitCode: 0, console: 'login: ' }, poweroff],
  ['a reboot without a word', { shutdown: 'guest-reset', exitCode: 0, console: 'login: ' }, reboot],
  // Adopted: no exit code, and perhaps no event.
  ['an adopted poweroff', { shutdown: 'guest-shutdown', console: POWEROFF }, poweroff],
  ['an adopted poweroff nobody heard of', { console: POWEROFF }, poweroff],
  ['an adopted reboot nobody heard of', { console: REBOOT }, reboot],
  ['an adopted panic nobody heard of', { console: PANIC }, { kind: 'panic', console: PANIC }],
  [
    'an adopted end nobody knows of',
    { console: 'login: ' },
    { kind: 'crashed', exitCode: null, signal: null, message: '' },
  ],
  // Ours to answer for.
  ['a kill', { killed: true, signal: 'SIGKILL', console: POWEROFF }, { kind: 'killed' }],
  [
    'a kill that came after the end',
    { killed: true, shutdown: 'guest-shutdown', exitCode: 0 },
    { kind: 'killed' },
  ],
  // Crashes, which no word of before the end makes into anything else.
  [
    'a crash',
    { exitCode: 1, output: 'a warning\nqemu-system-x86_64: a fault\n' },
    { kind: 'crashed', exitCode: 1, signal: null, message: 'qemu-system-x86_64: a fault' },
  ],
  [
    'a kill by somebody else',
    { signal: 'SIGKILL', console: POWEROFF },
    { kind: 'crashed', exitCode: null, signal: 'SIGKILL', message: '' },
  ],
  [
    'an end by SIGTERM, which QEMU takes for an order',
    { shutdown: 'host-signal', exitCode: 0, output: 'qemu: terminating on signal 15 from pid 1 (init)' },
    {
      kind: 'crashed',
      exitCode: 0,
      signal: null,
      message: 'qemu: terminating on signal 15 from pid 1 (init)',
    },
  ],
  [
    'memory there was no room for',
    { signal: 'SIGBUS' },
    {
      kind: 'crashed',
      exitCode: null,
      signal: 'SIGBUS',
      message: "the host's disk had no room for the guest's memory",
    },
  ],
];

for (const [what, seen, exit] of table) {
  test(`${what} is told from what was seen of it`, () => {
    assert.deepEqual(exitReason({ ...NOTHING, ...seen }), exit);
  });
}

test('a panic keeps the end of a long console', () => {
  const exit = exitReason({ ...NOTHING, console: `${'x'.repeat(10_000)}${PANIC}` });
  assert.equal(exit.kind, 'panic');
  assert.equal(exit.console.length, 4000);
  assert(exit.console.endsWith(PANIC));
});
