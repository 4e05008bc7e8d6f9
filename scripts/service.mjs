/**
 * `npm run service`: installs, upgrades and removes hatchd as a service of systemd (docs/operate.md). Plain JavaScript, for any Node
 * from 18: it runs before anything is installed.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline/promises';
import { parseEnv } from 'node:util';
import { debianPackages, mustBeRoot, npmPackages, ROOT } from './lib/install.mjs';
import { command, main, step, Stop } from './lib/say.mjs';
import { HELP, readOptions } from './lib/service-options.mjs';

const UNIT = '/etc/systemd/system/hatchd.service';
const SETTINGS = '/etc/hatch/hatchd.env';
/** What an operator types, with the service's own settings. */
const COMMANDS = { hatchd: '/usr/local/sbin/hatchd', hatch: '/usr/local/bin/hatch' };
const MARK = '# Made by `npm run service` of Hatch.';
const READY_MS = 60_000;
/** What hatchd and the quickstart make in a data folder. */
const MADE =
  /^(admin-key|hatch\.db.*|host-name|hatchd\.pid.*|kvm\.json|images|layers|net|snapshots|spool|vms|quickstart.*|hatchd\.log)$/;

await main(async () => {
  const options = readOptions(process.argv.slice(2), process.env.INIT_CWD ?? process.cwd());
  if (options.help) return void console.log(HELP);
  mustBeRoot('Hatch');
  if (!existsSync('/run/systemd/system'))
    throw new Stop(
      'systemd does not run this machine. Start bin/hatchd with whatever does; docs/operate.md says what it expects.',
    );
  if (!/^[\w./@+-]+$/.test(ROOT))
    throw new Stop(
      `systemd would need the path ${ROOT} in quotes; move this folder to one of plain letters.`,
    );
  await (options.verb === 'install' ? install(options) : uninstall(options));
});

async function install({ data, yes }) {
  await debianPackages(['run'], { yes });
  const folder = settle(data);
  await step('hatchd', async () => {
    const stopped = await stop(folder);
    return stopped ? 'stopped for now; guests run on' : 'does not run yet';
  });
  try {
    await putInPlace(folder);
  } catch (error) {
    // What was installed before serves on, where what went wrong lets it.
    if (existsSync(UNIT)) await command('systemctl', ['start', 'hatchd'], { okCodes: [0, 1, 5] });
    throw error;
  }
  console.log(`
Settings       ${SETTINGS}; after a change: systemctl restart hatchd
Admin key      ${path.join(folder, 'admin-key')}
What it says   journalctl -u hatchd -f
Look at it     hatchd doctor, hatchd config
A first VM     hatch vm create web --wait
Upgrade        put the new version into ${ROOT}, then: npm run service -- install
Remove         npm run service -- uninstall`);
}

/** Everything that is installed while hatchd does not run, and its start. */
async function putInPlace(folder) {
  await npmPackages();
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  await step('Default image', async (progress) => {
    await hatchd(['image', 'build'], { onLine: progress });
  });
  await step('What this machine needs', async () => {
    const { code, output } = await hatchd(['doctor'], { okCodes: [0, 1] });
    const [verdicts, words] = [output.split('\n'), (kind) => `  ${kind.join('\n  ')}`];
    const bad = verdicts.filter((line) => line.startsWith('FAIL'));
    const warned = verdicts.filter((line) => line.startsWith('warn'));
    if (code !== 0)
      throw new Stop(
        `Guests cannot run here yet:\n${words(bad)}\nMend that, and run this again. Settings are in ${SETTINGS}.`,
      );
    return warned.length > 0 ? `there, but\n${words(warned)}\n ` : 'all there';
  });
  await step('Service', async () => {
    const unit = readFileSync(path.join(ROOT, 'deploy/hatchd.service'), 'utf8').replaceAll(
      '/opt/hatch',
      ROOT,
    );
    writeFileSync(UNIT, unit);
    for (const [name, file] of Object.entries(COMMANDS)) makeCommand(name, file);
    await command('systemctl', ['daemon-reload']);
    await command('systemctl', ['enable', '--quiet', 'hatchd']);
    await command('systemctl', ['reset-failed', 'hatchd'], { okCodes: [0, 1] });
    await command('systemctl', ['start', 'hatchd']);
    await ready();
    return 'hatchd.service, started with the machine';
  });
}

