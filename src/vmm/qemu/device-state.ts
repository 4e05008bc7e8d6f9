import { readFile, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { freeBytes, remove } from '../../host/files.ts';
import { VmmError } from '../driver.ts';
import type { Monitors } from './monitors.ts';
import { giveTo } from './own-user.ts';

/** QEMU's own file of device states, in the VM's folder. */
export const DEVICES_FILE = 'devices.tmp';
/** A device state that could not be written is not much larger than this. */
const ROOM_BYTES = 2 ** 20;

/** As migration/savevm.c has them (https://www.qemu.org/docs/master/devel/migration/main.html, "Stream structure"). */
const MAGIC = 0x51_45_56_4d;
const VERSION = 3;
const CONFIGURATION = 0x07;
const SUBSECTION = 0x05;
const DESCRIPTION = 0x06;

/**
 * Writes the state of a paused machine's devices to `statePath`, as a migration stream in which no memory is: loaded with
 * `x-ignore-shared` it is put beside memory that is there already. QEMU's `xen-save-devices-state` does so for any machine; a
 * `migrate` would send memory on a private map too. The disk stays open. Throws VmmError; no state is left then.
 */
export async function saveDevices(
  execute: Monitors['execute'],
  {
    folder,
    pid,
    machineType,
    statePath,
  }: {
    readonly folder: string;
    readonly pid: number;
    readonly machineType: string;
    readonly statePath: string;
  },
): Promise<void> {
  const path = join(folder, DEVICES_FILE);
  try {
    await remove(path);
    await (await open(path, 'wx', 0o600)).close();
    // In this folder QEMU can make none.
    await giveTo({ pid }, path);
    await execute('xen-save-devices-state', { filename: DEVICES_FILE, live: false });
    await writeFile(statePath, asStream(await readFile(path), machineType), { mode: 0o600 });
  } catch (cause) {
    await remove(statePath);
    const isFull = (await freeBytes(folder)) < ROOM_BYTES;
    throw new VmmError('the state of the devices could not be written', {
      kind: isFull ? 'no_space' : 'failed',
      cause,
    });
  } finally {
    await remove(path);
  }
}

/** Device states as a stream `migrate-incoming` takes: with the configuration that comes first, and an empty description at the end. */
export function asStream(devices: Buffer, machineType: string): Buffer {
  if (devices.length < 8 || devices.readUInt32BE(0) !== MAGIC || devices.readUInt32BE(4) !== VERSION)
    throw new VmmError('QEMU wrote no device state');
  return Buffer.concat([
    devices.subarray(0, 8),
    Buffer.of(CONFIGURATION),
    u32(machineType.length),
    Buffer.from(machineType),
    Buffer.of(SUBSECTION),
    counted('configuration/capabilities'),
    u32(1),
    u32(1),
    counted('x-ignore-shared'),
    devices.subarray(8),
    Buffer.of(DESCRIPTION),
    u32(0),
  ]);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** A text with its length in one byte before it. */
function counted(text: string): Buffer {
  return Buffer.concat([Buffer.of(text.length), Buffer.from(text)]);
}
