import { chmod, copyFile, mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../src/host/run.ts';

/**
 * Makes of .deb files what the lines of a sources.list(5) name, as a folder for a web server; gives the names of its servers. The
 * packages stand in the first source, the others are there and empty. Nothing is signed.
 */
export async function makeMirror({
  site,
  debs,
  sources,
}: {
  readonly site: string;
  readonly debs: string;
  readonly sources: string;
}): Promise<readonly string[]> {
  const found = [...sources.matchAll(/^deb (\S+) (\S+) main$/gm)].map(([, url = '', suite = '']) => ({
    url: new URL(url),
    suite,
  }));
  for (const [index, { url, suite }] of found.entries()) {
    const folder = join(site, url.pathname);
    const indices = join(folder, 'dists', suite, 'main/binary-amd64');
    await mkdir(indices, { recursive: true });
    let packages = '';
    if (index === 0) {
      await mkdir(join(folder, 'pool'));
      for (const name of await readdir(debs)) {
        await copyFile(join(debs, name), join(folder, 'pool', name));
        await chmod(join(folder, 'pool', name), 0o644);
      }
      packages = (await run(['apt-ftparchive', 'packages', 'pool'], { cwd: folder })).stdout;
    }
    await writeFile(join(indices, 'Packages'), packages);
    const about = { Suite: suite, Codename: suite, Components: 'main', Architectures: 'amd64' };
    const options = Object.entries(about).flatMap(([name, value]) => [
      '-o',
      `APT::FTPArchive::Release::${name}=${value}`,
    ]);
    const release = await run(['apt-ftparchive', ...options, 'release', `dists/${suite}`], { cwd: folder });
    await writeFile(join(folder, 'dists', suite, 'Release'), release.stdout);
  }
  return [...new Set(found.map(({ url }) => url.hostname))];
}
