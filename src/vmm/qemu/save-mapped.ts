import { access, constants } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { freeBytes, remove } from '../../host/files.ts';
import { copyPrivatePages, privateMapOf, type FileMap } from '../../host/private-pages.ts';
import { run } from '../../host/run.ts';
import { VmmError } from '../driver.ts';
import type { Monitors } from './monitors.ts';
import { saveDevices } from './device-state.ts';

const COPY_MS = 600_000;
/** A disk with less free is full: what could not be written was larger. */
const ROOM_BYTES = 2 ** 20;

/** Where a machine is saved to: absolute paths. */
export interface SavePaths {
  readonly statePath: string;
  readonly memoryPath: string;
}

/** A QEMU whose memory is a private map of a file. */
export interface Mapped {
  readonly folder: string;
  readonly machineType: string;
  readonly pid: number;
  readonly map: FileMap;
}

/**
 * The private map that is a QEMU's memory (`bytes` long). undefined where it cannot be saved from outside: it is not there, this host does
 * not let us look into it, or this QEMU cannot write the state of its devices alone.
 */
export async function mappedMemory(
  execute: Monitors['execute'],
  pid: number,
  bytes: number,
): Promise<FileMap | undefined> {
  const commands = (await execute('query-commands')) as readonly { readonly name: string }[];
  if (!commands.some(({ name }) => name === 'xen-save-devices-state')) return undefined;
  try {
    await access(`/proc/${pid}/mem`, constants.R_OK);
    return await privateMapOf(pid, bytes);
  } catch (error) {
    if (isErrno(error, 'EACCES') || isErrno(error, 'EPERM')) return undefined;
    throw error;
  }
}

/**
 * Saves a guest on a private map: a copy of the file below, made while it may still run; then, while it stands still (`pause`), the state
 * of its devices, and its own pages over the copy; `still` is called at the end. Throws VmmError; nothing is left then.
 */
export async function saveMapped(
  execute: Monitors['execute'],
  { folder, machineType, pid, map }: Mapped,
  to: SavePaths,
  pause: () => Promise<void>,
  still: () => Promise<void>,
): Promise<void> {
  await wholeOrNothing(to, async () => {
    await copyMemory(map.file, to.memoryPath);
    await pause();
    await saveDevices(execute, { folder, pid, machineType, statePath: to.statePath });
    await copyPrivatePages(pid, map, to.memoryPath);
    await still();
  });
}

/** Saves a paused guest whose memory lies in a shared file: `state` writes its state; the file is copied, as the guest goes on in it. */
export async function saveShared(
  ramFile: string,
  to: SavePaths,
  state: () => Promise<void>,
  still: () => Promise<void>,
): Promise<void> {
  await wholeOrNothing(to, async () => {
    await state();
    await copyMemory(ramFile, to.memoryPath);
    await still();
  });
}

async function copyMemory(from: string, to: string): Promise<void> {
  await run(['cp', '--dereference', '--reflink=auto', '--sparse=always', from, to], { timeoutMs: COPY_MS });
}

async function wholeOrNothing(
  { statePath, memoryPath }: SavePaths,
  work: () => Promise<void>,
): Promise<void> {
  try {
    await work();
  } catch (cause) {
    const isFull = isErrno(cause, 'ENOSPC') || (await freeBytes(dirname(memoryPath))) < ROOM_BYTES;
    await remove(memoryPath);
    await remove(statePath);
    if (cause instanceof VmmError && !isFull) throw cause;
    throw new VmmError('the memory could not be written', { kind: isFull ? 'no_space' : 'failed', cause });
  }
}
