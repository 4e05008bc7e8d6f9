import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { isErrno } from '../../base/errno.ts';
import { systemClock, type Clock } from '../../base/clock.ts';
import type { Logger } from '../../base/logger.ts';
import { exists, freeBytes, makeFolder, writeFileAtomic } from '../../host/files.ts';
import type { Run } from '../../host/run.ts';
import { Failure } from '../../model/failure.ts';
import { explainBuild } from './build-failure.ts';
import { withLockFile } from './build-lock.ts';
import { extractVmlinux } from './extract-vmlinux.ts';
import { makeInitrd } from './initrd.ts';
import { IMAGE_FILES, readImage, type BuiltImage, type ImagePart, type Manifest } from './manifest.ts';
import { RECIPE, recipeHash, type Recipe } from './recipe.ts';
import { furnish, installedPackages, makeRoot, readMirrors } from './root-folder.ts';

export type { BuiltImage, Manifest } from './manifest.ts';

/** How far a build is. `done` of `total` are hundredths of what it usually takes. */
export interface BuildProgress {
  readonly phase: string;
  readonly done: number;
  readonly total: number;
  readonly detail?: string;
}

export interface BuildDeps {
  readonly run: Run;
  readonly log: Logger;
  readonly progress: (progress: BuildProgress) => void;
  readonly clock?: Clock;
  /** Whether we may do what only root may; asked of the system unless told. */
  readonly isRoot?: () => boolean;
}

export interface BuildRequest {
  /** Where images lie, each in a folder named by its recipe's hash. */
  readonly outputDir: string;
  readonly signal: AbortSignal;
  readonly recipe?: Recipe;
  /** http_proxy and its like, for the programs that fetch. */
  readonly proxyEnv?: Readonly<Record<string, string>>;
  /** apt's own folder and Debian's keys, where they are not where they usually are. */
  readonly aptFolder?: string;
  readonly keyring?: string;
}

/** Bytes a build needs: the unpacked system, the image, and what is downloaded. */
const NEEDED_BYTES = 2 * 1024 ** 3;
const LOCK = '.build.lock';
const TEMPORARY = '.building-';

/**
 * Builds the default image, or gives the one that is there: a Debian root file system in an ext4 file (made without mounting
 * anything), its kernel compressed and not, its initrd, and a manifest. What is half built is never seen: it is made in a
 * folder beside, which is removed on failure. Throws Failure.
 */
export async function buildImage(deps: BuildDeps, request: BuildRequest): Promise<BuiltImage> {
  const { log, progress, clock = systemClock, isRoot = () => process.getuid?.() === 0 } = deps;
  const { outputDir, signal, recipe = RECIPE } = request;
  const hash = recipeHash(recipe);
  const dir = join(outputDir, hash);
  const there = await readImage(dir);
  if (there) return there;
  if (!isRoot())
    throw new Failure(
      'unavailable',
      'Building an image takes root: its files belong to many users. Run it with sudo.',
    );
  let mirror = 'of Debian';
  try {
    await makeFolder(outputDir, 0o755);
    const onWait = (owner: number): void => {
      log.info({ owner }, 'another process builds an image');
      progress({ phase: 'waiting', done: 0, total: 100, detail: `process ${owner} builds an image` });
    };
    return await withLockFile({ clock, onWait }, join(outputDir, LOCK), signal, async () => {
      // Another process may have built it while we waited.
      const since = await readImage(dir);
      if (since) return since;
      await removeLeft(deps.run, outputDir);
      if ((await freeBytes(outputDir)) < NEEDED_BYTES)
        throw new Failure('no_space', 'The disk that the image is built on has less than 2 GiB free.');
      const mirrors = await readMirrors(request.aptFolder);
      mirror = mirrors.archive;
      const temporary = join(outputDir, `${TEMPORARY}${hash}-${randomBytes(4).toString('hex')}`);
      try {
        await mkdir(temporary, { mode: 0o755 });
        await buildIn(deps, { ...request, recipe, hash, temporary, mirrors, now: clock.now() });
        return await publish(deps.run, temporary, dir);
      } catch (error) {
        await removeFolder(deps.run, temporary);
        throw error;
      }
    });
  } catch (error) {
    signal.throwIfAborted();
    throw explainBuild(error, mirror);
  }
}

/** The built image of this recipe, else the newest there is; undefined when none was built. */
export async function findBuiltImage(
  outputDir: string,
  recipe: Recipe = RECIPE,
): Promise<BuiltImage | undefined> {
  const wanted = await readImage(join(outputDir, recipeHash(recipe)));
  if (wanted) return wanted;
  const found = await Promise.all((await folders(outputDir)).map((name) => readImage(join(outputDir, name))));
  return found
    .filter((image) => image !== undefined)
    .sort((a, b) => Date.parse(b.manifest.built_at) - Date.parse(a.manifest.built_at))[0];
}

interface Build extends BuildRequest {
  readonly recipe: Recipe;
  readonly hash: string;
  readonly temporary: string;
  readonly mirrors: Awaited<ReturnType<typeof readMirrors>>;
  readonly now: number;
}

