import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { readJailOptions, type JailOptions } from './jail-options.ts';
import { JailerRefused } from './jail-refused.ts';

/** A place with a program, a base for jails, and cgroup hierarchies of plain folders. */
class Place implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'fcd-'));
  readonly mounts = join(this.folder, 'mounts');
  readonly unified = join(this.folder, 'unified');

  constructor() {
    writeFileSync(join(this.folder, 'firecracker'), '#!/bin/sh\n', { mode: 0o755 });
    mkdirSync(join(this.folder, 'jails'));
    mkdirSync(this.unified);
    writeFileSync(join(this.unified, 'cgroup.controllers'), 'cpu memory pids\n');
    writeFileSync(join(this.unified, 'cgroup.subtree_control'), '');
    writeFileSync(
      this.mounts,
      `cgroup2 ${this.unified} cgroup2 rw,nosuid,relatime 0 0\ncgroup ${this.folder}/v1 cgroup rw,cpu,cpuacct 0 0\n`,
    );
  }

  args(given: Readonly<Record<string, string | readonly string[] | null>> = {}): readonly string[] {
    const all = {
      id: 'vm-1',
      'exec-file': join(this.folder, 'firecracker'),
      uid: '1001',
      gid: '1002',
      'chroot-base-dir': join(this.folder, 'jails'),
      ...given,
    };
    return Object.entries(all).flatMap(([name, value]) =>
      value === null ? [] : [value].flat().flatMap((one) => [`--${name}`, one]),
    );
  }

  read(given: Parameters<Place['args']>[0] = {}, ...more: readonly string[]): JailOptions {
    const found = readJailOptions([...this.args(given), ...more], { procMounts: this.mounts, pid: 4242 });
    if (typeof found === 'string') throw new Error(found);
    return found;
  }

  refusal(given: Parameters<Place['args']>[0], ...more: readonly string[]): string {
    try {
      this.read(given, ...more);
    } catch (error) {
      if (error instanceof JailerRefused) return error.message;
      throw error;
    }
    return 'none';
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true });
  }
}

test('a jail is named by its program and its id', () => {
  using place = new Place();
  const { cgroups, ...options } = place.read({}, '--', '--api-sock', 'fc.sock', '--id', 'ignored');
  assert.equal(cgroups, null);
  assert.deepEqual(options, {
    id: 'vm-1',
    execFile: join(place.folder, 'firecracker'),
    execName: 'firecracker',
    root: join(place.folder, 'jails/firecracker/vm-1/root'),
    uid: 1001,
    gid: 1002,
    netns: null,
    fileBytes: null,
    files: 2048,
    extra: ['--api-sock', 'fc.sock', '--id', 'ignored'],
  });
});

test('what must be given, and what it must be, is said in the sentences of the jailer', () => {
  using place = new Place();
  const none = join(place.folder, 'none');
  for (const [given, wanted] of [
    [{ id: null }, "Failed to parse arguments: Argument 'id' required, but not found."],
    [{ 'exec-file': null }, "Failed to parse arguments: Argument 'exec-file' required, but not found."],
    [{ uid: null }, "Failed to parse arguments: Argument 'uid' required, but not found."],
    [{ gid: null }, "Failed to parse arguments: Argument 'gid' required, but not found."],
    [{ id: 'vm_1' }, 'Invalid instance ID: Invalid char (_) at position 2'],
    [{ 'exec-file': none }, `Failed to canonicalize path ${none}: No such file or directory (os error 2)`],
    [{ 'exec-file': place.folder }, `${place.folder} is not a file`],
    [
      { 'chroot-base-dir': none },
      `Failed to canonicalize path ${none}: No such file or directory (os error 2)`,
    ],
    [{ 'chroot-base-dir': place.mounts }, `${place.mounts} is not a directory`],
    [{ uid: 'root' }, 'Invalid uid: root'],
    [{ uid: '4294967296' }, 'Invalid uid: 4294967296'],
    [{ gid: '-1' }, 'Invalid gid: -1'],
    [
      { nonsense: 'x' },
      "Failed to parse arguments: Found argument 'nonsense' which wasn't expected, or isn't valid in this context.",
    ],
  ] as const)
    assert.equal(place.refusal(given), wanted);
  assert.equal(place.refusal({}, '--daemonize'), 'the double does not play --daemonize');
});

