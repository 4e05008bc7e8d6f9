'use strict';
/**
 * Starts a TypeScript program of this project under Node 24, whatever Node (from 18) runs this file. CommonJS, because
 * Node 18 refuses files without an extension, as bin/hatchd is, as ES modules.
 */
const { spawn } = require('node:child_process');
const { existsSync } = require('node:fs');
const { constants } = require('node:os');
const path = require('node:path');

const ROOT = path.dirname(__dirname);
const OLDEST = 24;
/** node:sqlite calls itself experimental on every start; nobody who reads that can do anything about it. */
const FLAGS = ['--disable-warning=ExperimentalWarning'];
/**
 * hatchd's besides, which bin/hatchd has to repeat: memory is the guests'. What a request needs is garbage in a moment, and V8 would
 * give it 100 MiB under load, and keep them; a quarter (8 MiB, of which it has three) answers as fast. What lives longer may grow by
 * a fifth before V8 looks for what of it is garbage, since while nobody asks it does not look.
 */
const HATCHD_FLAGS = [...FLAGS, '--max-semi-space-size=8', '--heap-growing-percent=20'];
/** Where its environment says nothing else: glibc keeps some of what is freed, in up to eight arenas a processor; mallopt(3). */
const HATCHD_ENV = { MALLOC_ARENA_MAX: '2' };

/** The path of a Node of version 24 or newer: the one in node_modules, else the one we run under; undefined: none. */
function findNode() {
  for (const file of ['node_modules/node/bin/node', 'node_modules/.bin/node']) {
    const there = path.join(ROOT, file);
    if (existsSync(there)) return there;
  }
  return Number(process.versions.node.split('.')[0]) >= OLDEST ? process.execPath : undefined;
}

/**
 * Becomes the program `main` (a path under src/) under Node with `flags` and what of `env` the environment does not say otherwise, or
 * ends with a sentence saying what is missing.
 */
function launch(main, flags = FLAGS, env = {}) {
  const node = findNode();
  if (!existsSync(path.join(ROOT, 'node_modules')))
    return refuse(`The npm packages are not installed. Run "npm ci" in ${ROOT} first.`);
  if (node === undefined)
    return refuse(
      `Hatch runs on Node ${OLDEST} or newer; this is ${process.versions.node}, and node_modules has none. Run "npm ci" in ${ROOT}.`,
    );
  // What was compiled once is not compiled again: it starts in half the time. Where it cannot be written, nothing is kept.
  process.env.NODE_COMPILE_CACHE ||= path.join(ROOT, 'node_modules/.cache/compiled');
  for (const [name, value] of Object.entries(env)) process.env[name] ||= value;
  const argv = [node, ...flags, path.join(ROOT, 'src', main), ...process.argv.slice(2)];
  // execve(2) leaves one process with our pid: signals, exit codes and supervisors just work. Node has it from 22.15 on.
  if (typeof process.execve === 'function') return process.execve(node, argv, process.env);
  standBefore(argv);
}

/** Without execve: a child with our terminal and our signals, that dies when we are killed and whose end is ours. */
function standBefore(argv) {
  // PR_SET_PDEATHSIG, through util-linux's setpriv: even `kill -9` of this process leaves no daemon behind.
  const setpriv = ['/usr/bin/setpriv', '/bin/setpriv'].find((file) => existsSync(file));
  const [program, ...args] = setpriv ? [setpriv, '--pdeathsig', 'KILL', '--', ...argv] : argv;
  const child = spawn(program, args, { stdio: 'inherit' });
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR2'])
    process.on(signal, () => {
      // A terminal sends Ctrl-C to both of us; handing it on would make two of one.
      const fromTerminal = process.stdin.isTTY && (signal === 'SIGINT' || signal === 'SIGQUIT');
      if (!fromTerminal) child.kill(signal);
    });
  child.on('error', (error) => refuse(`${program} could not be started: ${error.message}`));
  child.on('exit', (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
    // Where the signal did not end us, end as a shell would say it.
    setTimeout(() => process.exit(128 + (constants.signals[signal] || 0)), 100);
  });
}

function refuse(sentence) {
  console.error(sentence);
  process.exit(1);
}

module.exports = { findNode, launch, FLAGS, HATCHD_ENV, HATCHD_FLAGS, ROOT };
