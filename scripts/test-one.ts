import { join } from 'node:path';
import { FILE_MS, runTestFiles } from './lib/test-run.ts';

/** `test-one.ts FILE`: runs one file of system tests where it is started, and prints its FileResult as one line of JSON. */
const root = join(import.meta.dirname, '..');
const [file] = process.argv.slice(2);
if (file === undefined) throw new Error('test-one.ts needs the file to run');
const [result] = await runTestFiles([join(root, file)], {
  root,
  concurrency: 1,
  timeoutMs: FILE_MS,
  onFile: () => undefined,
});
if (!result) throw new Error(`${file} has no result`);
console.log(JSON.stringify(result));
