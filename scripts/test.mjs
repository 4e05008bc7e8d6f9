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
  const started = Date.now();
  console.log(`\n== ${name}`);
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd: ROOT, stdio: 'inherit' });
    child.on('error', (error) =>
      reject(new Stop(`${name}: ${program} could not be started: ${error.message}`)),
    );
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
  const image = () => phase('default image', path.join(ROOT, 'bin/hatchd'), ['image', 'build']);
  const done = long
    ? [await image(), await phase('long tests', node, [...script('test-system.ts'), ...words])]
    : soak
      ? [await image(), await phase('soak', node, [...script('soak.ts'), ...words])]
      : [
          await phase('check', node, script('check.ts')),
          await phase('unit tests', node, script('test-unit.ts')),
          await image(),
          await phase('system tests', node, script('test-system.ts')),
        ];
  console.log('');
  for (const { name, took } of done) console.log(`✓ ${name.padEnd(14)} ${took}`);
  console.log(`all passed in ${duration(Date.now() - started)}`);
  if (!long && !soak) console.log('`npm run test:long` runs what takes longer: test/long/.');
});
