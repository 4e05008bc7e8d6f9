import { isErrno } from '../../base/errno.ts';
import { findProgram, isForeignProgram } from '../../host/programs.ts';
import { CommandFailed, type Run } from '../../host/run.ts';
import { VmmError } from '../driver.ts';

/** What a Firecracker says of itself. */
export interface FirecrackerVersion {
  /** `1.16.1` */
  readonly text: string;
  readonly major: number;
  readonly minor: number;
  /** The format of the snapshots it writes and reads (`10.0.0`): loads only where the first number is the same. */
  readonly snapshotFormat: string;
}

/** What came with later versions than the oldest we take; each with where its changelog says so. */
export interface Features {
  /** `rate_limiter` in `PUT /serial` (1.16). */
  readonly serialLimit: boolean;
  /** `vsock_override` at load (1.16). Before, the socket is bound where the saved one was. */
  readonly vsockOverride: boolean;
  /** `clock_realtime` at load (1.16): the guest's kvm-clock is moved on by the time it was saved for. */
  readonly clockRealtime: boolean;
  /** Host-to-guest vsock lives through a bare pause and resume: lost in 1.16.x (issue #6100). */
  readonly resumeKeepsVsock: boolean;
}

const OLDEST_MINOR = 13;

/** Asks a Firecracker its version. Throws VmmError in a sentence when it is missing, does not run here, or is too old. */
export async function askVersion({ run }: { readonly run: Run }, bin: string): Promise<FirecrackerVersion> {
  const path = await findProgram(bin);
  if (path !== undefined && (await isForeignProgram(path)))
    throw new VmmError(
      `Firecracker (${bin}) is no program of this machine's architecture; install that of ${process.arch}.`,
      { kind: 'missing' },
    );
  const said = await ask(run, bin, '--version');
  const found = /v?(\d+)\.(\d+)\.(\d+)/.exec(said);
  if (!found)
    throw new VmmError(
      `${bin} is no Firecracker: it says ${JSON.stringify(said.slice(0, 80))} of its version.`,
    );
  const [major, minor] = [Number(found[1]), Number(found[2])];
  const text = `${major}.${minor}.${found[3]}`;
  if (major !== 1 || minor < OLDEST_MINOR)
    throw new VmmError(
      `Firecracker ${text} is ${major > 1 ? 'of a kind not known yet' : 'too old'}; install 1.${OLDEST_MINOR} or newer of version 1, best 1.16.`,
      { kind: 'incompatible' },
    );
  const format = /(\d+\.\d+\.\d+)/.exec(await ask(run, bin, '--snapshot-version'))?.[1];
  if (format === undefined) throw new VmmError(`${bin} does not say the format of its snapshots.`);
  return { text, major, minor, snapshotFormat: format };
}

/** What this version can do. */
export function featuresOf({ minor }: Pick<FirecrackerVersion, 'minor'>): Features {
  return {
    serialLimit: minor >= 16,
    vsockOverride: minor >= 16,
    clockRealtime: minor >= 16,
    resumeKeepsVsock: minor !== 16,
  };
}

/** Whether snapshots of one format load where the other is spoken. */
export function sameFormat(a: string, b: string): boolean {
  return a.split('.')[0] === b.split('.')[0];
}

async function ask(run: Run, bin: string, flag: string): Promise<string> {
  try {
    return (await run([bin, flag], { timeoutMs: 10_000 })).stdout.trim();
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    if (error.missing)
      throw new VmmError(
        `Firecracker (${bin}) is not installed; put its binary there or set HATCH_FIRECRACKER_BIN.`,
        {
          kind: 'missing',
          cause: error,
        },
      );
    if (isErrno(error.cause, 'EACCES'))
      throw new VmmError(`Firecracker (${bin}) may not be executed; make it executable: chmod +x.`, {
        kind: 'missing',
        cause: error,
      });
    throw new VmmError(`Firecracker (${bin}) does not say its version: ${error.message}`, { cause: error });
  }
}
