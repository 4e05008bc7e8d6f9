import { fieldOf } from './fields.ts';

export interface Partition {
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  /** A GPT type's UUID in capitals, or an MBR type in hex. */
  readonly type: string;
}

/** Linux root, x86-64 and ARM64, by the Discoverable Partitions Specification. */
const ROOT_TYPES = ['4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709', 'B921B045-1DF0-41C3-AF44-4C6F280D3FAE'];
/** What else may hold a Linux file system: GPT's `Linux filesystem` and `extended boot`, MBR's 83. */
const LINUX_TYPES = ['0FC63DAF-8483-4772-8E79-3D69D8477DE4', 'BC13C2FF-59E6-4262-A352-B275FD6F7172', '83'];

/** Reads what `sfdisk --json` says (sfdisk(8)). Throws when it is not that. */
export function parsePartitions(json: string): readonly Partition[] {
  const table = fieldOf(JSON.parse(json), 'partitiontable');
  const sectorBytes = numberOf(table, 'sectorsize', 512);
  const partitions = fieldOf(table, 'partitions');
  if (!Array.isArray(partitions)) return [];
  return partitions.map((partition: unknown) => ({
    offsetBytes: numberOf(partition, 'start') * sectorBytes,
    sizeBytes: numberOf(partition, 'size') * sectorBytes,
    type: String(fieldOf(partition, 'type')).toUpperCase(),
  }));
}

/** The partition that is the root: typed as one, else the largest that may hold a Linux file system. */
export function chooseRoot(partitions: readonly Partition[]): Partition | undefined {
  const typed = partitions.find((partition) => ROOT_TYPES.includes(partition.type));
  return typed ?? linuxPartitions(partitions).toSorted((a, b) => b.sizeBytes - a.sizeBytes)[0];
}

/** Those that may hold a Linux file system. */
export function linuxPartitions(partitions: readonly Partition[]): readonly Partition[] {
  return partitions.filter(({ type }) => LINUX_TYPES.includes(type) || ROOT_TYPES.includes(type));
}

/** The newest kernel among a folder's regular files, and the initrd that goes with it. */
export function chooseKernel(
  names: readonly string[],
): { readonly kernel: string; readonly initrd: string | undefined } | undefined {
  const versions = names
    // Nothing in such a name means anything to debugfs.
    .map((name) => /^vmlinuz-([A-Za-z0-9._+~-]+)$/.exec(name)?.[1])
    .filter((version) => version !== undefined && !version.includes('rescue'))
    .toSorted((a = '', b = '') => b.localeCompare(a, 'en', { numeric: true }));
  const version = versions[0];
  if (version === undefined) return undefined;
  const initrds = [
    `initrd.img-${version}`,
    `initramfs-${version}.img`,
    `initramfs-${version}`,
    `initrd-${version}`,
  ];
  return { kernel: `vmlinuz-${version}`, initrd: initrds.find((name) => names.includes(name)) };
}

/** The regular files in what `debugfs -R "ls -p"` says: lines of /inode/mode/uid/gid/name/size/. */
export function parseListing(text: string): readonly string[] {
  return text
    .split('\n')
    .map((line) => line.split('/'))
    .filter((parts) => parts[2]?.startsWith('100'))
    .map((parts) => parts[5] ?? '');
}

/**
 * An fstab for a root file system that has become a disk of its own: its line names that disk, and what was mounted from
 * the other partitions is left out, or a guest would wait for them and give up.
 */
export function fstabAlone(fstab: string): string {
  return fstab
    .split('\n')
    .flatMap((line) => {
      const [device = '', at, ...rest] = line.trim().split(/\s+/);
      if (device === '' || device.startsWith('#')) return [line];
      if (at === '/') return [['/dev/vda', '/', ...rest].join('\t')];
      return /^(UUID=|LABEL=|PARTUUID=|PARTLABEL=|\/dev\/(?!shm))/.test(device) ? [] : [line];
    })
    .join('\n');
}

function numberOf(value: unknown, name: string, otherwise?: number): number {
  const number = fieldOf(value, name) ?? otherwise;
  if (typeof number !== 'number' || !Number.isSafeInteger(number) || number < 0) {
    throw new Error(`sfdisk gave no ${name}`);
  }
  return number;
}
