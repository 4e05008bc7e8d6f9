import assert from 'node:assert/strict';
import {
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { FakeClock, systemClock, type Clock } from '../../base/clock.ts';
import { silent } from '../../base/logger.ts';
import { identify } from '../../host/process.ts';
import { CommandFailed, type Argv, type Run, type RunOptions } from '../../host/run.ts';
import { Failure } from '../../model/failure.ts';
import { buildImage, findBuiltImage, type BuildProgress } from './build-image.ts';
import { RECIPE, recipeHash } from './recipe.ts';
import { tinyKernel } from './testing.ts';

const KERNEL = '6.1.0-1-cloud-amd64';
let folder = '';
let outputDir = '';
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-build-'));
  outputDir = join(folder, 'images');
  await writeFile(join(folder, 'keyring'), '');
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const put = async (path: string, content: string | Uint8Array): Promise<void> => {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, content);
};

/** A machine whose programs make just enough of what the real ones make. */
class Programs {
  readonly calls: Argv[] = [];
  readonly broken = new Map<string, () => Promise<never>>();

  readonly run: Run = async (argv, options = {}) => {
    // mmdebstrap is started in namespaces of its own.
    const inner = argv.indexOf('mmdebstrap');
    const program = inner > 0 ? 'mmdebstrap' : argv[0];
    this.calls.push([program, ...argv.slice(Math.max(inner, 0) + 1)]);
    await this.broken.get(program)?.();
    if (program === 'mmdebstrap') await this.#mmdebstrap(argv, options);
    if (argv[0] === 'mke2fs') await writeFile(argv.at(-2) ?? '', 'a file system');
    if (argv[0] === 'rm') await rm(argv.at(-1) ?? '', { recursive: true, force: true });
    const stdout = argv[0] === 'apt-config' ? 'Acquire::http::Proxy "http://proxy.example/";\n' : '';
    return { stdout, stderr: '', exitCode: 0 };
  };

  async #mmdebstrap(argv: Argv, { env, onLine }: RunOptions): Promise<void> {
    onLine?.('I: running apt-get update...', 'stderr');
    const root = argv.find((word) => word.endsWith('/root')) ?? '';
    const kernel = env?.['HATCH_KERNEL'] ?? '';
    const modules = join(kernel, 'lib/modules', KERNEL);
    await put(join(kernel, 'boot', `vmlinuz-${KERNEL}`), tinyKernel());
    await put(join(kernel, 'boot', `config-${KERNEL}`), 'CONFIG_X=y\n');
    const files = RECIPE.initrd.modules.map((name) => `kernel/${name}.ko`);
    for (const file of files) await put(join(modules, file), 'a module');
    await put(join(modules, 'modules.dep'), files.map((file) => `${file}:\n`).join(''));
    await put(join(modules, 'modules.builtin'), '');
    await put(join(root, 'usr/bin/busybox'), 'busybox');
    await put(join(root, 'etc/ssh/ssh_host_rsa_key'), 'secret');
    await put(join(root, 'etc/apt/sources.list.d/0000.list'), 'deb http://mirror.example/ x');
    await put(join(root, 'var/lib/cloud/seed'), '');
    await put(
      join(root, 'var/lib/dpkg/status'),
      'Package: a\nStatus: install ok installed\nVersion: 1.2-3\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 1\n',
    );
  }

  count(program: string): number {
    return this.calls.filter(([name]) => name === program).length;
  }

  breaks(
    program: string,
    { stderr = '', missing = false }: { readonly stderr?: string; readonly missing?: boolean },
  ): void {
    const fields = missing ? { missing } : { exitCode: 25, stderrTail: stderr };
    const why = missing ? 'is not installed' : 'ended with exit code 25';
    this.broken.set(program, () => Promise.reject(new CommandFailed([program], why, fields)));
  }
}

function build(
  programs: Programs,
  more: {
    readonly signal?: AbortSignal;
    readonly clock?: Clock;
    readonly progress?: (p: BuildProgress) => void;
    readonly isRoot?: () => boolean;
    readonly keyring?: string;
  } = {},
): ReturnType<typeof buildImage> {
  const {
    signal = new AbortController().signal,
    clock = systemClock,
    progress = () => undefined,
    isRoot = () => true,
    keyring = join(folder, 'keyring'),
  } = more;
  return buildImage(
    { run: programs.run, log: silent, progress, clock, isRoot },
    { outputDir, signal, aptFolder: join(folder, 'apt'), keyring },
  );
}

const failure = (code: string, says: RegExp) => (error: unknown) =>
  error instanceof Failure && error.code === code && says.test(error.message);

