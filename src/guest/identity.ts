import { randomBytes } from 'node:crypto';
import type { Clock } from '../base/clock.ts';
import { raceAbort } from '../base/deadline.ts';
import { Failure, invalid } from '../model/failure.ts';
import { newHostKeys, type HostKey } from './host-keys.ts';
import { IDENTITY_SCRIPT, JOIN_SCRIPT, REFRESH_SCRIPT } from './identity-script.ts';
import type { ExecResult, GuestAgent, StartedProgram } from './agent.ts';
import { askHelper, type HelperKind } from './resident.ts';

export interface GuestDeps {
  readonly agent: GuestAgent;
  /** What the guest's clock is set by. */
  readonly clock: Clock;
}

/** Who a copy is to be. */
export interface Identity {
  readonly hostname: string;
  /** `02:fc:...`; null for a guest without a network card. */
  readonly mac: string | null;
  /** 32 hexadecimal digits; see `newMachineId`. */
  readonly machineId: string;
}

/** A program of the guest's /etc/hatch/after-restore.d that was run. */
export interface HookResult {
  readonly name: string;
  readonly exitCode: number;
  readonly timedOut: boolean;
  /** The last it said, when it failed; empty when it did not. */
  readonly said: string;
}

export interface Refreshed {
  /** Whether the guest's random state is its own now. A copy's always is. */
  readonly reseeded: boolean;
  readonly hooks: readonly HookResult[];
}

export interface Identified extends Refreshed {
  /** The public halves of the SSH host keys it has now: `ssh-ed25519 AAAA... root@name`. */
  readonly hostKeys: readonly string[];
}

interface Fresh {
  readonly now: number;
  readonly seed: Buffer;
  readonly hostKeys: readonly HostKey[];
}

export interface Joining {
  /** Resolves when the card is up. Throws Failure `no_guest_agent` when it cannot be brought up. */
  readonly joined: Promise<void>;
}

/** How long all of it may take: host keys are made, and hooks run. The caller's signal may end the waiting before. */
const MOST_MS = 120_000;
const HOOK_SECONDS = 10;
const JOIN_MS = 20_000;
const CLOCK_MS = 5_000;
/** As much as the kernel's generator holds, twice. */
const SEED_BYTES = 64;
/** GNU and busybox `timeout` say so; 137 where it took SIGKILL. */
const TIMED_OUT = [124, 137];

/** A machine id as systemd makes them: a random UUID (version 4) without its dashes (machine-id(5)). */
export function newMachineId(): string {
  const bytes = randomBytes(16);
  bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x40, 6);
  bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8);
  return bytes.toString('hex');
}

/**
 * Makes a guest that was loaded as a copy somebody else, while its tap is still off the bridge: clock, random state, host
 * name, machine id, SSH host keys and the network card's address, which is left down; then its hooks run. Throws Failure
 * `no_guest_agent` for a guest that cannot be given all of it, and AgentGone, AgentRefused or the signal's reason: the copy
 * is then half the one and half the other, and must not join. A hook that fails is in the result and no more.
 */
export async function giveIdentity(
  deps: GuestDeps,
  identity: Identity,
  signal: AbortSignal,
): Promise<Identified> {
  const hostKeys = await newHostKeys(`root@${identity.hostname}`);
  const seed = randomBytes(SEED_BYTES);
  const it: GuestTask = {
    kind: 'identity',
    script: IDENTITY_SCRIPT,
    // Said anew each time, for the time is in it.
    said: () => identityInput(identity, { now: deps.clock.now(), seed, hostKeys }),
    timeoutMs: MOST_MS,
  };
  return parseReport(await endOf(it, await startIn(deps, it, signal), signal));
}

/**
 * Has a guest bring its card up and ask for its address, once its tap has joined the bridge. Resolves when it does so, whether we are
 * there to see it or not. Throws AgentGone, AgentRefused or the signal's reason.
 */
export async function joinNetwork(deps: GuestDeps, signal: AbortSignal): Promise<Joining> {
  const it: GuestTask = { kind: 'join', script: JOIN_SCRIPT, said: () => null, timeoutMs: JOIN_MS };
  const started = await startIn(deps, it, signal, new AbortController().signal);
  const joined = endOf(it, started).then(() => undefined);
  // Nobody need wait for it.
  joined.catch(() => undefined);
  return { joined };
}

/** Gives a guest that was restored as itself random state of its own and runs its hooks. Throws as `giveIdentity`. */
export async function refresh(deps: GuestDeps, signal: AbortSignal): Promise<Refreshed> {
  const said = lines(common('restore', randomBytes(SEED_BYTES)));
  const it: GuestTask = { kind: 'refresh', script: REFRESH_SCRIPT, said: () => said, timeoutMs: MOST_MS };
  const { reseeded, hooks } = parseReport(await endOf(it, await startIn(deps, it, signal), signal));
  return { reseeded, hooks };
}

