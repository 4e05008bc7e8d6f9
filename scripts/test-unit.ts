import { join } from 'node:path';
import { typescriptFiles } from './lib/arrows.ts';
import { describeFile, runTestFiles, summarise } from './lib/test-run.ts';

/** `npm run test:unit -- [part of a path...]`: the tests beside the source and the scripts. No root, no machine needed. */
const root = join(import.meta.dirname, '..');
// Test files start in half the time; what they start does too.
process.env['NODE_COMPILE_CACHE'] ??= join(root, 'node_modules/.cache/compiled');
const wanted = process.argv.slice(2);
const found = await Promise.all(
  ['src', 'scripts', 'test/support'].map((folder) => typescriptFiles(root, folder)),
);
const files = found
  .flat()
  .filter((file) => file.endsWith('.test.ts'))
  .filter((file) => wanted.length === 0 || wanted.some((part) => file.includes(part)));

const started = performance.now();
const results = await runTestFiles(
  files.map((file) => join(root, file)),
  {
    root,
    // Some wait more than they do: two leave a third of two processors idle.
    concurrency: 3,
    timeoutMs: 60_000,
    fileMs: 240_000,
    preload: [join(import.meta.dirname, 'lib/no-promise-hook.ts')],
    onFile: (result) => console.log(describeFile(result)),
  },
);
const { good, line } = summarise(results);
console.log(`${line} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
process.exitCode = good ? 0 : 1;
