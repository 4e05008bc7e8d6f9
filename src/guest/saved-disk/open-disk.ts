import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { systemClock } from '../../base/clock.ts';
import { deadline } from '../../base/deadline.ts';
import { until } from '../../base/until.ts';
import { CommandFailed, type Run } from '../../host/run.ts';
import { connectInPlace } from '../../host/unix-socket.ts';
import { openFile, type ByteSource } from './byte-source.ts';
import { openNbd } from './nbd.ts';

/** A disk that nothing writes to any more: a file of this host, or one that lies elsewhere. */
export type DiskToRead = SavedDisk | OpenableDisk;

/** A disk that lies elsewhere and is read there. */
export interface OpenableDisk {
  /** Opens it to read, raw, as the guest saw it; what was opened is closed by who asked. */
  open(signal: AbortSignal): Promise<ByteSource>;
}

/** A disk in a file of this host. */
export interface SavedDisk {
  /** Absolute: the raw file, or the top of a chain of qcow2 files whose backing files are named relative to each. */
  readonly path: string;
  /** Never guessed from the content: a guest could write a header that names the host's files into its raw disk. */
  readonly format: 'raw' | 'qcow2';
}

export interface OpenDeps {
  readonly run: Run;
  /** A folder for short-lived sockets. */
  readonly tmp: string;
}

const START_MS = 10_000;
/** How long it may take to end after it was told to. */
const END_MS = 2000;
/** As long as a timer can be: a slow reader of a large file may take days, and it ends with the reader. */
const FOREVER_MS = 2 ** 31 - 1;

/** Opens a disk to read. When the signal aborts, what was started for it ends. Throws CommandFailed, the system's errors. */
export function openDisk(deps: OpenDeps, disk: DiskToRead, signal: AbortSignal): Promise<ByteSource> {
  if ('open' in disk) return disk.open(signal);
  return disk.format === 'raw' ? openFile(disk.path) : openQcow2(deps, disk.path, signal);
}

/**
 * QEMU's own reader of qcow2 serves the chain, read-only, on a socket only we can reach. It ends when we hang up, also by
 * dying.
 */
async function openQcow2({ run, tmp }: OpenDeps, path: string, signal: AbortSignal): Promise<ByteSource> {
  const folder = await mkdtemp(join(tmp, 'hatch-disk-'));
  const socketPath = join(folder, 'nbd');
  const stop = new AbortController();
  const ended = run(['qemu-nbd', '--read-only', '--format=qcow2', `--socket=${socketPath}`, path], {
    timeoutMs: FOREVER_MS,
    signal: AbortSignal.any([signal, stop.signal]),
  }).then(
    () => undefined,
    (error: unknown) => error,
  );
  const clean = async (): Promise<void> => {
    const gone = await Promise.race([ended.then(() => true), systemClock.sleep(END_MS, stop.signal)]);
    if (gone !== true) stop.abort(new Error('it did not end when it was told to'));
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const source = await deadline(
      'qemu-nbd',
      START_MS,
      async (starting) => openNbd(await firstConnection(socketPath, ended, starting)),
      signal,
    );
    let closed: Promise<void> | undefined;
    return {
      sizeBytes: source.sizeBytes,
      read: (offset, length) => source.read(offset, length),
      close: () => (closed ??= source.close().then(clean)),
    };
  } catch (error) {
    stop.abort(new Error('it could not be used'));
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}

async function firstConnection(path: string, ended: Promise<unknown>, signal: AbortSignal) {
  let over: { readonly error: unknown } | undefined;
  void ended.then((error) => (over = { error }));
  return until({ clock: systemClock, signal }, async () => {
    if (over) throw over.error instanceof CommandFailed ? over.error : new Error('qemu-nbd ended at once');
    try {
      return await connectInPlace(path, signal);
    } catch (error) {
      if (isErrno(error, 'ENOENT') || isErrno(error, 'ECONNREFUSED')) return undefined;
      throw error;
    }
  });
}
