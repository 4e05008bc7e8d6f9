import { writeSync } from 'node:fs';
import { ArgumentError, Arguments, wrongId, type ArgumentSpec } from './arguments.ts';
import { readFaults } from './faults.ts';
import { apiServer } from './http-server.ts';
import { readKnobs, type Knobs } from './knobs.ts';
import { Log } from './log.ts';
import { Metrics } from './metrics.ts';
import { osError } from './musl.ts';
import { Refused } from './calls.ts';
import { formatOf } from './state-file.ts';
import { Tap } from './tap.ts';
import { Vmm } from './vmm.ts';

/**
 * A stand-in for the program `firecracker`: its command line, its API on a unix socket with the states, texts, side effects and exit codes
 * of v1.16, and a pretended guest (guest.ts) instead of a virtual machine. What Hatch's Firecracker driver is held to where KVM
 * or Firecracker itself is not to be had. What it does not play: --config-file and --no-api, userfaultfd, vhost-user, network
 * traffic of the guest, and the metadata service as the guest sees it.
 */

const OPTIONS: Readonly<Record<string, ArgumentSpec>> = {
  'api-sock': { takes: 'value' },
  id: { takes: 'value' },
  'seccomp-filter': { takes: 'value', forbids: ['no-seccomp'] },
  'no-seccomp': { takes: 'nothing', forbids: ['seccomp-filter'] },
  'start-time-us': { takes: 'value' },
  'start-time-cpu-us': { takes: 'value' },
  'parent-cpu-time-us': { takes: 'value' },
  'config-file': { takes: 'value' },
  metadata: { takes: 'value' },
  'no-api': { takes: 'nothing', requires: 'config-file' },
  'log-path': { takes: 'value' },
  level: { takes: 'value' },
  module: { takes: 'value' },
  'show-level': { takes: 'nothing' },
  'show-log-origin': { takes: 'nothing' },
  'metrics-path': { takes: 'value' },
  'boot-timer': { takes: 'nothing' },
  version: { takes: 'nothing' },
  'snapshot-version': { takes: 'nothing' },
  'describe-snapshot': { takes: 'value' },
  'http-api-max-payload-size': { takes: 'value' },
  'mmds-size-limit': { takes: 'value' },
  'enable-pci': { takes: 'nothing' },
};

const EXIT = { ok: 0, generic: 1, badConfiguration: 152, argParsing: 153 } as const;
/** Signals it ends at in an orderly manner, with a code of their own; SIGTERM just kills it. */
const SIGNALS = [
  ['SIGXFSZ', 151],
  ['SIGXCPU', 154],
  ['SIGHUP', 156],
] as const;

function print(text: string): void {
  writeSync(1, text);
}

/** The end of the process with an error: Debug's words on standard error. */
function fail(debug: string, code: number): never {
  writeSync(2, `Error: ${debug}\n`);
  process.exit(code);
}

/** What Rust's panic does: the process aborts. */
function panic(what: string): never {
  writeSync(2, `thread 'main' panicked: ${what}\n`);
  process.kill(process.pid, 'SIGABRT');
  throw new Error('unreachable');
}

function main(): void {
  const knobs = readKnobs(process.env);
  let args: Arguments;
  try {
    args = new Arguments(process.argv.slice(2), OPTIONS);
  } catch (error) {
    if (!(error instanceof ArgumentError)) throw error;
    return fail(`ParseArguments(${error.debug})`, EXIT.argParsing);
  }
  if (args.has('help'))
    return print(
      `Firecracker v${knobs.version.text}\n\noptional arguments:\n${Object.keys(OPTIONS)
        .sort()
        .map((name) => `  --${name}\n`)
        .join('')}\n`,
    );
  if (args.has('version')) return print(`Firecracker v${knobs.version.text}\n\n`);
  if (args.has('snapshot-version')) return print(`v${knobs.version.snapshotFormat}\n`);
  const described = args.value('describe-snapshot');
  if (described !== undefined) return describe(described, knobs);
  void run(args, knobs);
}

function describe(path: string, knobs: Knobs): void {
  try {
    print(`v${formatOf(path, knobs.version.snapshotFormat)}\n`);
  } catch (error) {
    fail(`PrintSnapshotDataFormat(${JSON.stringify(osError(error))})`, EXIT.generic);
  }
}

