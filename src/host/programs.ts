import { access, constants, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { BASE_ENV } from './run.ts';

/** The absolute path of a program given by its name or path, as `run` finds it; undefined when there is none to execute. */
export async function findProgram(nameOrPath: string): Promise<string | undefined> {
  const places = nameOrPath.includes('/')
    ? [resolve(nameOrPath)]
    : (BASE_ENV['PATH'] ?? '').split(':').map((folder) => join(folder, nameOrPath));
  for (const place of places) {
    try {
      await access(place, constants.X_OK);
      if ((await stat(place)).isFile()) return place;
    } catch {
      // Not here.
    }
  }
  return undefined;
}