async function uninstall({ purge, yes }) {
  const settings = readSettings();
  const folder = dataOf(settings);
  if (purge && !yes) await sure(`This removes all VMs, disks, snapshots and keys in ${folder}. Type "yes": `);
  await step('hatchd and its guests', async () => {
    // Stopped by systemd first: it would start again what ends.
    await command('systemctl', ['disable', '--quiet', '--now', 'hatchd'], { okCodes: [0, 1, 5] });
    const { output } = await hatchd(['down']);
    return output.trim().split('\n').at(-1);
  });
  await step('Service', async () => {
    for (const file of [UNIT, ...Object.values(COMMANDS).filter(isOurs)]) rmSync(file, { force: true });
    await command('systemctl', ['daemon-reload']);
    await command('systemctl', ['reset-failed', 'hatchd'], { okCodes: [0, 1] });
    return 'removed';
  });
  if (!purge)
    return console.log(`
Disks, snapshots, database and keys are still in ${folder}, settings in ${path.dirname(SETTINGS)}.
To remove them too: npm run service -- uninstall --purge`);
  await step('Data', async () => {
    const left = removeData(folder);
    rmSync(SETTINGS, { force: true });
    removeIfEmpty(path.dirname(SETTINGS));
    return left.length === 0
      ? `${folder} and ${SETTINGS} removed`
      : `removed; in ${folder} are still ${left.join(', ')}, which Hatch did not make`;
  });
  const { DATABASE_URL: database, HATCH_SNAPSHOT_STORE: store } = settings;
  for (const [what, where] of Object.entries({ database, 'snapshot store': store }))
    if (where) console.log(`The ${what} of its settings lies elsewhere and stays as it is.`);
  console.log(`\nOf Hatch there are still this folder, ${ROOT}, and Debian's packages.`);
}

/** Removes what Hatch made in a folder, and the folder where nothing else is in it; gives the names of what else is. */
function removeData(folder) {
  const names = existsSync(folder) ? readdirSync(folder) : [];
  for (const name of names.filter((one) => MADE.test(one)))
    rmSync(path.join(folder, name), { recursive: true, force: true });
  removeIfEmpty(folder);
  return names.filter((one) => !MADE.test(one));
}

function removeIfEmpty(folder) {
  if (existsSync(folder) && readdirSync(folder).length === 0) rmdirSync(folder);
}

/** Makes the file of settings where there is none; gives the data folder. */
function settle(data) {
  if (!existsSync(SETTINGS)) {
    mkdirSync(path.dirname(SETTINGS), { recursive: true, mode: 0o755 });
    writeFileSync(
      SETTINGS,
      `# Settings of hatchd, NAME=value a line; docs/configuration.md has all of them.
HATCH_DATA_DIR=${data ?? path.join(ROOT, 'data')}
# HATCH_PROXY_BASE_DOMAIN=vms.example.com
# HATCH_SNAPSHOT_STORE=s3://bucket/prefix
`,
      { mode: 0o600 },
    );
  }
  const there = dataOf(readSettings());
  if (data !== undefined && data !== there)
    throw new Stop(
      `${SETTINGS} has HATCH_DATA_DIR=${there}, not ${data}. Change it there; what lies in the old folder does not move by itself.`,
    );
  return there;
}

function readSettings() {
  return existsSync(SETTINGS) ? parseEnv(readFileSync(SETTINGS, 'utf8')) : {};
}

function dataOf({ HATCH_DATA_DIR: data }) {
  return data ? path.resolve('/', data) : path.join(ROOT, 'data');
}

