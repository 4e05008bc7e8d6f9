import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, test } from 'node:test';
import type { FileResult } from './test-run.ts';

const HEAD = `import { test } from 'node:test';\nimport { setTimeout as sleep } from 'node:timers/promises';\n`;
/** Test files, and what is to come of them; what no test of ours may be is not written out. */
const FILES = {
  'good.test.mjs': `test('is good', async () => { await sleep(1); });`,
  'thrown.test.mjs': `test('goes on', async () => {
    await sleep(1);
    setTimeout(() => { throw new Error('thrown by a timer'); }, 1);
    await sleep(50);
  });`,
  'rejected.test.mjs': `test('goes on', async () => {
    await sleep(1);
    void sleep(1).then(() => { throw new Error('rejected for nobody'); });
    await sleep(50);
  });`,
  'late.test.mjs': `test('is over', async () => {
    await sleep(1);
    setTimeout(() => { throw new Error('thrown afterwards'); }, 50);
  });`,
  'empty.test.mjs': '',
  'skipped.test.mjs': `test('is good', () => undefined); test.${'skip'}('is not run', () => undefined);`,
  'todo.test.mjs': `test('is good', () => undefined); test.${'todo'}('is for later');`,
  'failing.test.mjs': `test('is wrong', async () => { await sleep(1); throw new Error('wrong'); });`,
  'open.test.mjs': `test('leaves something open', () => void setInterval(() => undefined, 1000));`,
  'unread.test.mjs': `throw new Error('not loaded');`,
} as const;

let results: ReadonlyMap<string, FileResult> = new Map();
let folder = '';

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-test-run-'));
  const paths = Object.keys(FILES).map((name) => join(folder, name));
  for (const [name, code] of Object.entries(FILES)) await writeFile(join(folder, name), HEAD + code);
  // A run within a test would not be one.
  const { NODE_TEST_CONTEXT: _, ...env } = process.env;
  const local = (name: string): string => join(import.meta.dirname, name);
  const options = { root: folder, concurrency: 4, timeoutMs: 60_000, fileMs: 8000 };
  const code = `const { runTestFiles } = await import(${JSON.stringify(local('test-run.ts'))});
    const options = { ...${JSON.stringify({ ...options, preload: [local('no-promise-hook.ts')] })}, onFile: () => undefined };
    console.log(JSON.stringify(await runTestFiles(${JSON.stringify(paths)}, options)));`;
  const program = join(folder, 'run.mjs');
  await writeFile(program, code);
  const child = spawn(process.execPath, [program], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [said] = await Promise.all([text(child.stdout), once(child, 'close')]);
  results = new Map((JSON.parse(said) as FileResult[]).map((result) => [result.file, result]));
});
after(() => rm(folder, { recursive: true, force: true }));

const problemsOf = (file: keyof typeof FILES): string => {
  const problems = results.get(file)?.problems ?? assert.fail(`nothing came of ${file}`);
  return problems.join('\n');
};

test('a good file has no problem, and its tests are counted', () => {
  assert.equal(problemsOf('good.test.mjs'), '');
  assert.equal(results.get('good.test.mjs')?.passed, 1);
});

test('an error that nobody caught fails its file and is told whole, though promises are not followed', () => {
  assert.match(problemsOf('thrown.test.mjs'), /nobody caught: Error: thrown by a timer\n +at .*thrown\.test/);
  assert.match(
    problemsOf('rejected.test.mjs'),
    /nobody caught: Error: rejected for nobody\n +at .*rejected\./,
  );
  assert.match(problemsOf('late.test.mjs'), /nobody caught: Error: thrown afterwards\n +at .*late\.test/);
});

test('what was not run is a problem', () => {
  assert.match(problemsOf('empty.test.mjs'), /^the file ran no test$/);
  assert.match(problemsOf('skipped.test.mjs'), /"is not run" was skipped/);
  assert.match(problemsOf('todo.test.mjs'), /"is for later" was put off/);
  assert.match(problemsOf('unread.test.mjs'), /not loaded/);
});

test('a test that fails is told by its name, and a file that does not end is ended', () => {
  assert.match(problemsOf('failing.test.mjs'), /"is wrong" failed: Error: wrong\n +at .*failing\.test/);
  assert.match(problemsOf('open.test.mjs'), /the file failed[^]*did not end within 8 s/);
});
