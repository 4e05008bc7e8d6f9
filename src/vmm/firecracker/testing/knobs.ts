import { versionOf, type Version } from './versions.ts';

/**
 * How the doubles are told to misbehave: environment variables, since the command line is Firecracker's own. A daemon hands
 * its environment on to nobody, so a test that goes through one names a script as the binary (`wrapper.ts` writes it).
 *
 * FC_DOUBLE_VERSION      the release it says it is (`v1.16.1`), with that release's API and snapshot format
 * FC_DOUBLE_FAULTS       what goes wrong at which call; see faults.ts
 * FC_DOUBLE_START        before the API socket is there: `hang`, `exit N`, `delay MS`, or `kill` (by itself, with SIGKILL)
 * FC_DOUBLE_DEAF         1: the guest has no keyboard driver: SendCtrlAltDel is answered 204 and nothing happens
 * FC_DOUBLE_CTRL_ALT_DEL `reboot` (as systemd's ctrl-alt-del.target, the default) or `poweroff`: what a guest that hears it does
 * FC_DOUBLE_LOSES_VSOCK  1 or 0: whether a resume that no snapshot came before loses the way into the guest; as the release does
 * FC_DOUBLE_BOOT_MS      how long the guest takes until its agent listens; 0
 * FC_DOUBLE_SHUTDOWN_MS  how long the guest takes to shut down; 0
 * FC_DOUBLE_GUEST        `silent`: it boots and never has an agent; `panics`: its kernel panics instead of booting
 * FC_DOUBLE_RUNS_PROBE   1: the kernel that tries KVM (probe-kernel.ts) does what it would on a processor: it resets the machine
 * FC_DOUBLE_KVM          `denied` or `missing`: /dev/kvm cannot be opened, or is not there, when a machine is made
 * FC_DOUBLE_WHOLE_MEMORY 1: a full snapshot writes every byte of the memory, as the real one; otherwise the file is sparse
 * FC_DOUBLE_PID_NS       1: SIGTERM does nothing, as to the first process of a pid namespace
 * FC_DOUBLE_PROC_MOUNTS  for the jailer's double: a file read in the place of /proc/mounts, to pretend cgroup hierarchies
 * FC_DOUBLE_ROOT         the project's folder, for a copy of the launcher that lies elsewhere; the jailer's double sets it
 */
export interface Knobs {
  readonly version: Version;
  readonly faults: string;
  readonly start: string;
  readonly deaf: boolean;
  readonly ctrlAltDel: 'reboot' | 'poweroff';
  readonly losesVsock: boolean;
  readonly bootMs: number;
  readonly shutdownMs: number;
  readonly guest: 'well' | 'silent' | 'panics';
  readonly runsProbe: boolean;
  readonly kvm: 'well' | 'denied' | 'missing';
  readonly wholeMemory: boolean;
  readonly pidNamespace: boolean;
}

export const NEWEST = 'v1.16.1';

/** Reads the knobs. Throws for one that means nothing: a typo must not make a test pass. */
export function readKnobs(env: Readonly<Record<string, string | undefined>>): Knobs {
  for (const name of Object.keys(env)) {
    if (name.startsWith('FC_DOUBLE_') && !KNOWN.includes(name)) throw new Error(`${name} is no knob`);
  }
  const version = versionOf(env['FC_DOUBLE_VERSION'] ?? NEWEST);
  const flag = (name: string, without: boolean): boolean => {
    const value = env[name];
    if (value === undefined || value === '') return without;
    if (value !== '0' && value !== '1') throw new Error(`${name} is 0 or 1`);
    return value === '1';
  };
  const choice = <const T extends string>(name: string, without: T, ...others: readonly T[]): T => {
    const value = env[name] ?? without;
    const found = [without, ...others].find((one) => one === value);
    if (found === undefined) throw new Error(`${name} is one of ${[without, ...others].join(', ')}`);
    return found;
  };
  const count = (name: string): number => {
    const value = Number(env[name] ?? 0);
    if (!Number.isInteger(value) || value < 0) throw new Error(`${name} is a whole number`);
    return value;
  };
  return {
    version,
    faults: env['FC_DOUBLE_FAULTS'] ?? '',
    start: env['FC_DOUBLE_START'] ?? '',
    deaf: flag('FC_DOUBLE_DEAF', false),
    ctrlAltDel: choice('FC_DOUBLE_CTRL_ALT_DEL', 'reboot', 'poweroff'),
    losesVsock: flag('FC_DOUBLE_LOSES_VSOCK', version.losesVsock),
    bootMs: count('FC_DOUBLE_BOOT_MS'),
    shutdownMs: count('FC_DOUBLE_SHUTDOWN_MS'),
    guest: choice('FC_DOUBLE_GUEST', 'well', 'silent', 'panics'),
    runsProbe: flag('FC_DOUBLE_RUNS_PROBE', false),
    kvm: choice('FC_DOUBLE_KVM', 'well', 'denied', 'missing'),
    wholeMemory: flag('FC_DOUBLE_WHOLE_MEMORY', false),
    pidNamespace: flag('FC_DOUBLE_PID_NS', false),
  };
}

const KNOWN = [
  ...['VERSION', 'FAULTS', 'START', 'DEAF', 'CTRL_ALT_DEL', 'LOSES_VSOCK', 'BOOT_MS', 'SHUTDOWN_MS', 'GUEST'],
  ...['KVM', 'RUNS_PROBE', 'WHOLE_MEMORY', 'PID_NS', 'PROC_MOUNTS', 'ROOT'],
].map((name) => `FC_DOUBLE_${name}`);