/** Ends the hatchd of a data folder, the service or one that was started by hand; false when none runs. Guests run on. */
async function stop(folder) {
  await command('systemctl', ['stop', 'hatchd'], { okCodes: [0, 5] });
  const file = path.join(folder, 'hatchd.pid');
  if (!existsSync(file)) return existsSync(UNIT);
  const { pid } = JSON.parse(readFileSync(file, 'utf8'));
  const runs = () => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('daemon/main.ts');
    } catch {
      return false;
    }
  };
  if (!runs()) return existsSync(UNIT);
  process.kill(pid, 'SIGTERM');
  for (let tries = 0; tries < 150; tries++) {
    if (!runs()) return true;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Stop(`hatchd (pid ${pid}) has ${folder} and does not end; end it, and run this again.`);
}

function hatchd(args, how) {
  const settings = existsSync(SETTINGS) ? ['--settings', SETTINGS] : [];
  return command(path.join(ROOT, 'bin/hatchd'), [...settings, ...args], { cwd: ROOT, ...how });
}

/** A command on the operator's path; one of the same name that is not ours stays. */
function makeCommand(name, file) {
  if (existsSync(file) && !isOurs(file))
    return console.log(`  ${file} is not ours and stays; use ${path.join(ROOT, 'bin', name)}.`);
  const how = name === 'hatchd' ? ` --settings ${SETTINGS}` : '';
  const data =
    name === 'hatch' ? `: "\${HATCH_DATA_DIR:=${dataOf(readSettings())}}"; export HATCH_DATA_DIR\n` : '';
  writeFileSync(file, `#!/bin/sh\n${MARK}\n${data}exec ${path.join(ROOT, 'bin', name)}${how} "$@"\n`, {
    mode: 0o755,
  });
}

function isOurs(file) {
  return existsSync(file) && readFileSync(file, 'utf8').includes(MARK);
}

/** Waits until hatchd says that it is ready. Throws a Stop with what it logged where it does not. */
async function ready() {
  const { output } = await hatchd(['config', '--json']);
  const rows = JSON.parse(output.slice(output.indexOf('[')));
  const valueOf = (name) => rows.find((row) => row.name === name)?.value;
  const secure = valueOf('HATCH_HTTP_TLS_CERT') !== null;
  const address = valueOf('HATCH_HTTP_ADDR').replace(/^(0\.0\.0\.0|\[::\])?:/, '127.0.0.1:');
  const until = Date.now() + READY_MS;
  let last = 'it does not answer';
  while (Date.now() < until) {
    const state = await command('systemctl', ['is-active', 'hatchd'], { okCodes: [0, 3] });
    if (state.output.trim() === 'failed') break;
    try {
      // Its certificate may be any: it is asked only whether it answers.
      if (secure) return;
      const answer = await fetch(`http://${address}/readyz`);
      if (answer.ok) return;
      last = await answer.text();
    } catch {
      // It is still starting.
    }
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  throw new Stop(
    `hatchd was started and is not ready. It said:\n  ${(await complaints()).join('\n  ') || last}\nAll of it: journalctl -u hatchd`,
  );
}

/** What hatchd has last complained of. */
async function complaints() {
  const journal = ['-u', 'hatchd', '-n', '50', '--no-pager', '-o', 'cat'];
  const { output } = await command('journalctl', journal, { okCodes: [0, 1] });
  const said = output.split('\n').flatMap((line) => {
    try {
      const { level, msg } = JSON.parse(line);
      return ['error', 'warn'].includes(level) ? [msg] : [];
    } catch {
      return line.startsWith('hatchd: ') ? [line] : [];
    }
  });
  return [...new Set(said)].slice(-5);
}

async function sure(question) {
  if (!process.stdin.isTTY) throw new Stop('There is no terminal to ask on: add --yes to remove everything.');
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  const answer = await terminal.question(question);
  terminal.close();
  if (answer.trim() !== 'yes') throw new Stop('Nothing was removed.');
}
