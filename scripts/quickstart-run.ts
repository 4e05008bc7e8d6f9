import { join } from 'node:path';
import { type Daemon, findOrStartDaemon } from './lib/quickstart-daemon.ts';
import {
  askGuest,
  findOrMakeVm,
  NAME,
  shellWords,
  sshArgv,
  sshKey,
  untilReady,
} from './lib/quickstart-guest.ts';
import { command, main, step, Stop } from './lib/say.mjs';
import { formatTable } from '../src/clients/cli/table.ts';
import type { Vm } from '../src/contract/vm.ts';

/**
 * The second half of `npm run quickstart`, on Node 24 and, with --netns, inside that namespace: hatchd, a guest, and its
 * answer over SSH. quickstart.mjs gives it the options as JSON.
 */
interface Options {
  readonly once: boolean;
  readonly netns?: string;
  readonly port: number;
  readonly data: string;
}

const root = join(import.meta.dirname, '..');

await main(async () => {
  const options = JSON.parse(process.argv[2] ?? '{}') as Options;
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const)
    process.on(name, () => stop.abort(new Stop('Interrupted.')));
  const undo: { daemon?: Daemon; vm?: boolean } = {};
  try {
    await quickstart(options, undo, stop.signal);
  } catch (error) {
    if (!options.once && undo.daemon)
      console.log(`\nWhat was started is still there: ${inside(options, 'bin/hatchd down')} takes it down.`);
    throw stop.signal.aborted ? stop.signal.reason : error;
  } finally {
    if (options.once) await takeDown(options, undo);
    await undo.daemon?.client.close();
  }
  return 0;
});

/** All steps up to the guest's answer; notes in `undo` what it started. */
async function quickstart(
  options: Options,
  undo: { daemon?: Daemon; vm?: boolean },
  signal: AbortSignal,
): Promise<void> {
  const { data, port } = options;
  let daemon: Daemon | undefined;
  await step('hatchd', async (progress) => {
    daemon = await findOrStartDaemon({ root, data, port }, progress, signal);
    undo.daemon = daemon;
    return `${daemon.started ? 'started' : 'runs already'} at ${daemon.url}`;
  });
  if (!daemon) throw new Stop('hatchd is not there.');
  const { client } = daemon;
  const key = await sshKey(data);
  await step(`VM ${NAME}`, async () => {
    const { vm, made } = await findOrMakeVm(client, { data, publicKey: key.publicKey, signal });
    undo.vm = made;
    return `${made ? 'made' : 'there already'}, ${vm.id}`;
  });
  let vm: Vm | undefined;
  await step('Guest', async (progress) => {
    vm = await untilReady(client, progress, signal);
    return 'ready';
  });
  if (vm?.ssh_port === undefined)
    throw new Stop(`The VM "${NAME}" has no network; remove it: bin/hatch vm rm ${NAME}`);
  const argv = sshArgv({ data, keyFile: key.file, port: vm.ssh_port });
  let answer = '';
  const ready = vm;
  await step('cloud-init and SSH', async (progress) => {
    answer = await askGuest(argv, ready, progress, signal);
    return 'the guest said the word its cloud-init was given';
  });
  report(options, daemon, ready, { argv, answer, keyFile: key.file });
}

/** Says what there is now, and what can be done with it. */
function report(
  options: Options,
  daemon: Daemon,
  vm: Vm,
  said: { readonly argv: readonly string[]; readonly answer: string; readonly keyFile: string },
): void {
  const size = `${vm.vcpu_count} CPU, ${vm.mem_mib} MiB`;
  const lines = [
    '',
    `The guest says: ${said.answer}`,
    '',
    formatTable(
      ['NAME', 'ID', 'STATE', 'SIZE', 'IP', 'SSH PORT', 'VMM'],
      [
        [
          vm.name ?? '',
          vm.id,
          vm.state,
          size,
          vm.guest_ip ?? '',
          String(vm.ssh_port ?? ''),
          [vm.vmm, vm.accel].filter(Boolean).join('/'),
        ],
      ],
    ),
    '',
  ];
  if (!options.once)
    lines.push(
      ...(options.netns === undefined
        ? []
        : [`All of it lives in the network namespace ${options.netns}.`, '']),
      `Go in          ${inside(options, `bin/hatch vm ssh ${NAME}`)}`,
      `  or           ${inside(options, shellWords(said.argv))}`,
      `SSH key        ${said.keyFile}`,
      `API            ${daemon.url} with the key in ${join(options.data, 'admin-key')}`,
      `Documentation  ${daemon.url}/docs`,
      `All VMs        ${inside(options, 'bin/hatch vm ls')}`,
      `Remove the VM  ${inside(options, `bin/hatch vm rm ${NAME}`)}`,
      `Stop all       ${inside(options, 'bin/hatchd down')}`,
    );
  console.log(lines.join('\n'));
}

/** A command as it must be typed to reach this hatchd. */
function inside({ netns, data, port }: Options, what: string): string {
  const isHatch = what.startsWith('bin/');
  const words = [
    ...(isHatch && data !== join(root, 'data') ? [`HATCH_DATA_DIR=${data}`] : []),
    ...(isHatch && port !== 8080 ? [`HATCH_URL=http://127.0.0.1:${port}`] : []),
    ...(netns === undefined ? [] : ['nsenter', `--net=/run/netns/${netns}`]),
    what,
  ];
  return words.join(' ');
}

/** Undoes what was started here, in reverse; what was there before stays. */
async function takeDown(options: Options, undo: { daemon?: Daemon; vm?: boolean }): Promise<void> {
  const { daemon } = undo;
  if (undo.vm && daemon)
    await step(`VM ${NAME}`, async () => {
      await daemon.client.vms.delete(NAME);
      return 'removed';
    });
  if (daemon && !daemon.started) return console.log('hatchd ran before, so it goes on.');
  await step('hatchd', async (progress) => {
    await command(join(root, 'bin/hatchd'), ['down'], {
      env: { HATCH_DATA_DIR: options.data },
      onLine: progress,
    });
    return 'stopped, its bridge and rules removed';
  });
}
