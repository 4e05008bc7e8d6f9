import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  fchownSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { JailOptions } from './jail-options.ts';
import { JailerRefused } from './jail-refused.ts';
import { osError } from './musl.ts';

/** What the jailer makes in a jail, done from outside of it: the paths in its sentences are those inside. */

/** Copies the program; an older copy is written over, a link is not followed. Throws JailerRefused. */
export function copyProgram({ execFile, execName, root, uid, gid }: JailOptions): void {
  try {
    mkdirSync(root, { recursive: true });
  } catch (error) {
    throw new JailerRefused('CreateDir', `Failed to create directory ${root}: ${osError(error)}`);
  }
  const copy = join(root, execName);
  let fd: number;
  try {
    const mode = lstatSync(execFile).mode & 0o7777;
    fd = openSync(copy, constants.O_WRONLY | constants.O_CREAT | constants.O_NOFOLLOW, mode);
  } catch (error) {
    throw new JailerRefused('Open', `Failed to open ${copy}: ${osError(error)}`);
  }
  try {
    if (fstatSync(fd).nlink > 1) throw new JailerRefused('HardLink', `Detected hard link at: ${copy}`);
    fchownSync(fd, uid, gid);
    writeSync(fd, readFileSync(execFile));
  } finally {
    closeSync(fd);
  }
}

/** The folders and device nodes of a jail. Throws JailerRefused, also where one was left over of a jail before. */
export function furnish({ root, uid, gid }: JailOptions): void {
  for (const folder of ['/', '/dev', '/dev/net', '/run']) {
    const path = join(root, folder);
    try {
      mkdirSync(path, { recursive: true });
      chmodSync(path, 0o700);
      chownSync(path, uid, gid);
    } catch (error) {
      throw new JailerRefused('CreateDir', `Failed to create directory ${folder}: ${osError(error)}`);
    }
  }
  const nodes: readonly (readonly [string, number, number])[] = [
    ['/dev/net/tun', 10, 200],
    ['/dev/kvm', 10, 232],
    ['/dev/urandom', 1, 9],
    ...userfaultfd(),
  ];
  for (const [path, major, minor] of nodes) {
    try {
      makeNode(root, path, [major, minor]);
      chownSync(join(root, path), uid, gid);
    } catch (error) {
      // Firecracker can do without this one.
      if (path !== '/dev/urandom' || !(error instanceof JailerRefused)) throw error;
      process.stdout.write(
        `Warning! Could not create /dev/urandom device inside jailer: ${error.message}.\n` +
          'MMDS version 2 will not be available to use.\n',
      );
    }
  }
}

function makeNode(root: string, path: string, [major, minor]: readonly [number, number]): void {
  const { status, stderr } = spawnSync(
    '/usr/bin/mknod',
    ['-m', '600', join(root, path), 'c', String(major), String(minor)],
    { encoding: 'utf8', env: { LC_ALL: 'C' } },
  );
  if (status === 0) return;
  const why = /File exists/.test(stderr)
    ? 'File exists (os error 17)'
    : 'Operation not permitted (os error 1)';
  throw new JailerRefused('MknodDev', `Failed to create ${path} via mknod inside the jail: ${why}`);
}

/** Where the host has it: a misc device whose minor number is given out as modules are loaded. */
function userfaultfd(): readonly (readonly [string, number, number])[] {
  const line = readFileSync('/proc/misc', 'utf8')
    .split('\n')
    .find((one) => one.trim().split(/\s+/)[1] === 'userfaultfd');
  return line === undefined ? [] : [['/dev/userfaultfd', 10, Number(line.trim().split(/\s+/)[0])]];
}

/** The file that tells the pid; one that is there is of a jail before. Throws JailerRefused. */
export function writePidFile({ root, execName }: JailOptions, pid: number): void {
  try {
    writeFileSync(join(root, `${execName}.pid`), String(pid), { flag: 'wx' });
  } catch (error) {
    throw new JailerRefused('FileOpen', `Failed to open file /${execName}.pid: ${osError(error)}`);
  }
}

/** Places for what the double needs besides: Firecracker is one static file, Node and its libraries are not. */
export function makeMountPoints({ root }: JailOptions, folders: readonly string[]): void {
  for (const folder of folders) {
    mkdirSync(dirname(join(root, folder)), { recursive: true, mode: 0o755 });
    mkdirSync(join(root, folder), { recursive: true, mode: 0o755 });
  }
}
