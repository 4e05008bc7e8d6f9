import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { isAlive, signalProcess, spawnDetached } from '../../src/host/process.ts';
import { run, type RunResult } from '../../src/host/run.ts';
import { builtImage } from './built-image.ts';

const ROOT = join(import.meta.dirname, '../..');
/** Where the project lies on it. */
export const CLONE = '/opt/hatch';

/**
 * A machine that systemd runs: this one's file system with all that is written to it in memory, this project at CLONE, and the network
 * namespace we are in (systemd-nspawn). Nothing of it is left when it is disposed of.
 */
export interface SystemdHost {
  /** Runs a shell command on it, as root; throws CommandFailed where it fails, unless its exit code is among `okExitCodes`. */
  sh(command: string, okExitCodes?: readonly number[]): Promise<RunResult>;
  dispose(): Promise<void>;
}

/** Boots it; the built image lies in `<dataFolder>/images`. `folder` is made, for its files. Needs root. */
export async function bootSystemd(folder: string, dataFolder: string): Promise<SystemdHost> {
  await mkdir(folder);
  const { dir } = await builtImage();
  // In a mount namespace of its own: whatever becomes of us, no mount stays. The machine's own services are not started.
  const script = `set -e
    mount -t tmpfs -o mode=755 machine "$1"
    cd "$1"
    mkdir -p up work root clone-up clone-work "up$4/images" "up${CLONE}"
    cp -a "$3" "up$4/images/"
    mount -t overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" machine root
    mount -t overlay -o "lowerdir=$2,upperdir=$1/clone-up,workdir=$1/clone-work" clone "root${CLONE}"
    SYSTEMD_NSPAWN_API_VFS_WRITABLE=1 exec systemd-nspawn --quiet --directory "$1/root" --boot --register=no --keep-unit \\
      --network-namespace-path=/proc/$$/ns/net --capability=all --link-journal=no --bind=/dev/net/tun -- --unit=basic.target`;
  const { identity } = await spawnDetached(
    [
      ...(['unshare', '--mount', '--propagation', 'private', '--'] as const),
      ...['sh', '-c', script, 'machine', folder, ROOT, dir, dataFolder],
    ],
    { cwd: '/', log: `${folder}.log` },
  );
  const signal = AbortSignal.timeout(60_000);
  const said = (): Promise<string> => readFile(`${folder}.log`, 'utf8');
  // The first children of systemd-nspawn prepare the machine and go; the one that stays is its init.
  let init = '';
  const findInit = async (): Promise<void> => {
    if (!(await isAlive(identity))) throw new Error(`systemd could not be booted:\n${await said()}`);
    const children = await readFile(`/proc/${identity.pid}/task/${identity.pid}/children`, 'utf8');
    init = children.trim().split(' ').at(-1) ?? '';
  };
  const sh: SystemdHost['sh'] = (command, okExitCodes = [0]) =>
    run(
      [
        ...([
          'nsenter',
          '--target',
          init,
          '--mount',
          '--pid',
          '--uts',
          '--ipc',
          '--root',
          '--wd',
          '--',
        ] as const),
        ...['sh', '-c', command],
      ],
      { okExitCodes, timeoutMs: 300_000 },
    );
  const dispose = async (): Promise<void> => {
    // Its init is the last to go, and takes all others with it.
    if (init !== '') await run(['kill', '-KILL', init], { okExitCodes: [0, 1] });
    await until({ clock: systemClock, signal: AbortSignal.timeout(20_000) }, async () =>
      (await isAlive(identity)) ? undefined : true,
    ).catch(() => signalProcess(identity, 'SIGKILL'));
    for (const path of [folder, `${folder}.log`]) await rm(path, { recursive: true, force: true });
  };
  try {
    await until({ clock: systemClock, signal }, async () => {
      await findInit();
      if (init === '') return undefined;
      const { stdout } = await sh('systemctl is-system-running', [0, 1, 3, 4]).catch(() => ({ stdout: '' }));
      return /^(running|degraded)$/.test(stdout.trim()) ? true : undefined;
    });
  } catch (error) {
    await dispose();
    throw error;
  }
  return { sh, dispose };
}
