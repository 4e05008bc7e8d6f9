/**
 * `npm test`: installs what the tests need, then runs every check and every test; what boots guests only where the rest passed.
 * `npm run test:long` does so with the tests of `test/long/`, which take longer than one wants to wait for before each landing.
 * `npm run test:soak` puts one guest to sleep and wakes it, a hundred times unless told; then the service is installed, upgraded and removed.
 * Plain JavaScript, for any Node from 18, because nothing is installed yet when it starts.
 */
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import path from 'node:path';
import { debianPackages, mustBeRoot, npmPackages, ROOT } from './lib/install.mjs';
import { duration, main, Stop } from './lib/say.mjs';

const { findNode, FLAGS } = createRequire(import.meta.url)('../bin/launch.cjs');

/** Runs one phase; throws a Stop when it fails. It has our terminal, or with `beside`, what it says is shown when it has ended. */
function phase(name, program, args, { beside = false } = {}) {
  const started = Date.now();
  const title = `\n== ${name}`;
  if (!beside) console.log(title);
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: ROOT,
      stdio: beside ? ['ignore', 'pipe', 'pipe'] : 'inherit',
    });
    const said = [];
    if (beside) {
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes) => said.push(bytes));
      child.on('close', () => console.log(`${title}\n${Buffer.concat(said).toString().trimEnd()}`));
    }
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

/** Runs phases side by side, which keep one processor busy each. Where some fail, the Stop says so of each. */
async function sideBySide(...phases) {
  console.log(`\n== ${phases.map(([name]) => name).join(', ')}: side by side, each shown at its end`);
  const ended = await Promise.allSettled(phases.map((one) => phase(...one, { beside: true })));
  const failed = ended.filter(({ status }) => status === 'rejected');
  if (failed.length > 0) throw new Stop(failed.map(({ reason }) => reason.message).join('\n'));
  return ended.map(({ value }) => value);
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
      ? [
          await phase(...image),
          await phase('soak', node, [...script('soak.ts'), ...words]),
          // What an operator asked for by a number is that alone.
          ...(words.length > 1
            ? []
            : [await phase('service', node, [...script('test-system.ts'), '--long', 'service'])]),
        ]
      : [
          ...(await sideBySide(['check', node, script('check.ts')], image)),
          await phase('unit tests', node, script('test-unit.ts')),
          await phase('system tests', node, script('test-system.ts')),
        ];
  console.log('');
  for (const { name, took } of done) console.log(`✓ ${name.padEnd(14)} ${took}`);
  console.log(`all passed in ${duration(Date.now() - started)}`);
  if (!long && !soak) console.log('`npm run test:long` runs what takes longer: test/long/.');
});