test('limits are numbers of what is known', () => {
  using place = new Place();
  const { fileBytes, files } = place.read({ 'resource-limit': ['fsize=1000', 'no-file=512'] });
  assert.deepEqual([fileBytes, files], [1000, 512]);
  for (const [limit, wanted] of [
    ['fsize', 'Invalid format for resources limits: fsize'],
    ['fsize=much', 'Invalid limit value for resource: much: invalid digit found in string'],
    ['nproc=1', 'Invalid resource argument: nproc'],
  ] as const)
    assert.equal(place.refusal({ 'resource-limit': limit }), wanted);
});

test('cgroups are checked before anything is made', () => {
  using place = new Place();
  const version = { 'cgroup-version': '2' };
  for (const [given, wanted] of [
    [{ ...version, cgroup: 'memory.max' }, 'Invalid format for cgroups: memory.max'],
    [{ ...version, cgroup: 'memory.max=' }, 'Invalid format for cgroups: memory.max='],
    [{ ...version, cgroup: 'io.max=8:0 rbps=1' }, 'Invalid format for cgroups: io.max=8:0 rbps=1'],
    [{ ...version, cgroup: '../memory.max=1' }, 'Cgroup invalid file: ../memory.max=1'],
    [{ ...version, cgroup: '/memory.max=1' }, 'Cgroup invalid file: /memory.max=1'],
    [{ ...version, cgroup: 'memory=1' }, 'Cgroup invalid file: memory'],
    [{ ...version, cgroup: 'io.weight=1' }, 'Controller io is unavailable'],
    [{ cgroup: 'memory.limit_in_bytes=1' }, 'Controller memory is unavailable'],
    [{ 'cgroup-version': 'two' }, 'two is an invalid cgroup version specifier'],
    [
      { 'parent-cgroup': '/hatch' },
      "Parent cgroup path is invalid. Path should not be absolute or contain '..' or '.'",
    ],
    [
      { 'parent-cgroup': 'a/../b' },
      "Parent cgroup path is invalid. Path should not be absolute or contain '..' or '.'",
    ],
  ] as const)
    assert.equal(place.refusal(given), wanted, JSON.stringify(given));
  writeFileSync(place.mounts, '');
  assert.equal(
    place.refusal({ ...version, cgroup: 'memory.max=1' }),
    'Hierarchy not found: No hierarchy found for this cgroup version.',
  );
});

test('a group of version 2 is made below its parent, its controllers handed down, its limits written, the process put in', () => {
  using place = new Place();
  const parent = join(place.unified, 'hatch');
  mkdirSync(parent);
  writeFileSync(join(parent, 'cgroup.subtree_control'), '');
  const { cgroups } = place.read({
    'cgroup-version': '2',
    'parent-cgroup': 'hatch',
    cgroup: ['memory.max=1048576', 'memory.swap.max=0', 'cpu.max=50000 100000', 'pids.max=64'],
  });
  cgroups?.enter(4242);
  const text = (path: string): string => readFileSync(join(place.unified, path), 'utf8');
  for (const [path, wanted] of [
    ['hatch/vm-1/memory.max', '1048576\n'],
    ['hatch/vm-1/memory.swap.max', '0\n'],
    ['hatch/vm-1/cpu.max', '50000 100000\n'],
    ['hatch/vm-1/pids.max', '64\n'],
    ['hatch/vm-1/cgroup.procs', '4242\n'],
    // The last of what was written to a file that is plain here.
    ['hatch/cgroup.subtree_control', '+pids\n'],
    ['cgroup.subtree_control', '+pids\n'],
  ] as const)
    assert.equal(text(path), wanted, path);
});

test('without any limit the process goes into the parent group, where that is', () => {
  using place = new Place();
  place.read({ 'cgroup-version': '2', 'parent-cgroup': 'hatch' });
  mkdirSync(join(place.unified, 'hatch'));
  place.read({ 'cgroup-version': '2', 'parent-cgroup': 'hatch' });
  assert.equal(readFileSync(join(place.unified, 'hatch/cgroup.procs'), 'utf8'), '4242');
});

test('a group of version 1 is made by controller', () => {
  using place = new Place();
  mkdirSync(join(place.folder, 'v1'));
  place.read({ cgroup: 'cpu.shares=512' }).cgroups?.enter(4242);
  const group = join(place.folder, 'v1/firecracker/vm-1');
  assert.equal(readFileSync(join(group, 'cpu.shares'), 'utf8'), '512\n');
  assert.equal(readFileSync(join(group, 'tasks'), 'utf8'), '4242\n');
});

test('with --help and --version nothing is looked at', () => {
  const from = { procMounts: '/none', pid: 1 };
  assert.equal(readJailOptions(['--version'], from), 'version');
  assert.equal(readJailOptions(['--help', '--nonsense'], from), 'help');
});