test('an image is built once and then given from where it lies', async () => {
  const programs = new Programs();
  const seen: BuildProgress[] = [];
  const first = await build(programs, { progress: (p) => seen.push(p) });
  assert.equal(first.hash, recipeHash());
  assert.equal(first.dir, join(outputDir, recipeHash()));
  assert.deepEqual((await readdir(first.dir)).sort(), [
    'initrd.img',
    'manifest.json',
    'rootfs.ext4',
    'vmlinux',
    'vmlinuz',
  ]);
  assert.deepEqual(await readdir(outputDir), [recipeHash()]);
  assert.equal(first.manifest.kernel_version, KERNEL);
  assert.equal(first.manifest.kernel_entry, '0x1000000');
  assert.equal(first.manifest.sizes.rootfs, 'a file system'.length);
  assert.deepEqual(first.manifest.packages, { a: '1.2-3' });
  assert.equal(seen.at(-1)?.done, 100);
  assert.deepEqual(
    seen.map(({ done }) => done),
    seen.map(({ done }) => done).sort((a, b) => a - b),
  );

  const calls = programs.calls.length;
  assert.deepEqual(await build(programs, { isRoot: () => false }), first);
  assert.equal(programs.calls.length, calls);
});

test('the root folder has what the recipe says when the file system is made of it', async () => {
  const programs = new Programs();
  const run = programs.run;
  let looked = 0;
  const looking: Run = async (argv, options) => {
    if (argv[0] === 'mke2fs') {
      const root = argv[argv.indexOf('-d') + 1] ?? '';
      looked++;
      assert.equal(await readFile(join(root, 'etc/hostname'), 'utf8'), 'hatch\n');
      assert.match(
        await readFile(join(root, 'etc/hatch/image-release'), 'utf8'),
        new RegExp(`RECIPE=${recipeHash()}`),
      );
      assert.equal((await stat(join(root, 'usr/lib/systemd/system-shutdown/hatch'))).mode & 0o777, 0o755);
      assert.equal(await readlink(join(root, 'etc/systemd/system/apt-daily.timer')), '/dev/null');
      const hooks = join(root, 'etc/hatch/after-restore.d');
      assert.deepEqual(await readdir(hooks), ['README']);
      assert.equal((await stat(join(hooks, 'README'))).mode & 0o777, 0o644);
      assert.deepEqual(await readdir(join(root, 'var/lib/cloud')), []);
      assert.deepEqual(await readdir(join(root, 'etc/apt/sources.list.d')), []);
      assert.ok(!(await readdir(join(root, 'etc/ssh'))).includes('ssh_host_rsa_key'));
      assert.equal(await readFile(join(root, 'etc/machine-id'), 'utf8'), '');
      assert.ok((await stat(join(root, 'etc/.updated'))).mtimeMs >= (await stat(join(root, 'usr'))).mtimeMs);
      assert.deepEqual(await readdir(join(root, 'usr/lib/modules')), [KERNEL]);
    }
    return run(argv, options);
  };
  await buildImage(
    { run: looking, log: silent, progress: () => undefined, isRoot: () => true },
    {
      outputDir,
      signal: new AbortController().signal,
      aptFolder: join(folder, 'apt'),
      keyring: join(folder, 'keyring'),
    },
  );
  assert.equal(looked, 1);
  const mmdebstrap: readonly string[] = programs.calls.find(([name]) => name === 'mmdebstrap') ?? [];
  assert.ok(mmdebstrap.includes('--aptopt=Acquire::http::Proxy "http://proxy.example/";'));
  assert.ok(mmdebstrap.some((word) => word.endsWith('http://deb.debian.org/debian bookworm main')));
});

test('an image whose file lost a byte, or whose manifest is cut, is built anew', async () => {
  const programs = new Programs();
  const { rootfs, dir } = await build(programs);
  await truncate(rootfs, 3);
  assert.equal((await build(programs)).manifest.sizes.rootfs, 'a file system'.length);
  await truncate(join(dir, 'manifest.json'), 30);
  await build(programs);
  assert.equal(programs.count('mmdebstrap'), 3);
});

for (const program of ['apt-config', 'mmdebstrap', 'chroot', 'mke2fs', 'fallocate']) {
  test(`when ${program} fails nothing is left, and the next build works`, async () => {
    const programs = new Programs();
    programs.breaks(program, { stderr: 'E: something' });
    await assert.rejects(
      build(programs),
      failure('unavailable', new RegExp(`${program} ended with exit code 25. E: something`)),
    );
    assert.deepEqual(await readdir(outputDir), []);
    programs.broken.clear();
    await build(programs);
  });
}

