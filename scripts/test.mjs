/**
 * `npm test`: installs what the tests need, then runs every check and every test, and stops at the first that fails.
 * `npm run test:long` does so with the tests of `test/long/`, which take longer than one wants to wait for before each landing.
 * `npm run test:soak` puts one guest to sleep and wakes it, a hundred times unless told.
 * Plain JavaScript, for any Node from 18, because nothing is installed yet when it starts.
 */
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import path from 'node:path';
import { debianPackages, mustBeRoot, npmPackages, ROOT } from './lib/install.mjs';
import { duration, main, Stop } from './lib/say.mjs';

const { findNode, FLAGS } = createRequire(import.meta.url)('../bin/launch.cjs');

/** Runs one phase with our terminal; throws a Stop when it fails. */
function phase(name, program, args) {
  console.log(`\n== ${name}`);
  return end(name, spawn(program, args, { cwd: ROOT, stdio: 'inherit' }));
}

/** Begins a phase beside others: `done()` waits for it and prints what it said, `stop()` ends it. */
function beside(name, program, args) {
  const child = spawn(program, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
  const said = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece) => said.push(piece));
  const ended = end(name, child);
  // Whoever waits is told.
  ended.catch(() => undefined);
  return {
    done: () =>
      ended.finally(() => {
        console.log(`\n== ${name}`);
        process.stdout.write(Buffer.concat(said));
      }),
    stop: () => child.kill('SIGTERM'),
  };
}

/** Resolves with the name of a phase and what it took, when its process has ended; rejects with a Stop when it failed. */
function end(name, child) {
  const started = Date.now();
  return new Promise((resolve, reject) => {
    child.on('error', (error) => reject(new Stop(`${name}: it could not be started: ${error.message}`)));
    child.on('close', (code, signal) => {
      const took = duration(Date.now() - started);
      if (code === 0) resolve({ name, took });
      else reject(new Stop(`${name} failed (${signal ?? `exit code ${code}`}) after ${took}.`));
    });
  });
}

await main(async () => {
  const started = Date.now();
  mustBeRoot('The system tests');
  const words = process.argv.slice(2);
  const long = words.includes('--long');
  const soak = words.includes('--soak');
  await debianPackages(['run', 'test'], { yes: true });
  await npmPackages();
  const node = findNode();
  const script = (name) => [...FLAGS, path.join(ROOT, 'scripts', name)];
  const image = ['default image', path.join(ROOT, 'bin/hatchd'), ['image', 'build']];
  const done = long
    ? [await phase(...image), await phase('long tests', node, [...script('test-system.ts'), ...words])]
    : soak
      ? [await phase(...image), await phase('soak', node, [...script('soak.ts'), ...words])]
      : await all(node, script, beside(...image));
  console.log('');
  for (const { name, took } of done) console.log(`✓ ${name.padEnd(14)} ${took}`);
  console.log(`all passed in ${duration(Date.now() - started)}`);
  if (!long && !soak) console.log('`npm run test:long` runs what takes longer: test/long/.');
});

/** Every check and every test. The image is made meanwhile, which mostly keeps one processor busy, as the checks do. */
async function all(node, script, image) {
  try {
    return [
      await phase('check', node, script('check.ts')),
      await phase('unit tests', node, script('test-unit.ts')),
      await image.done(),
      await phase('system tests', node, script('test-system.ts')),
    ];
  } catch (error) {
    image.stop();
    throw error;
  }
}