/** Sets the clock of a guest that was woken to ours. Throws as `GuestAgent.setTime`. */
export async function setClock(deps: GuestDeps, signal: AbortSignal): Promise<void> {
  const said = lines([hundredths(deps.clock.now())]);
  const request = { kind: 'clock', said, timeoutMs: CLOCK_MS } as const;
  const asked = await askHelper(deps, request, { signal, patience: signal });
  const result = await asked?.ended;
  if (result?.exitCode !== 0) await deps.agent.setTime(signal);
}

/**
 * What the guest is told on stdin. Throws Failure `invalid_request` for what is no host name, MAC or machine id: they become
 * parts of lines and patterns there.
 */
export function identityInput({ hostname, mac, machineId }: Identity, fresh: Fresh): string {
  if (!/^(?!-)[A-Za-z0-9-]{1,63}(?<!-)$/.test(hostname))
    throw invalid('hostname', 'A host name is 1 to 63 letters, digits and dashes, with no dash at its ends.');
  if (mac !== null && !/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(mac))
    throw invalid('guest_mac', 'A MAC is six pairs of lower-case hexadecimal digits with colons between.');
  if (!/^[0-9a-f]{32}$/.test(machineId))
    throw invalid('machine_id', 'A machine id is 32 hexadecimal digits.');
  const keys = (['ed25519', 'ecdsa'] as const).flatMap((kind) => {
    const key = fresh.hostKeys.find((one) => one.kind === kind);
    return [key?.privateBody ?? '', key?.publicLine ?? ''];
  });
  return lines([
    ...common('fork', fresh.seed),
    hundredths(fresh.now),
    hostname,
    mac ?? '',
    machineId,
    ...keys,
  ]);
}

function common(reason: 'fork' | 'restore', seed: Buffer): readonly string[] {
  return [reason, seed.toString('hex'), String(HOOK_SECONDS)];
}

/** Reads what the guest's script said. Throws Failure `no_guest_agent` when it did not come to its end. */
export function parseReport(stdout: string): Identified {
  const hostKeys: string[] = [];
  const hooks: HookResult[] = [];
  let reseeded = false;
  let done = false;
  for (const line of stdout.split('\n')) {
    const [word, rest] = [line.split(' ', 1)[0] ?? '', line.slice(line.indexOf(' ') + 1)];
    const [, code, name = ''] = /^(\d{1,3}) ([\w.-]{1,255})$/.exec(rest) ?? [];
    const last = hooks.at(-1);
    if (word === 'reseeded') reseeded = rest === 'yes';
    else if (word === 'key' && /^[\w@.-]+ [\w+/=]+( [\x20-\x7e]*)?$/.test(rest)) hostKeys.push(rest);
    else if (word === 'hook' && code !== undefined)
      hooks.push({ name, exitCode: Number(code), timedOut: TIMED_OUT.includes(Number(code)), said: '' });
    else if (word === 'said' && last)
      hooks.splice(-1, 1, { ...last, said: `${last.said}${last.said && '\n'}${rest}`.slice(0, 1000) });
    else if (line === 'done') done = true;
  }
  if (!done) throw refused('it did not come to an end');
  return { reseeded, hooks, hostKeys };
}

interface GuestTask {
  readonly kind: Exclude<HelperKind, 'clock'>;
  /** What does it in a guest that has no helper of ours. */
  readonly script: string;
  readonly said: () => string | null;
  readonly timeoutMs: number;
}

/** `patience` ends the waiting for its end. */
async function startIn(
  deps: GuestDeps,
  it: GuestTask,
  signal: AbortSignal,
  patience = signal,
): Promise<StartedProgram> {
  const byScript = (): Promise<StartedProgram> => {
    const argv = ['/bin/sh', '-c', it.script, `hatch-${it.kind}`] as const;
    return deps.agent.start({ argv, stdin: it.said(), timeoutMs: it.timeoutMs }, signal);
  };
  const { kind, timeoutMs } = it;
  const asked = await askHelper(deps, { kind, timeoutMs, said: it.said() }, { signal, patience });
  if (!asked) return byScript();
  // Whatever of it was done is done again.
  return { ended: asked.ended.then(async (result) => result ?? (await byScript()).ended) };
}

/** What the script said. Throws Failure `no_guest_agent` when it did not come to its end. */
async function endOf(it: GuestTask, { ended }: StartedProgram, signal?: AbortSignal): Promise<string> {
  const result = await (signal ? raceAbort(ended, signal) : ended);
  if (result.timedOut) throw refused(`it took longer than ${it.timeoutMs / 1000} s`);
  if (result.exitCode !== 0) throw refused(lastWords(result));
  return result.stdout;
}

/** The last line that says something, without what a terminal would obey. */
function lastWords({ stderr, exitCode }: ExecResult): string {
  const words = stderr
    .replaceAll(/[^\x20-\x7e\n]/g, '?')
    .split('\n')
    .filter((line) => line.trim() !== '')
    .slice(-2)
    .join('; ')
    .slice(0, 300);
  return words || `its shell ended with code ${exitCode}`;
}

function refused(why: string): Failure {
  return new Failure('no_guest_agent', `The guest could not be made ready after it was loaded: ${why}.`);
}

function hundredths(ms: number): string {
  return String(Math.floor(ms / 10));
}

function lines(values: readonly string[]): string {
  return values.map((value) => `${value}\n`).join('');
}
