import { realpathSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { ArgumentError, Arguments, wrongId, type ArgumentSpec } from './arguments.ts';
import { JailCgroups, leaves } from './jail-cgroup.ts';
import { JailerRefused } from './jail-refused.ts';
import { osError } from './musl.ts';

const OPTIONS: Readonly<Record<string, ArgumentSpec>> = {
  id: { takes: 'value', required: true },
  'exec-file': { takes: 'value', required: true },
  uid: { takes: 'value', required: true },
  gid: { takes: 'value', required: true },
  'chroot-base-dir': { takes: 'value' },
  netns: { takes: 'value' },
  daemonize: { takes: 'nothing' },
  'new-pid-ns': { takes: 'nothing' },
  cgroup: { takes: 'values' },
  'resource-limit': { takes: 'values' },
  'cgroup-version': { takes: 'value' },
  'parent-cgroup': { takes: 'value' },
  version: { takes: 'nothing' },
};

const MOST_FILES = 2048;

/** A jail to be. */
export interface JailOptions {
  readonly id: string;
  /** Links followed. */
  readonly execFile: string;
  readonly execName: string;
  /** `<base>/<exec name>/<id>/root` */
  readonly root: string;
  readonly uid: number;
  readonly gid: number;
  readonly netns: string | null;
  readonly cgroups: JailCgroups | null;
  readonly fileBytes: number | null;
  readonly files: number;
  /** For the program in the jail. */
  readonly extra: readonly string[];
}

/**
 * Reads the jailer's command line and looks at what it names, in the jailer's order (src/jailer/src/env.rs, Env::new). Throws
 * JailerRefused; gives a word for --help and --version.
 */
export function readJailOptions(
  argv: readonly string[],
  { procMounts, pid }: { readonly procMounts: string; readonly pid: number },
): JailOptions | 'help' | 'version' {
  let args: Arguments;
  try {
    args = new Arguments(argv, OPTIONS);
  } catch (error) {
    if (!(error instanceof ArgumentError)) throw error;
    throw new JailerRefused(`ArgumentParsing(${error.debug})`, `Failed to parse arguments: ${error.message}`);
  }
  if (args.has('help')) return 'help';
  if (args.has('version')) return 'version';
  for (const unplayed of ['daemonize', 'new-pid-ns']) {
    // Both give the program another pid than the one that was started, which Hatch's driver has no use for.
    if (args.has(unplayed)) throw new JailerRefused('Unplayed', `the double does not play --${unplayed}`);
  }
  const id = args.value('id') ?? '';
  const wrong = wrongId(id);
  if (wrong)
    throw new JailerRefused(`InvalidInstanceId(${wrong.debug})`, `Invalid instance ID: ${wrong.display}`);
  const execFile = canonical(args.value('exec-file') ?? '');
  if (!statSync(execFile).isFile()) throw new JailerRefused('NotAFile', `${execFile} is not a file`);
  const base = canonical(args.value('chroot-base-dir') ?? '/srv/jailer');
  if (!statSync(base).isDirectory()) throw new JailerRefused('NotADirectory', `${base} is not a directory`);
  const execName = basename(execFile);
  const uid = idNumber(args.value('uid') ?? '', 'uid');
  const gid = idNumber(args.value('gid') ?? '', 'gid');
  return {
    id,
    execFile,
    execName,
    root: join(base, execName, id, 'root'),
    uid,
    gid,
    netns: args.value('netns') ?? null,
    cgroups: cgroupsOf(args, execName, id, procMounts, pid),
    ...limitsOf(args.values('resource-limit')),
    extra: args.extra,
  };
}

function canonical(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    throw new JailerRefused('Canonicalize', `Failed to canonicalize path ${path}: ${osError(error)}`);
  }
}

function idNumber(text: string, what: 'uid' | 'gid'): number {
  if (!/^\+?\d+$/.test(text) || Number(text) > 2 ** 32 - 1)
    throw new JailerRefused(what === 'uid' ? 'Uid' : 'Gid', `Invalid ${what}: ${text}`);
  return Number(text);
}

function cgroupsOf(
  args: Arguments,
  execName: string,
  id: string,
  procMounts: string,
  pid: number,
): JailCgroups | null {
  const parent = args.value('parent-cgroup') ?? execName;
  if (leaves(parent))
    throw new JailerRefused(
      'CgroupInvalidParentPath',
      "Parent cgroup path is invalid. Path should not be absolute or contain '..' or '.'",
    );
  const version = args.value('cgroup-version') ?? '1';
  if (!/^\+?\d+$/.test(version) || Number(version) > 255)
    throw new JailerRefused('CgroupInvalidVersion', `${version} is an invalid cgroup version specifier`);
  const wanted = args.values('cgroup');
  if (wanted.length === 0) {
    if (Number(version) === 2) new JailCgroups(2, procMounts).enterParent(parent, pid);
    return null;
  }
  const cgroups = new JailCgroups(Number(version), procMounts);
  for (const one of wanted) cgroups.add(one, parent, id);
  return cgroups;
}

function limitsOf(given: readonly string[]): Pick<JailOptions, 'fileBytes' | 'files'> {
  let limits: Pick<JailOptions, 'fileBytes' | 'files'> = { fileBytes: null, files: MOST_FILES };
  for (const one of given) {
    const at = one.indexOf('=');
    if (at === -1) throw new JailerRefused('ResLimitFormat', `Invalid format for resources limits: ${one}`);
    const [name, value] = [one.slice(0, at), one.slice(at + 1)];
    if (!/^\+?\d+$/.test(value))
      throw new JailerRefused(
        'ResLimitValue',
        `Invalid limit value for resource: ${value}: ${value === '' ? 'cannot parse integer from empty string' : 'invalid digit found in string'}`,
      );
    if (name === 'fsize') limits = { ...limits, fileBytes: Number(value) };
    else if (name === 'no-file') limits = { ...limits, files: Number(value) };
    else throw new JailerRefused('ResLimitArgument', `Invalid resource argument: ${name}`);
  }
  return limits;
}
