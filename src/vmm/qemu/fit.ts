import { stat } from 'node:fs/promises';
import { isErrno } from '../../base/errno.ts';
import { VmmError, type MachineSpec, type SavedMachine } from '../driver.ts';

/** Throws VmmError `incompatible`, saying what differs, when a saved machine cannot go on as `spec` under this QEMU. */
export function mustFit(
  here: { readonly accel: string; readonly machineType: string },
  spec: Pick<MachineSpec, 'vcpuCount' | 'memMib'>,
  saved: SavedMachine,
): void {
  if (saved.driver !== 'qemu' || saved.accel !== here.accel) {
    refuse(
      `A state saved by ${saved.driver} under ${saved.accel} does not load under qemu with ${here.accel}.`,
    );
  }
  if (saved.vcpuCount !== spec.vcpuCount || saved.memMib !== spec.memMib) {
    refuse(`The state has ${saved.vcpuCount} vCPUs and ${saved.memMib} MiB; the machine must have as many.`);
  }
  if (familyOf(saved.machineType) !== familyOf(here.machineType))
    refuse(`The state was saved on ${saved.machineType}; this QEMU's machines are like ${here.machineType}.`);
  // A newer QEMU knows older machine types; one of a newer QEMU than ours it does not.
  if (compareTypes(saved.machineType, here.machineType) > 0) {
    refuse(
      `The state was saved on ${saved.machineType}; this QEMU knows machines up to ${here.machineType}.`,
    );
  }
}

function refuse(message: string): never {
  throw new VmmError(message, { kind: 'incompatible' });
}

/** Compares versioned machine types (`pc-q35-7.2`) by their numbers. */
function compareTypes(a: string, b: string): number {
  const [left, right] = [numbers(a), numbers(b)];
  for (let i = 0; i < 3; i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** `pc-q35-` of `pc-q35-7.2`. */
function familyOf(type: string): string {
  return type.replace(/[\d.]+$/, '');
}

function numbers(type: string): readonly number[] {
  return (/(\d+)\.(\d+)(?:\.(\d+))?$/.exec(type) ?? []).slice(1).map((part) => Number(part ?? 0));
}

/** A memory file that is missing QEMU would make itself, empty; at a link to nowhere it would try so for ever. */
export async function mustBeWhole({ statePath, memoryPath, memMib }: SavedMachine): Promise<void> {
  if ((await sizeOf(statePath)) === undefined) throw new VmmError('the saved state is not there any more');
  if (memoryPath === null) return;
  const size = await sizeOf(memoryPath);
  if (size === undefined) throw new VmmError('the saved memory is not there any more');
  if (size !== memMib * 1024 * 1024)
    throw new VmmError(`the saved memory has ${size} bytes; the guest has ${memMib} MiB`);
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}
