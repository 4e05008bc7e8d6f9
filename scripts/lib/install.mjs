/** What must be on the machine before Hatch runs: Debian packages and npm packages. Plain JavaScript for Node 18. */
import { accessSync, constants, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline/promises';
import { fileURLToPath } from 'node:url';
import { command, step, Stop } from './say.mjs';

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const FOLDERS = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];

/** The packages of a kind (`run`, `test`) of which neither program nor file is there. */
export function missingPackages(kinds) {
  const list = JSON.parse(readFileSync(path.join(ROOT, 'scripts/lib/debian-packages.json'), 'utf8'));
  return kinds.flatMap((kind) => list[kind]).filter(({ binary, file }) => !isThere(binary, file));
}

function isThere(binary, file) {
  if (file) return existsSync(file);
  const folders = [...(process.env.PATH ?? '').split(':'), ...FOLDERS].filter((folder) => folder !== '');
  return folders.some((folder) => {
    try {
      accessSync(path.join(folder, binary), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/**
 * Installs the missing Debian packages: shows the list, and asks on a terminal unless `yes`. Throws a Stop with the
 * command to type where it may not, or where this is no Debian.
 */
export async function debianPackages(kinds, { yes }) {
  const missing = missingPackages(kinds);
  if (missing.length === 0) return step('Debian packages', async () => 'all there');
  const names = missing.map((one) => one.package);
  const byHand = `apt-get update && apt-get install -y --no-install-recommends ${names.join(' ')}`;
  if (!isThere('apt-get'))
    throw new Stop(
      `This needs programs that are not there: ${missing.map((one) => one.binary ?? one.file).join(', ')}. It can install them on Debian and Ubuntu only; here, install them as your system does and run this again.`,
    );
  if (process.getuid() !== 0)
    throw new Stop(
      `Debian packages are missing, and only root may install them. Run:\n    sudo sh -c '${byHand}'`,
    );
  console.log('Debian packages to install:');
  for (const one of missing) console.log(`  ${one.package.padEnd(18)} ${one.why}`);
  if (!yes && process.stdin.isTTY && process.stdout.isTTY) {
    const terminal = createInterface({ input: process.stdin, output: process.stdout });
    const answer = await terminal.question('Install them now? [Y/n] ');
    terminal.close();
    if (!/^(y|yes|)$/i.test(answer.trim())) throw new Stop(`Nothing was installed. By hand:\n    ${byHand}`);
  } else if (!yes) {
    throw new Stop(`There is no terminal to ask on: add --yes to install them, or run:\n    ${byHand}`);
  }
  await step('Debian packages', async (progress) => {
    const env = { DEBIAN_FRONTEND: 'noninteractive' };
    await command('apt-get', ['update', '-q'], { env, onLine: progress });
    const quiet = keepServicesDown();
    try {
      await command('apt-get', ['install', '-y', '-q', '--no-install-recommends', ...names], {
        env,
        onLine: progress,
      });
    } finally {
      quiet();
    }
    const still = missingPackages(kinds);
    if (still.length > 0)
      throw new Stop(
        `Still missing after the installation: ${still.map((one) => one.binary ?? one.file).join(', ')}.`,
      );
    return `installed ${names.length}`;
  });
}

/**
 * Keeps newly installed packages (a database, a web server) from starting their services on this machine: the tests start
 * their own. Debian asks /usr/sbin/policy-rc.d, and 101 means no. Gives back how to undo it.
 */
function keepServicesDown() {
  const file = '/usr/sbin/policy-rc.d';
  if (existsSync(file)) return () => undefined;
  writeFileSync(file, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  return () => rmSync(file, { force: true });
}

/** Whether node_modules holds exactly what the lock file says, and a Node 24 that runs. */
async function npmPackagesAreThere() {
  const hidden = path.join(ROOT, 'node_modules/.package-lock.json');
  if (!existsSync(hidden)) return false;
  const wanted = JSON.parse(readFileSync(path.join(ROOT, 'package-lock.json'), 'utf8')).packages;
  const there = JSON.parse(readFileSync(hidden, 'utf8')).packages;
  for (const [name, { version, optional, peer }] of Object.entries(wanted))
    if (name !== '' && !optional && !peer && there[name]?.version !== version) return false;
  for (const [name, { version }] of Object.entries(there))
    if (wanted[name]?.version !== version) return false;
  return (await nodeVersion()) !== undefined;
}

async function nodeVersion() {
  try {
    const { output } = await command(path.join(ROOT, 'node_modules/node/bin/node'), ['--version']);
    return output.trim();
  } catch {
    return undefined;
  }
}

/** Installs the npm packages of the lock file where they are missing or others. */
export async function npmPackages() {
  await step('npm packages', async (progress) => {
    if (await npmPackagesAreThere()) return 'all there';
    await command('npm', ['ci', '--no-audit', '--no-fund'], { cwd: ROOT, onLine: progress });
    const version = await nodeVersion();
    if (version === undefined)
      throw new Stop(
        'npm did not install the package "node", which brings Node 24: were install scripts switched off (npm config get ignore-scripts)? Run "npm rebuild node", then this again.',
      );
    return `installed, with Node ${version}`;
  });
}

/** Throws a Stop unless we are root on Linux. */
export function mustBeRoot(what) {
  if (process.platform !== 'linux') throw new Stop(`${what} needs Linux; this is ${process.platform}.`);
  if (process.getuid() !== 0)
    throw new Stop(
      `${what} makes bridges and virtual machines, so it must run as root: put "sudo" before it.`,
    );
}
