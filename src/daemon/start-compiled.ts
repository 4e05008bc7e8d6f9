import { createHash } from 'node:crypto';
import { accessSync, constants, readdirSync, statSync, writeFileSync } from 'node:fs';
import { flushCompileCache, getCompileCacheDir } from 'node:module';
import { join } from 'node:path';
import { readIfThere } from '../host/files.ts';

const SOURCE = join(import.meta.dirname, '..');
/** Beside what Node keeps compiled: which edition of the source all of that is. */
const MARK = 'hatchd-edition';

/**
 * Sees to it that hatchd serves from what Node keeps compiled (`NODE_COMPILE_CACHE`). To run TypeScript that it has not kept, Node
 * loads a stripper of types in each thread that needs it, and never lets it go: 40 MB in a hatchd with two threads of its proxy. So
 * after an install or an upgrade all that serving may need is loaded here, kept, and hatchd is started once more, by execve(2): the
 * same process, the same arguments. To be called before anything is opened, started or said. Comes back where there is nothing to
 * do, or where nothing can be kept.
 * Source: https://nodejs.org/api/module.html#module-compile-cache
 */
export async function startCompiled(): Promise<void> {
  const folder = getCompileCacheDir();
  if (folder === undefined || process.execve === undefined) return;
  const mark = join(folder, MARK);
  const edition = editionOf();
  try {
    if ((await readIfThere(mark)) === edition) return;
    accessSync(folder, constants.W_OK);
    await loadAll();
    flushCompileCache();
    writeFileSync(mark, edition);
  } catch {
    // A folder that cannot be written, a full disk: nothing is kept there. What cannot be loaded is said where it is needed.
    return;
  }
  const args = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  process.execve(process.execPath, args, process.env);
}

/** All that is loaded while hatchd serves, in whichever of its threads and processes and for whatever settings. */
async function loadAll(): Promise<void> {
  await Promise.all([
    import('./logger.ts'),
    import('./serve.ts'),
    import('../gateway/proxy/threads/thread-main.ts'),
    import('../host/launcher-main.ts'),
    import('../store/blobs/s3-home.ts'),
    import('../store/blobs/threads/thread.ts'),
    import('../store/db/postgres.ts'),
  ]);
}

/** What changes when the source does, or lies elsewhere: what is compiled is kept by path. */
function editionOf(): string {
  const hash = createHash('sha256').update(SOURCE);
  for (const name of readdirSync(SOURCE, { recursive: true, encoding: 'utf8' }).sort()) {
    if (!name.endsWith('.ts') || name.endsWith('.test.ts')) continue;
    const { size, mtimeMs } = statSync(join(SOURCE, name));
    hash.update(`${name} ${size} ${mtimeMs}\n`);
  }
  return hash.digest('hex');
}
