/** What the first bytes of kernels, initrds and disks say of them. Pure: bytes in, a word out. */

/** How many bytes from the start the functions below need. */
export const MAGIC_BYTES = 70 * 1024;

/**
 * A kernel: `bzImage` as Linux builds it for PCs (https://docs.kernel.org/arch/x86/boot.html: `HdrS` at 0x202), or `vmlinux`,
 * a 64-bit ELF program. undefined: neither.
 */
export function kernelKind(start: Buffer): 'bzImage' | 'vmlinux' | undefined {
  if (start.length > 0x210 && is(start, 0x202, 'HdrS') && start.readUInt16LE(0x1fe) === 0xaa55)
    return 'bzImage';
  if (start.length > 64 && is(start, 0, '\x7fELF') && start[4] === 2) return 'vmlinux';
  return undefined;
}

const INITRD_MAGICS = [
  '070701',
  '070702',
  '\x1f\x8b',
  '\x28\xb5\x2f\xfd',
  '\xfd7zXZ\0',
  '\x02\x21\x4c\x18',
  '\x04\x22\x4d\x18',
  'BZh',
  '\x5d\0\0',
  '\x89LZO',
];

/** Whether it begins as an initrd does: a cpio archive, or one packed in a way Linux unpacks. */
export function looksLikeInitrd(start: Buffer): boolean {
  return INITRD_MAGICS.some((magic) => is(start, 0, magic));
}

/** What lies on a disk from its first byte on. */
export type DiskContent =
  | { readonly kind: 'ext4'; readonly sizeBytes: number }
  | { readonly kind: 'partitions' }
  | { readonly kind: 'other'; readonly name: string };

/**
 * What a disk, or a partition, holds: ext4 (or its elders, which the same driver mounts) with its size by its superblock
 * (https://docs.kernel.org/filesystems/ext4/globals.html), a partition table (MBR or GPT), or something else, named.
 */
export function diskContent(start: Buffer): DiskContent {
  if (start.length >= 2048 && start.readUInt16LE(1024 + 0x38) === 0xef53) {
    const blockBytes = 1024 * 2 ** start.readUInt32LE(1024 + 0x18);
    const wide = (start.readUInt32LE(1024 + 0x60) & 0x80) !== 0;
    const blocks = start.readUInt32LE(1024 + 0x4) + (wide ? start.readUInt32LE(1024 + 0x150) * 2 ** 32 : 0);
    return { kind: 'ext4', sizeBytes: blocks * blockBytes };
  }
  const known = (
    [
      [0, 'XFSB', 'XFS'],
      [0x10040, '_BHRfS_M', 'Btrfs'],
      [0, 'hsqs', 'squashfs'],
      [0, 'LUKS\xba\xbe', 'an encrypted volume (LUKS)'],
      [512, 'LABELONE', 'an LVM volume'],
      [0x8001, 'CD001', 'an ISO 9660 file system'],
      [3, 'NTFS    ', 'NTFS'],
      [82, 'FAT32   ', 'FAT'],
      [54, 'FAT1', 'FAT'],
    ] as const
  ).find(([at, magic]) => is(start, at, magic));
  if (known) return { kind: 'other', name: known[2] };
  if (start.length >= 512 && start.readUInt16LE(510) === 0xaa55) return { kind: 'partitions' };
  return { kind: 'other', name: 'nothing Hatch knows' };
}

function is(start: Buffer, at: number, magic: string): boolean {
  return start.subarray(at, at + magic.length).equals(Buffer.from(magic, 'latin1'));
}
