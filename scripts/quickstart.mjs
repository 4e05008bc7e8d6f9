/**
 * `npm run quickstart`: what must be there before Node 24 can take over (packages, image, network namespace); then
 * quickstart-run.ts starts hatchd and a guest. Plain JavaScript, for any Node from 18.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { debianPackages, mustBeRoot, npmPackages, ROOT } from './lib/install.mjs';
import { HELP, readOptions } from './lib/quickstart-options.mjs';
import { command, main, step } from './lib/say.mjs';

const { findNode, FLAGS } = createRequire(import.meta.url)('../bin/launch.cjs');

await main(async () => {
  // npm runs scripts in the project's folder; INIT_CWD is where the person stands.
  const options = readOptions(process.argv.slice(2), process.env.INIT_CWD ?? process.cwd());
  if (options.help) return void console.log(HELP);
  mustBeRoot('Hatch');
  await debianPackages(['run'], options);
  await npmPackages();
  mkdirSync(options.data, { recursive: true, mode: 0o755 });
  await step('Default image', async (progress) => {
    let built = '';
    await command(path.join(ROOT, 'bin/hatchd'), ['image', 'build', '--json'], {
      env: { HATCH_DATA_DIR: options.data },
      onLine: (line) => {
        const { phase, done, total, detail, hash } = readJson(line);
        if (phase)
          progress(`${phase}${total > 0 ? ` ${Math.round((100 * done) / total)} %` : ''} ${detail ?? ''}`);
        if (hash) built = String(hash).slice(0, 12);
      },
    });
    return `img-default, ${built}`;
  });
  const madeNamespace = options.netns !== undefined && (await makeNamespace(options.netns));
  try {
    return await takeOver(options);
  } finally {
    if (madeNamespace && options.once)
      await step(`Network namespace ${options.netns}`, async () => {
        await command('ip', ['netns', 'del', options.netns]);
        return 'removed';
      });
  }
});

/** Makes the namespace with its loopback up; false when it was there already. */
async function makeNamespace(name) {
  if (existsSync(`/run/netns/${name}`)) return false;
  await step(`Network namespace ${name}`, async () => {
    await command('ip', ['netns', 'add', name]);
    await command('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
    return 'made';
  });
  return true;
}

/** Runs the second half, in the namespace where there is one; its exit code is ours. */
function takeOver(options) {
  const inside = options.netns === undefined ? [] : ['nsenter', `--net=/run/netns/${options.netns}`, '--'];
  const script = path.join(ROOT, 'scripts/quickstart-run.ts');
  const [program, ...args] = [...inside, findNode(), ...FLAGS, script, JSON.stringify(options)];
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd: ROOT, stdio: 'inherit' });
    // It takes down what it started before it ends; a terminal sends Ctrl-C to both of us.
    process.on('SIGINT', () => process.stdin.isTTY || child.kill('SIGINT'));
    process.on('SIGTERM', () => child.kill('SIGTERM'));
    child.on('error', reject);
    child.on('exit', (code) => resolve(code ?? 1));
  });
}

/** The fields of a line of JSON; none when it is anything else. */
function readJson(line) {
  try {
    return JSON.parse(line) ?? {};
  } catch {
    return {};
  }
}