async function buildIn({ run, log, progress }: BuildDeps, build: Build): Promise<void> {
  const { recipe, hash, temporary, signal } = build;
  const step = (phase: string, done: number, detail?: string): void => {
    signal.throwIfAborted();
    log.debug({ phase, done, detail }, 'building the image');
    progress({ phase, done, total: 100, ...(detail === undefined ? {} : { detail }) });
  };
  step('packages', 0);
  const { root, kernel } = await makeRoot({ run, step }, build);
  const versions = await readdir(join(kernel, 'lib/modules'));
  const [kernelVersion] = versions;
  if (kernelVersion === undefined || versions.length !== 1)
    throw new Failure('internal', `The kernel package holds ${versions.length} kernels and not one.`);

  step('files', 84);
  await furnish({ run }, { root, kernel, kernelVersion, recipe, hash, signal });

  step('kernel', 87, kernelVersion);
  const vmlinuz = await readFile(join(kernel, 'boot', `vmlinuz-${kernelVersion}`));
  const { image, entry } = await extractVmlinux({ run, workFolder: temporary }, vmlinuz, signal);
  await writeFile(join(temporary, IMAGE_FILES.vmlinuz), vmlinuz, { mode: 0o644 });
  await writeFile(join(temporary, IMAGE_FILES.vmlinux), image, { mode: 0o644 });

  step('initrd', 90);
  const initrd = await makeInitrd(recipe, { root, kernelVersion });
  await writeFile(join(temporary, IMAGE_FILES.initrd), initrd, { mode: 0o644 });

  step('file system', 92);
  await makeFileSystem(run, { root, file: join(temporary, IMAGE_FILES.rootfs), recipe, hash, signal });
  const packages = await installedPackages(root);
  await removeFolder(run, root);
  await removeFolder(run, kernel);

  step('checksums', 96);
  const { sizes, sha256 } = await measure(temporary, signal);
  const manifest: Manifest = {
    name: recipe.name,
    hash,
    built_at: new Date(build.now).toISOString(),
    suite: recipe.suite,
    architecture: recipe.architecture,
    kernel_version: kernelVersion,
    kernel_entry: `0x${entry.toString(16)}`,
    default_user: recipe.defaultUser,
    boot_args: recipe.bootArgs,
    agent: recipe.packages.includes('qemu-guest-agent'),
    sizes,
    sha256,
    packages,
  };
  await writeFileAtomic(join(temporary, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`, 0o644);
  step('done', 100);
}

/** mke2fs(8) fills the file system from a folder; its id comes from the recipe, so that builds are alike. */
async function makeFileSystem(
  run: Run,
  it: {
    readonly root: string;
    readonly file: string;
    readonly recipe: Recipe;
    readonly hash: string;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { label, sizeMib, features } = it.recipe.filesystem;
  const hex = createHash('sha256').update(it.hash).digest('hex');
  const uuid = `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
  await run(
    [
      ...(['mke2fs', '-q', '-t', 'ext4', '-O', features.join(',')] as const),
      ...['-L', label, '-U', uuid, '-b', '4096', '-I', '256', '-m', '1'],
      ...['-E', `hash_seed=${uuid},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=1`],
      ...['-d', it.root, it.file, `${sizeMib}M`],
    ],
    { timeoutMs: 300_000, signal: it.signal },
  );
  // Zeros that were written become holes again: every copy of the image is a fifth smaller.
  await run(['fallocate', '--dig-holes', it.file], { timeoutMs: 120_000, signal: it.signal });
}

async function measure(dir: string, signal: AbortSignal): Promise<Pick<Manifest, 'sizes' | 'sha256'>> {
  const one = async (part: ImagePart): Promise<{ readonly size: number; readonly sha256: string }> => {
    const path = join(dir, IMAGE_FILES[part]);
    const hash = createHash('sha256');
    await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash, { signal });
    return { size: (await stat(path)).size, sha256: hash.digest('hex') };
  };
  const [rootfs, vmlinuz, vmlinux, initrd] = [
    await one('rootfs'),
    await one('vmlinuz'),
    await one('vmlinux'),
    await one('initrd'),
  ];
  return {
    sizes: { rootfs: rootfs.size, vmlinuz: vmlinuz.size, vmlinux: vmlinux.size, initrd: initrd.size },
    sha256: {
      rootfs: rootfs.sha256,
      vmlinuz: vmlinuz.sha256,
      vmlinux: vmlinux.sha256,
      initrd: initrd.sha256,
    },
  };
}

/** Puts the finished folder in its place. What stands there is damaged, or another's that was faster. */
async function publish(run: Run, temporary: string, dir: string): Promise<BuiltImage> {
  if (!(await readImage(dir))) {
    if (await exists(dir)) await removeFolder(run, dir);
    try {
      await rename(temporary, dir);
    } catch (error) {
      if (!isErrno(error, 'ENOTEMPTY') && !isErrno(error, 'EEXIST')) throw error;
    }
  }
  await removeFolder(run, temporary);
  const image = await readImage(dir);
  if (!image) throw new Failure('internal', 'The image that was just built is not whole.');
  return image;
}

/** Removes what builds that were killed have left. */
async function removeLeft(run: Run, outputDir: string): Promise<void> {
  for (const name of await folders(outputDir)) {
    if (name.startsWith(TEMPORARY)) await removeFolder(run, join(outputDir, name));
  }
}

/** By rm, which can be told to stay on one file system: a build that was killed must never take a mounted /dev with it. */
async function removeFolder(run: Run, path: string): Promise<void> {
  const remove = (): Promise<unknown> =>
    run(['rm', '-rf', '--one-file-system', '--', path], { timeoutMs: 120_000 });
  // What was killed a moment ago may still write: rm then finds a folder that is not empty.
  await remove().catch(remove).catch(remove);
}

async function folders(path: string): Promise<readonly string[]> {
  try {
    const entries = await readdir(path, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}
