import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buildSources, transportOptions } from '../../src/guest/image/apt-sources.ts';
import type { BuiltImage } from '../../src/guest/image/build-image.ts';
import { KEYRING } from '../../src/guest/image/debian-packages.ts';
import { readMirrors } from '../../src/guest/image/root-folder.ts';
import { exists } from '../../src/host/files.ts';
import { run, type Run } from '../../src/host/run.ts';
import { readInImage } from './image-files.ts';

const CACHE = join(import.meta.dirname, '../../node_modules/.cache/guest-packages');

/**
 * The .deb files a guest of this image needs to install `packages`, in a folder: apt's own solver says which, from what dpkg has
 * in the image, and fetches them from this machine's mirror with Debian's signatures checked. Kept until the image changes.
 */
export async function fetchGuestPackages(image: BuiltImage, packages: readonly string[]): Promise<string> {
  const status = await readInImage(image.rootfs, '/var/lib/dpkg/status');
  const key = createHash('sha256')
    .update(JSON.stringify([status, packages]))
    .digest('hex')
    .slice(0, 16);
  const folder = join(CACHE, key);
  if (await exists(folder)) return folder;

  const temporary = join(CACHE, `.${key}-${randomBytes(4).toString('hex')}`);
  const [archives, lists] = [join(temporary, 'archives'), join(temporary, 'lists')];
  try {
    for (const made of [archives, lists]) await mkdir(join(made, 'partial'), { recursive: true });
    await writeFile(join(temporary, 'status'), status);
    const sources = buildSources(await readMirrors(), image.manifest.suite, KEYRING.path);
    await writeFile(join(temporary, 'sources.list'), sources.join('\n') + '\n');
    const { stdout: dump } = await run(['apt-config', 'dump']);
    const settings = [
      ...transportOptions(dump),
      ...Object.entries({
        'Dir::State::lists': lists,
        'Dir::State::status': join(temporary, 'status'),
        'Dir::State::extended_states': '/dev/null',
        'Dir::Cache': temporary,
        'Dir::Cache::archives': archives,
        'Dir::Etc::sourcelist': join(temporary, 'sources.list'),
        // Nothing else of the machine's apt: its hooks, pins and further sources say nothing about the guest.
        'Dir::Etc::sourceparts': '/dev/null',
        'Dir::Etc::main': '/dev/null',
        'Dir::Etc::parts': '/dev/null',
        'Dir::Etc::preferences': '/dev/null',
        'Dir::Etc::preferencesparts': '/dev/null',
        'APT::Architecture': image.manifest.architecture,
        'APT::Architectures': image.manifest.architecture,
        'APT::Install-Recommends': 'false',
        // Its user could not enter a folder that only we may.
        'APT::Sandbox::User': 'root',
        'Acquire::Languages': 'none',
      }).map(([name, value]) => `${name} "${value}";`),
    ];
    await writeFile(join(temporary, 'apt.conf'), settings.join('\n') + '\n');
    const env = { ...proxies(), APT_CONFIG: join(temporary, 'apt.conf') };
    await onTheMachine(['apt-get', 'update'], { env, timeoutMs: 300_000 });
    await onTheMachine(['apt-get', '--yes', '--download-only', 'install', ...packages], {
      env,
      timeoutMs: 300_000,
    });
    await rm(join(archives, 'partial'), { recursive: true });
    await rm(join(archives, 'lock'), { force: true });
    for (const old of await readdir(CACHE)) {
      if (!old.startsWith('.')) await rm(join(CACHE, old), { recursive: true, force: true });
    }
    await rename(archives, folder);
    return folder;
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/** A system test runs in a network namespace that reaches no mirror; the one who runs it tells where it came from. */
const onTheMachine: Run = (argv, options) => {
  const outside = process.env['HATCH_TEST_OUTSIDE'];
  return run(outside === undefined ? argv : ['nsenter', `--net=${outside}`, '--', ...argv], options);
};

/** How this machine reaches the web, where the environment says so. */
function proxies(): Readonly<Record<string, string>> {
  const named = Object.entries(process.env).filter(([name]) => /^(https?|no)_proxy$/i.test(name));
  return Object.fromEntries(named.filter((entry): entry is [string, string] => typeof entry[1] === 'string'));
}
