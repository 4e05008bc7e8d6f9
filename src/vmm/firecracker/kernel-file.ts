import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { VmmError, type MachineSpec } from '../driver.ts';

/** Throws when the kernel is not an ELF file, which is all that Firecracker up to 1.16 boots on x86_64. */
export async function mustBeUncompressed({ folder, kernel }: MachineSpec): Promise<void> {
  let file;
  try {
    file = await open(join(folder, kernel), 'r');
  } catch (error) {
    throw new VmmError(
      `the kernel cannot be opened: ${isErrno(error, 'ENOENT') ? 'it is not there' : String(error)}`,
      { cause: error },
    );
  }
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
    if (bytesRead < 4 || buffer.toString('latin1') !== '\x7fELF')
      throw new VmmError(
        "the image's kernel is compressed, and Firecracker boots only uncompressed ones: register the image with its vmlinux",
        { kind: 'unbootable' },
      );
  } finally {
    await file.close();
  }
}
