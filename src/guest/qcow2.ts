import { open } from 'node:fs/promises';

/**
 * What a disk image's first bytes say of it, read without opening anything it names: a qcow2 may point at other files
 * (backing file, external data file), and a program that follows them reads whatever of the host they name.
 * Header: https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.txt
 */
export type DiskHeader =
  | { readonly format: 'raw' }
  | {
      readonly format: 'qcow2';
      readonly virtualSizeBytes: number;
      readonly backingFile: boolean;
      readonly dataFile: boolean;
    }
  /** Something QEMU knows and Hatch does not take; its name for people. */
  | { readonly format: 'other'; readonly name: string };

const EXTERNAL_DATA_FILE = 1n << 2n;

/** Reads the header out of the first bytes of a disk image (104 are enough). */
export function parseDiskHeader(start: Buffer): DiskHeader {
  if (start.subarray(0, 4).equals(Buffer.from('QFI\xfb', 'latin1'))) return parseQcow2(start);
  for (const [magic, name] of OTHERS) {
    if (start.subarray(0, magic.length).equals(Buffer.from(magic, 'latin1')))
      return { format: 'other', name };
  }
  return { format: 'raw' };
}

/** Reads the header of the disk image at `path`. */
export async function readDiskHeader(path: string): Promise<DiskHeader> {
  const file = await open(path, 'r');
  try {
    const start = Buffer.alloc(104);
    const { bytesRead } = await file.read(start, 0, start.length, 0);
    return parseDiskHeader(start.subarray(0, bytesRead));
  } finally {
    await file.close();
  }
}

/** The longest name of a backing file that the format has. */
const LONGEST_NAME = 1023;

/** The name a qcow2 disk at `path` has of the file it stands on, as it is written there; null when it stands on none, and is no qcow2 disk. */
export async function backingName(path: string): Promise<string | null> {
  await using file = await open(path, 'r');
  const start = Buffer.alloc(104);
  const { bytesRead } = await file.read(start, 0, start.length, 0);
  const header = parseDiskHeader(start.subarray(0, bytesRead));
  if (header.format !== 'qcow2' || !header.backingFile) return null;
  const name = Buffer.alloc(Math.min(start.readUInt32BE(16), LONGEST_NAME));
  const read = await file.read(name, 0, name.length, Number(start.readBigUInt64BE(8)));
  return name.subarray(0, read.bytesRead).toString('utf8');
}

// The formats QEMU 7.2 would recognise by their first bytes.
const OTHERS: readonly (readonly [string, string])[] = [
  ['KDMV', 'VMDK'],
  ['COWD', 'VMDK'],
  ['# Disk DescriptorFile', 'VMDK'],
  ['vhdxfile', 'VHDX'],
  ['conectix', 'VHD'],
  ['QED\0', 'QED'],
  ['<<< ', 'VDI'],
  ['WithoutFreeSpace', 'Parallels'],
  ['WithouFreSpacExt', 'Parallels'],
  ['LUKS\xba\xbe', 'LUKS'],
  ['OOOM', 'COW'],
];

function parseQcow2(start: Buffer): DiskHeader {
  if (start.length < 72) return { format: 'other', name: 'broken qcow2' };
  const version = start.readUInt32BE(4);
  if (version === 1) return { format: 'other', name: 'qcow' };
  if ((version !== 2 && version !== 3) || (version === 3 && start.length < 104)) {
    return { format: 'other', name: 'broken qcow2' };
  }
  if (start.readUInt32BE(32) !== 0) return { format: 'other', name: 'encrypted qcow2' };
  return {
    format: 'qcow2',
    virtualSizeBytes: Number(start.readBigUInt64BE(24)),
    backingFile: start.readBigUInt64BE(8) !== 0n,
    dataFile: version === 3 && (start.readBigUInt64BE(72) & EXTERNAL_DATA_FILE) !== 0n,
  };
}
