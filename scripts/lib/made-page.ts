import { readFile, writeFile } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';

/**
 * Writes a page of the documentation that is made from code, when `script` is the program that runs; with `--check` it fails instead when
 * the page is not as the code says. `from`: what it is made from, and `by` what makes it.
 */
export async function makePage(
  script: string,
  page: { readonly at: URL; readonly make: () => string; readonly from: string; readonly by: string },
): Promise<void> {
  if (script !== pathToFileURL(process.argv[1] ?? '').href) return;
  const text = page.make();
  if (!process.argv.includes('--check')) return writeFile(page.at, text);
  if ((await readFile(page.at, 'utf8')) !== text)
    throw new Error(`${page.at.pathname} is not as ${page.from} says: run node ${page.by}`);
}