function size(args: Arguments, name: string, otherwise: number): number {
  const given = args.value(name);
  if (given === undefined) return otherwise;
  if (!/^\+?\d+$/.test(given)) panic(`'${name}' parameter expected to be of 'usize' type.`);
  return Number(given);
}

async function run(args: Arguments, knobs: Knobs): Promise<void> {
  const id = args.value('id') ?? 'anonymous-instance';
  const wrong = wrongId(id);
  if (wrong) panic(`Invalid instance ID: ${wrong.debug}`);
  for (const unplayed of ['config-file', 'metadata']) {
    if (args.has(unplayed)) panic(`the double does not play --${unplayed}`);
  }
  const level = args.value('level') ?? null;
  if (level !== null && !/^(off|trace|debug|info|warn|warning|error)$/i.test(level))
    fail(`InvalidLogLevel(LevelFilterFromStrError(${JSON.stringify(level)}))`, EXIT.badConfiguration);
  const made = { made: knobs.version.has14 };
  const log = new Log(id, made);
  const metrics = new Metrics(made);
  try {
    log.configure({
      log_path: args.value('log-path') ?? null,
      level,
      show_level: args.has('show-level') ? true : null,
    });
    log.info(`Running Firecracker v${knobs.version.text}`);
    const metricsPath = args.value('metrics-path');
    if (metricsPath !== undefined) metrics.configure(metricsPath);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return fail(
      `${error.message.startsWith('Logger') ? 'LoggerInitialization' : 'MetricsInitialization'}(${JSON.stringify(error.message)})`,
      EXIT.generic,
    );
  }
  for (const [signal, code] of SIGNALS) process.on(signal, () => end(code));
  if (knobs.pidNamespace) process.on('SIGTERM', () => undefined);
  const end = (how: number | 'kill'): void => {
    if (how === 'kill') return void process.kill(process.pid, 'SIGKILL');
    metrics.flush();
    if (how === 0) log.info('Firecracker exiting successfully. exit_code=0');
    else log.error(`Firecracker exiting with error. exit_code=${how}`);
    process.exit(how);
  };
  await start(knobs.start, end);
  const payloadLimit = size(args, 'http-api-max-payload-size', 51_200);
  const vmm = new Vmm({
    id,
    knobs,
    log,
    metrics,
    pci: args.has('enable-pci'),
    openTap: (name) => new Tap(name),
    mmdsLimit: size(args, 'mmds-size-limit', payloadLimit),
    end,
  });
  const server = apiServer({
    payloadLimit,
    handle: (request) => vmm.handle(request),
    faultAt: readFaults(knobs.faults),
    afterAnswer: () => {
      if (vmm.fatal === null) return;
      writeSync(2, `Error: RunWithApi(BuildMicroVmError(${vmm.fatal}))\n`);
      end(EXIT.generic);
    },
    end,
  });
  const path = args.value('api-sock') ?? '/run/firecracker.socket';
  server.once('error', (error) => {
    const used = 'code' in error && error.code === 'EADDRINUSE';
    if (used)
      log.error(
        `RunWithApiError error: Failed to open the API socket at: ${path}. Check that it is not already used.`,
      );
    writeSync(
      2,
      used
        ? `Error: RunWithApi(FailedToBindSocket(${JSON.stringify(path)}))\n`
        : `Error: RunWithApi(FailedToBindAndRunHttpServer(IOError(${JSON.stringify(osError(error))})))\n`,
    );
    end(EXIT.generic);
  });
  if (Buffer.byteLength(path) > 107)
    return fail(
      'RunWithApi(FailedToBindAndRunHttpServer(IOError(Error { kind: InvalidInput, message: "path must be shorter than SUN_LEN" })))',
      EXIT.generic,
    );
  server.listen(path, () => {
    log.info(`Listening on API socket (${JSON.stringify(path)}).`);
    log.info('API server started.');
  });
}

/** What FC_DOUBLE_START says happens before there is a socket. */
async function start(told: string, end: (how: number | 'kill') => void): Promise<void> {
  const [what, value] = told.split(' ');
  switch (what) {
    case '':
      return;
    case 'kill':
      return end('kill');
    case 'exit':
      return end(Number(value));
    case 'delay':
      return new Promise((resolve) => setTimeout(resolve, Number(value)));
    case 'hang':
      return new Promise(() => void setInterval(() => undefined, 2 ** 30));
    default:
      throw new Error(`FC_DOUBLE_START: ${told} means nothing`);
  }
}

main();
