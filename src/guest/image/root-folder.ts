import { chmod, cp, mkdir, readdir, readFile, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { exists, readIfThere } from '../../host/files.ts';
import type { Run } from '../../host/run.ts';
import { Failure } from '../../model/failure.ts';
import { buildSources, debianMirrors, transportOptions, type DebianMirrors } from './apt-sources.ts';
import { KEYRING } from './debian-packages.ts';
import { guestSources, type Recipe } from './recipe.ts';

export interface RootRequest {
  readonly recipe: Recipe;
  readonly mirrors: DebianMirrors;
  /** The folder that `root` and `kernel` are made in. */
  readonly temporary: string;
  readonly signal: AbortSignal;
  readonly proxyEnv?: Readonly<Record<string, string>>;
  /** The keys Debian signs with; the package's unless told. */
  readonly keyring?: string;
}

/** The mirrors this machine's apt uses; `/etc/apt` unless told. */
export async function readMirrors(aptFolder = '/etc/apt'): Promise<DebianMirrors> {
  const parts = await names(join(aptFolder, 'sources.list.d'));
  const paths = ['sources.list', ...parts.map((name) => `sources.list.d/${name}`)].filter((name) =>
    /\.(list|sources)$/.test(name),
  );
  const files = await Promise.all(
    paths.map(async (name) => ({ name, text: (await readIfThere(join(aptFolder, name))) ?? '' })),
  );
  return debianMirrors(files);
}

/**
 * Fetches the packages and unpacks them with mmdebstrap(1) into `root`, and the kernel's files into `kernel`. The kernel is
 * fetched by the same apt in a hook, since mmdebstrap clears away what apt knows when it ends.
 */
export async function makeRoot(
  { run, step }: { readonly run: Run; readonly step: (phase: string, done: number, detail?: string) => void },
  { recipe, mirrors, temporary, signal, proxyEnv = {}, keyring = KEYRING.path }: RootRequest,
): Promise<{ readonly root: string; readonly kernel: string }> {
  if (!(await exists(keyring)))
    throw new Failure(
      'unavailable',
      `This machine has no keys to check Debian's packages with; install the package ${KEYRING.name}.`,
      { details: { package: KEYRING.name } },
    );
  const [root, kernel] = [join(temporary, 'root'), join(temporary, 'kernel')];
  await mkdir(kernel, { mode: 0o755 });
  const { stdout } = await run(['apt-config', 'dump'], { timeoutMs: 30_000, signal });
  const seen = new ProgressOfLines(step);
  await run(
    [
      // mmdebstrap mounts /proc, /sys and /dev into the folder. In namespaces of its own these mounts, and whatever a
      // package has started, are gone when it is, even when it is killed (unshare(1)).
      ...(['unshare', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc'] as const),
      ...['mmdebstrap', '--mode=root', '--variant=minbase', '--format=directory'],
      `--architectures=${recipe.architecture}`,
      `--include=${recipe.packages.join(',')}`,
      '--aptopt=APT::Install-Recommends "false"',
      ...transportOptions(stdout).map((option) => `--aptopt=${option}`),
      ...recipe.dpkgOptions.map((option) => `--dpkgopt=${option}`),
      `--customize-hook=${kernelHook(recipe)}`,
      recipe.suite,
      root,
      ...buildSources(mirrors, recipe.suite, keyring),
    ],
    {
      timeoutMs: 45 * 60_000,
      signal,
      // Where the hook unpacks the kernel to; a variable, so that no path is ever part of a program.
      env: { ...proxyEnv, HATCH_KERNEL: kernel, TMPDIR: temporary },
      onLine: (line) => seen.take(line),
    },
  );
  return { root, kernel };
}

function kernelHook({ kernelPackage }: Recipe): string {
  return [
    `APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -y -q --no-install-recommends --download-only install ${kernelPackage}`,
    'for deb in "$1"/var/cache/apt/archives/linux-image-[0-9]*.deb; do dpkg-deb -x "$deb" "$HATCH_KERNEL" || exit 1; done',
  ].join(' && ');
}

/** What mmdebstrap says while it works, and how far that usually is. */
const MILESTONES: readonly (readonly [RegExp, number, string])[] = [
  [/running apt-get update/, 2, 'fetching package lists'],
  [/downloading packages/, 8, 'fetching packages'],
  [/extracting archives/, 15, 'unpacking'],
  [/installing essential/, 18, 'installing the base system'],
  [/installing remaining/, 40, 'installing packages'],
  [/running --customize-hook/, 78, 'fetching the kernel'],
  [/cleaning package lists/, 82, 'cleaning up'],
];

class ProgressOfLines {
  #done = 0;
  readonly #step: (phase: string, done: number, detail?: string) => void;

  constructor(step: (phase: string, done: number, detail?: string) => void) {
    this.#step = step;
  }

  take(line: string): void {
    if (!line.startsWith('I: ')) return;
    const found = MILESTONES.find(([pattern]) => pattern.test(line));
    if (!found || found[1] <= this.#done) return;
    this.#done = found[1];
    this.#step('packages', found[1], found[2]);
  }
}

/** Puts the recipe's own files, folders and links into the root folder, and takes out what a fresh machine must not have. */
export async function furnish(
  { run }: { readonly run: Run },
  it: {
    readonly root: string;
    readonly kernel: string;
    readonly kernelVersion: string;
    readonly recipe: Recipe;
    readonly hash: string;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { root, kernel, kernelVersion, recipe, hash, signal } = it;
  for (const pattern of recipe.removed) await removeMatching(root, pattern);
  const modules = join(root, 'usr/lib/modules');
  await mkdir(modules, { recursive: true });
  await cp(join(kernel, 'lib/modules', kernelVersion), join(modules, kernelVersion), {
    recursive: true,
    preserveTimestamps: true,
    verbatimSymlinks: true,
  });
  await run(['chroot', root, '/sbin/depmod', kernelVersion], { timeoutMs: 120_000, signal });
  await put(
    root,
    `/boot/config-${kernelVersion}`,
    await readFile(join(kernel, 'boot', `config-${kernelVersion}`)),
  );

  const release = `NAME=${recipe.name}\nRECIPE=${hash}\nSUITE=${recipe.suite}\nKERNEL=${kernelVersion}\n`;
  await put(root, '/etc/hatch/image-release', release);
  await put(root, '/etc/apt/sources.list', guestSources(recipe));
  for (const { path, content, executable } of recipe.files)
    await put(root, path, content, executable ? 0o755 : 0o644);
  for (const path of recipe.folders) await mkdir(join(root, path), { recursive: true, mode: 0o755 });
  for (const [path, target] of Object.entries(recipe.links)) {
    await clear(root, path);
    await symlink(target, join(root, path));
  }
  await markUpdated(root);
}

/**
 * Tells systemd that /etc and /var are no older than /usr (ConditionNeedsUpdate, systemd.unit(5)), so that it does not
 * spend the first boot on finding that out.
 */
async function markUpdated(root: string): Promise<void> {
  const now = new Date();
  await utimes(join(root, 'usr'), now, now);
  for (const path of ['/etc/.updated', '/var/.updated']) {
    await put(root, path, '');
    await utimes(join(root, path), now, now);
  }
}

async function put(root: string, path: string, content: string | Uint8Array, mode = 0o644): Promise<void> {
  await clear(root, path);
  await writeFile(join(root, path), content, { mode, flag: 'wx' });
  // The process's umask has had its say in `mode`.
  await chmod(join(root, path), mode);
}

/** Makes room: the folder is there, and at the path nothing, not even a link that would lead out of the root folder. */
async function clear(root: string, path: string): Promise<void> {
  await mkdir(dirname(join(root, path)), { recursive: true, mode: 0o755 });
  await rm(join(root, path), { force: true });
}

async function removeMatching(root: string, pattern: string): Promise<void> {
  const [folder, last] = [join(root, dirname(pattern)), pattern.slice(dirname(pattern).length + 1)];
  const [before = '', after] = last.split('*');
  for (const name of await names(folder)) {
    const fits =
      after === undefined
        ? name === last
        : name.length >= before.length + after.length && name.startsWith(before) && name.endsWith(after);
    if (fits) await rm(join(folder, name), { recursive: true, force: true });
  }
}

/** The packages dpkg has installed in a root folder, with their versions. */
export async function installedPackages(root: string): Promise<Readonly<Record<string, string>>> {
  const status = await readFile(join(root, 'var/lib/dpkg/status'), 'utf8');
  const field = (paragraph: string, name: string): string | undefined =>
    new RegExp(`^${name}: (.*)$`, 'm').exec(paragraph)?.[1];
  const found = status.split('\n\n').flatMap((paragraph) => {
    const [name, version] = [field(paragraph, 'Package'), field(paragraph, 'Version')];
    const installed = field(paragraph, 'Status')?.endsWith(' installed') ?? false;
    return name !== undefined && version !== undefined && installed ? [[name, version] as const] : [];
  });
  return Object.fromEntries(found);
}

async function names(folder: string): Promise<readonly string[]> {
  try {
    return (await readdir(folder)).sort();
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}
