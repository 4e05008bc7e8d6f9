import { randomBytes } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiError, type HatchClient } from '../../src/clients/http.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { exists } from '../../src/host/files.ts';
import { CommandFailed, run, type Argv } from '../../src/host/run.ts';
import { Stop } from './say.mjs';

export const NAME = 'quickstart';
/** The label that keeps the word the guest must say back. */
const NONCE = 'quickstart-nonce';
const MARKER = '/etc/hatch-quickstart';
const READY_MS = 300_000;
const SSH_MS = 180_000;

type Progress = (text: string) => void;

/** A key pair of our own in the data folder; made when missing. */
export async function sshKey(data: string): Promise<{ readonly file: string; readonly publicKey: string }> {
  const file = join(data, 'quickstart_ed25519');
  if (!(await exists(file)))
    await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', 'hatch-quickstart', '-f', file]);
  return { file, publicKey: (await readFile(`${file}.pub`, 'utf8')).trim() };
}

/**
 * Finds the VM, starts it if it is stopped or asleep, or makes it: with the caller's key in cloud-init, and a marker file with a word
 * that nobody can know. Throws a Stop when it is in a state only a person can judge.
 */
export async function findOrMakeVm(
  client: HatchClient,
  {
    data,
    publicKey,
    signal,
  }: { readonly data: string; readonly publicKey: string; readonly signal: AbortSignal },
): Promise<{ readonly vm: Vm; readonly made: boolean }> {
  const found = await client.vms.get(NAME, { signal }).catch((error: unknown) => {
    if (error instanceof ApiError && error.code === 'not_found') return undefined;
    throw error;
  });
  if (found === undefined) {
    // A new guest has new host keys; what is known of the last one at this port would forbid us to go in.
    await rm(knownHosts(data), { force: true });
    const nonce = randomBytes(12).toString('hex');
    const user_data = userData(publicKey, nonce);
    const vm = await client.vms.create(
      { name: NAME, user_data, ssh_authorized_keys: [publicKey], labels: { [NONCE]: nonce } },
      { signal },
    );
    return { vm, made: true };
  }
  if (found.state === 'stopped' || found.state === 'snapshotted')
    return { vm: await client.vms.start(NAME, {}), made: false };
  if (found.state === 'running' || found.state === 'starting') return { vm: found, made: false };
  throw new Stop(
    `The VM "${NAME}" is in state "${found.state}"${found.state_reason ? `: ${found.state_reason.message}` : ''}.\nRemove it and run this again: bin/hatch vm rm ${NAME}`,
  );
}

/** The caller's cloud-init: their key for a user of their own, and the marker. */
export function userData(publicKey: string, nonce: string): string {
  return `#cloud-config
users:
  - default
  - name: hatch
    shell: /bin/bash
    sudo: ALL=(ALL) NOPASSWD:ALL
    ssh_authorized_keys:
      - ${publicKey}
runcmd:
  - echo ${nonce} > ${MARKER}
`;
}

/** Waits until the guest has answered; meanwhile its console's last line is shown. Throws a Stop with the console's end. */
export async function untilReady(client: HatchClient, progress: Progress, signal: AbortSignal): Promise<Vm> {
  const deadline = Date.now() + READY_MS;
  for (;;) {
    const vm = await client.vms.get(NAME, { signal });
    if (vm.ready && vm.state === 'running') return vm;
    const console = await client.vms.console(NAME, { tail: 4096, signal }).catch(() => '');
    const lines = console
      .split(/[\r\n]+/)
      .map(printable)
      .filter((line) => line !== '');
    if (vm.state === 'error' || vm.state === 'stopped' || Date.now() > deadline)
      throw new Stop(
        `The guest did not become ready: ${vm.state_reason?.message ?? `it is ${vm.state}`}\nThe end of its console:\n${lines
          .slice(-15)
          .map((line) => `    ${line}`)
          .join('\n')}`,
      );
    progress(lines.at(-1) ?? vm.state);
    await sleep(500, undefined, { signal });
  }
}

/** The command line that leads into the guest. */
export function sshArgv(target: {
  readonly data: string;
  readonly keyFile: string;
  readonly port: number;
}): Argv {
  return [
    'ssh',
    ...['-i', target.keyFile],
    ...['-o', `UserKnownHostsFile=${knownHosts(target.data)}`],
    ...['-o', 'StrictHostKeyChecking=accept-new'],
    ...['-p', String(target.port)],
    'hatch@127.0.0.1',
  ];
}

/**
 * Goes in over SSH, waits for cloud-init to end, and reads back the word. Gives what the guest says of itself. Throws a
 * Stop when it cannot be reached, or says another word.
 */
export async function askGuest(argv: Argv, vm: Vm, progress: Progress, signal: AbortSignal): Promise<string> {
  const script = [
    // cloud-init writes its result when it is done; asking its own program takes ten seconds of an emulated CPU.
    'until [ -s /run/cloud-init/result.json ]; do sleep 0.5; done',
    `echo "marker=$(cat ${MARKER})"`,
    'echo "result=$(cat /run/cloud-init/result.json | tr -d "\\n ")"',
    '. /etc/os-release; echo "$PRETTY_NAME, Linux $(uname -r), host name $(hostname), up $(cut -d. -f1 /proc/uptime) s"',
  ].join('\n');
  const quiet = ['-o', 'BatchMode=yes', '-o', 'ConnectTimeout=10', '-o', 'LogLevel=ERROR'];
  const [ssh, ...options] = argv;
  const deadline = Date.now() + SSH_MS;
  for (;;) {
    try {
      const { stdout } = await run([ssh, ...quiet, ...options, 'sh'], {
        input: script,
        timeoutMs: SSH_MS,
        signal,
      });
      const said = new Map(stdout.split('\n').map((line) => splitOnce(line)));
      const word = said.get('marker');
      if (word !== vm.labels?.[NONCE])
        throw new Stop(
          `The guest answered, but ${MARKER} says ${JSON.stringify(word)} and not the word cloud-init was given.\nIts cloud-init says ${said.get('result') ?? 'nothing'}. Look at /var/log/cloud-init-output.log in it.`,
        );
      progress('answered');
      return stdout.trim().split('\n').at(-1) ?? '';
    } catch (error) {
      if (!(error instanceof CommandFailed)) throw error;
      // 255 is ssh's own failure: the guest's sshd may not be up yet.
      if (error.exitCode !== 255 || Date.now() > deadline)
        throw new Stop(`No way into the guest over SSH: ${error.message}\nBy hand: ${shellWords(argv)}`, {
          cause: error,
        });
      progress(error.stderrTail.split('\n').at(-1) ?? '');
      await sleep(1000, undefined, { signal });
    }
  }
}

/** A command as one types it. */
export function shellWords(argv: readonly string[]): string {
  return argv
    .map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`))
    .join(' ');
}

function knownHosts(data: string): string {
  return join(data, 'quickstart_known_hosts');
}

function splitOnce(line: string): [string, string] {
  const at = line.indexOf('=');
  return at < 0 ? [line, ''] : [line.slice(0, at), line.slice(at + 1)];
}

/** A console's line without control characters and colours, short enough for one line of a terminal. */
function printable(line: string): string {
  // eslint's no-control-regex would forbid the escape character itself; code points say the same.
  const text = line.replaceAll(new RegExp(`${String.fromCharCode(27)}\\[[0-9;?]*[A-Za-z]`, 'g'), '');
  return [...text]
    .filter((char) => char >= ' ' && char !== String.fromCharCode(127))
    .join('')
    .trim()
    .slice(0, 70);
}
