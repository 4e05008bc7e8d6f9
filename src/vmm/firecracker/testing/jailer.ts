import { accessSync, constants, existsSync, lstatSync, readlinkSync, symlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { copyProgram, furnish, makeMountPoints, writePidFile } from './jail-folder.ts';
import { readJailOptions, type JailOptions } from './jail-options.ts';
import { JailerRefused } from './jail-refused.ts';
import { readKnobs } from './knobs.ts';
import { osError } from './musl.ts';

/**
 * A stand-in for the program `jailer`, for jails around Firecracker's double: its command line, its checks and their sentences, the chroot
 * with its nodes, modes and owners, cgroups, resource limits, the network namespace, and in the end the program itself with this very
 * pid, as its own user, in a root of its own. It needs root, as the jailer does.
 *
 * Where it differs: the double is no static program, so /usr and the project's folder are mounted read-only into the jail, in
 * a mount namespace that ends with it; empty folders and links for them are left in the jail's folder. The environment is cleared but for
 * FC_DOUBLE_*, and the new root is chroot(2)'s, without pivot_root(2).
 */

/** The project's folder. */
const PROJECT = join(import.meta.dirname, '../../../..');
/** On Debian these are links into /usr. */
const LINKS = ['/bin', '/sbin', '/lib', '/lib64'];

/** In the new mount namespace, with the jail's root, its owner and what to mount before the `--`: mounts, and becomes the program. */
const ENTER = `set -e
root=$1 owner=$2; shift 2
while [ "$1" != -- ]; do /usr/bin/mount -o bind,ro "$1" "$root$1"; shift; done
shift
exec /usr/sbin/chroot --userspec="$owner" --groups= "$root" "$@"`;

function main(): void {
  const knobs = readKnobs(process.env);
  const options = readJailOptions(process.argv.slice(2), {
    procMounts: process.env['FC_DOUBLE_PROC_MOUNTS'] ?? '/proc/mounts',
    pid: process.pid,
  });
  if (options === 'help' || options === 'version') {
    const help =
      options === 'help'
        ? '\nAny arguments after the -- separator will be supplied to the jailed binary.\n'
        : '';
    return void writeSync(1, `Jailer v${knobs.version.text}\n${help}\n`);
  }
  const started = String(Math.floor(performance.timeOrigin * 1000));
  copyProgram(options);
  if (options.netns !== null) mustOpen(options.netns);
  options.cgroups?.enter(process.pid);
  furnish(options);
  writePidFile(options, process.pid);
  become(options, started);
}

function mustOpen(path: string): void {
  try {
    accessSync(path, constants.R_OK);
  } catch (error) {
    throw new JailerRefused('FileOpen', `Failed to open file ${path}: ${osError(error)}`);
  }
}

function become(options: JailOptions, started: string): void {
  const { root, uid, gid, netns, fileBytes, files, id, execName, extra } = options;
  const folders = ['/usr', PROJECT, ...LINKS.filter((path) => existsSync(path) && !isLink(path))];
  makeMountPoints(options, folders);
  for (const path of LINKS.filter(isLink)) {
    if (!existsSync(join(root, path))) symlinkSync(readlinkSync(path), join(root, path));
  }
  const argv = [
    ...(netns === null ? [] : ['/usr/bin/nsenter', `--net=${netns}`, '--']),
    ...['/usr/bin/prlimit', `--nofile=${files}:${files}`],
    ...(fileBytes === null ? [] : [`--fsize=${fileBytes}:${fileBytes}`]),
    ...['--', '/usr/bin/unshare', '--mount', '--propagation', 'slave', '--'],
    ...['/bin/sh', '-c', ENTER, 'jail', root, `+${uid}:+${gid}`, ...folders, '--'],
    ...[`/${execName}`, '--id', id, '--start-time-us', started],
    ...['--start-time-cpu-us', '0', '--parent-cpu-time-us', '0'],
    ...extra,
  ];
  const told = Object.entries(process.env).filter(([name]) => name.startsWith('FC_DOUBLE_'));
  const [program = ''] = argv;
  if (!process.execve) throw new Error('this Node has no execve');
  process.execve(program, argv, { ...Object.fromEntries(told), FC_DOUBLE_ROOT: PROJECT });
}

function isLink(path: string): boolean {
  return existsSync(path) && lstatSync(path).isSymbolicLink();
}

try {
  main();
} catch (error) {
  if (!(error instanceof JailerRefused)) throw error;
  writeSync(2, `${error.message}\nError: ${error.debug}\n`);
  process.exitCode = 1;
}