test('what failed is said so that one can act on it', async () => {
  const cases: readonly (readonly [string, { stderr?: string; missing?: boolean }, string, RegExp])[] = [
    ['mke2fs', { missing: true }, 'unavailable', /lacks the program mke2fs; install the package e2fsprogs/],
    ['mmdebstrap', { missing: true }, 'unavailable', /install the package mmdebstrap/],
    [
      'mmdebstrap',
      { stderr: 'unshare: failed to execute mmdebstrap: No such file or directory' },
      'unavailable',
      /install the package mmdebstrap/,
    ],
    [
      'mmdebstrap',
      { stderr: "E: Could not resolve 'deb.debian.org'" },
      'unavailable',
      /mirror http:\/\/deb\.debian\.org\/debian cannot be reached/,
    ],
    ['mmdebstrap', { stderr: 'W: GPG error: NO_PUBKEY 0E98' }, 'unavailable', /debian-archive-keyring/],
    ['mmdebstrap', { stderr: 'sh: 1: dpkg-deb: not found' }, 'unavailable', /install the package dpkg/],
    ['mke2fs', { stderr: 'write: No space left on device' }, 'no_space', /full/],
    [
      'mmdebstrap',
      { stderr: 'unshare: cannot change root filesystem propagation: Invalid argument\n' },
      'unavailable',
      /mmdebstrap ended with exit code 25\. unshare: cannot change root filesystem propagation/,
    ],
  ];
  for (const [program, how, code, says] of cases) {
    const programs = new Programs();
    programs.breaks(program, how);
    await assert.rejects(build(programs), failure(code, says));
  }
  await assert.rejects(build(new Programs(), { isRoot: () => false }), failure('unavailable', /takes root/));
  await assert.rejects(
    build(new Programs(), { keyring: join(folder, 'none') }),
    failure('unavailable', /install the package debian-archive-keyring/),
  );
});

test('an aborted build ends with the reason of the abort, and leaves nothing', async () => {
  const programs = new Programs();
  const stop = new AbortController();
  programs.broken.set('mke2fs', async () => {
    stop.abort(new Error('enough'));
    throw new Error('killed');
  });
  await assert.rejects(build(programs, { signal: stop.signal }), /enough/);
  assert.deepEqual(await readdir(outputDir), []);
});

test('two builds at once build once', async () => {
  const programs = new Programs();
  const [a, b] = await Promise.all([build(programs), build(programs)]);
  assert.deepEqual(a, b);
  assert.equal(programs.count('mmdebstrap'), 1);
});

test('a build waits for a living owner of the lock and says so', async () => {
  await put(join(outputDir, '.build.lock'), JSON.stringify(await identify(process.pid)));
  const [programs, clock, seen] = [new Programs(), new FakeClock(), [] as BuildProgress[]];
  const building = build(programs, { clock, progress: (p) => seen.push(p) });
  while (clock.sleepers === 0) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(seen[0]?.phase, 'waiting');
  assert.equal(programs.count('mmdebstrap'), 0);
  await rm(join(outputDir, '.build.lock'));
  await clock.advance(5000);
  await building;
});

test('a lock whose owner is dead, or that is no lock, holds nobody up; what a killed build left is removed', async () => {
  const me = await identify(process.pid);
  for (const lock of [JSON.stringify({ ...me, startTime: '1' }), '{"pid":', '']) {
    await put(join(outputDir, '.build.lock'), lock);
    await put(join(outputDir, '.building-0123-ab', 'root', 'x'), '');
    await rm(join(outputDir, recipeHash()), { recursive: true, force: true });
    await build(new Programs());
    assert.deepEqual(await readdir(outputDir), [recipeHash()]);
  }
});

test('the built image is found: the one of the recipe, else the newest', async () => {
  assert.equal(await findBuiltImage(outputDir), undefined);
  const older = { ...RECIPE, name: 'older' };
  const oldest = { ...RECIPE, name: 'oldest' };
  const clock = new FakeClock();
  const deps = { run: new Programs().run, log: silent, progress: () => undefined, isRoot: () => true, clock };
  const request = {
    outputDir,
    signal: new AbortController().signal,
    aptFolder: join(folder, 'apt'),
    keyring: join(folder, 'keyring'),
  };
  await buildImage(deps, { ...request, recipe: oldest });
  await clock.advance(60_000);
  await buildImage(deps, { ...request, recipe: older });
  assert.equal((await findBuiltImage(outputDir))?.hash, recipeHash(older));
  await clock.advance(60_000);
  const image = await build(new Programs());
  await utimes(image.dir, 0, 0);
  assert.equal((await findBuiltImage(outputDir))?.hash, recipeHash());
  assert.equal((await findBuiltImage(outputDir, oldest))?.hash, recipeHash(oldest));
});
