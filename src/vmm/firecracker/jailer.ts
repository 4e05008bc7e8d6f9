import { findProgram, isForeignProgram } from '../../host/programs.ts';
import { CommandFailed, type Argv, type Run } from '../../host/run.ts';
import { VmmError, type MachineSpec } from '../driver.ts';
import { FILES } from './boot.ts';
import { limitsOf, PARENT_GROUP, type Controller } from '../cgroups.ts';

/** Firecracker's own program `jailer` (docs/jailer.md): it makes a root and a user of its own for a Firecracker, and becomes it. */
export interface Jailer {
  /** Absolute path. */
  readonly bin: string;
  /** `1.16.1` */
  readonly version: string;
}

/** Finds a jailer and asks its version; undefined when there is none. Throws VmmError in a sentence when it does not work. */
export async function findJailer({ run }: { readonly run: Run }, bin: string): Promise<Jailer | undefined> {
  const path = await findProgram(bin);
  if (path === undefined) return undefined;
  const broken = (why: string, cause?: unknown): VmmError =>
    new VmmError(`The jailer (${path}) ${why}.`, { cause });
  if (await isForeignProgram(path))
    throw broken(`is no program of this machine's architecture; install that of ${process.arch}`);
  let said: string;
  try {
    said = (await run([path, '--version'], { timeoutMs: 10_000 })).stdout;
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    throw broken(`does not say its version: ${error.message}`, error);
  }
  const version = /v?(\d+\.\d+\.\d+)/.exec(said)?.[1];
  if (version === undefined)
    throw new VmmError(
      `${path} is no jailer: it says ${JSON.stringify(said.trim().slice(0, 80))} of its version.`,
    );
  return { bin: path, version };
}

/**
 * The command that starts a VM's Firecracker in its jail, `<base>/<name of the program>/<VM>/root`. The jailer becomes the
 * Firecracker, so that the pid stays and the exit code is Firecracker's.
 */
export function jailerCommand({
  jailerBin,
  firecrackerBin,
  spec,
  uid,
  base,
  controllers,
}: {
  readonly jailerBin: string;
  /** Absolute path. */
  readonly firecrackerBin: string;
  readonly spec: Pick<MachineSpec, 'vmId' | 'vcpuCount' | 'memMib'>;
  /** Its user, and its group. */
  readonly uid: number;
  /** Absolute path. */
  readonly base: string;
  readonly controllers: readonly Controller[];
}): Argv {
  const limits = limitsOf(spec, controllers);
  return [
    jailerBin,
    ...['--id', spec.vmId, '--exec-file', firecrackerBin],
    ...['--uid', String(uid), '--gid', String(uid), '--chroot-base-dir', base],
    // Without limits it would enter the parent group, which is for groups only.
    ...(limits.length === 0 ? [] : ['--cgroup-version', '2', '--parent-cgroup', PARENT_GROUP]),
    ...limits.flatMap((limit) => ['--cgroup', limit]),
    ...['--', '--api-sock', FILES.api],
  ];
}
