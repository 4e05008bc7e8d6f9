import { writeFile } from 'node:fs/promises';
import { run } from '../../src/host/run.ts';

/** Files in an ext4 image, by debugfs(8): nothing is mounted. */

/** The text of a file in an image. Throws when there is none. */
export async function readInImage(image: string, path: string): Promise<string> {
  const { stdout, stderr } = await run(['debugfs', '-R', `cat ${path}`, image]);
  // debugfs says what went wrong, and ends with 0.
  const problem = stderr.split('\n').filter((line) => line !== '' && !line.startsWith('debugfs '));
  if (problem.length > 0) throw new Error(`${path} cannot be read in ${image}: ${problem.join(' ')}`);
  return stdout;
}

/** Copies an image, holes and all, and puts one more file into the copy; `scratch` is a path for a moment. */
export async function imageWithFile(
  { image, copy, scratch }: { readonly image: string; readonly copy: string; readonly scratch: string },
  path: string,
  text: string,
): Promise<void> {
  await run(['cp', '--sparse=always', '--reflink=auto', image, copy], { timeoutMs: 120_000 });
  await writeFile(scratch, text, { mode: 0o644 });
  await run(['debugfs', '-w', '-R', `write ${scratch} ${path}`, copy]);
  if ((await readInImage(copy, path)) !== text) throw new Error(`${path} was not written into ${copy}`);
  await run(['e2fsck', '-f', '-n', copy], { timeoutMs: 120_000 });
}
