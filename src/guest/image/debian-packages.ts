/** A program the host needs, and the Debian package that brings it. */
export interface HostPackage {
  readonly name: string;
  readonly binary: string;
  /** What it is for, in a few words. */
  readonly why: string;
  readonly needs: 'build' | 'run';
}

/** What building the default image and running guests takes. */
export const hostPackages: readonly HostPackage[] = [
  { name: 'mmdebstrap', binary: 'mmdebstrap', why: 'make a Debian root file system', needs: 'build' },
  { name: 'apt', binary: 'apt-get', why: 'fetch packages', needs: 'build' },
  { name: 'apt', binary: 'apt-config', why: 'know how the mirror is reached', needs: 'build' },
  { name: 'dpkg', binary: 'dpkg-deb', why: 'unpack the kernel', needs: 'build' },
  { name: 'e2fsprogs', binary: 'mke2fs', why: 'make the ext4 file system', needs: 'build' },
  { name: 'util-linux', binary: 'fallocate', why: 'keep the image sparse', needs: 'build' },
  { name: 'util-linux', binary: 'unshare', why: 'build without leaving mounts', needs: 'build' },
  { name: 'xz-utils', binary: 'xz', why: 'unpack kernels', needs: 'build' },
  { name: 'qemu-system-x86', binary: 'qemu-system-x86_64', why: 'run guests', needs: 'run' },
  { name: 'qemu-utils', binary: 'qemu-img', why: "make guests' disks", needs: 'run' },
  { name: 'genisoimage', binary: 'genisoimage', why: "make guests' cloud-init volumes", needs: 'run' },
  { name: 'fdisk', binary: 'sfdisk', why: 'read partitioned cloud images', needs: 'run' },
  { name: 'iproute2', binary: 'ip', why: 'bridge and taps', needs: 'run' },
  { name: 'nftables', binary: 'nft', why: 'firewall and masquerading', needs: 'run' },
  { name: 'dnsmasq-base', binary: 'dnsmasq', why: 'DHCP for guests', needs: 'run' },
  { name: 'dnsmasq-utils', binary: 'dhcp_release', why: "take guests' leases back", needs: 'run' },
];

/** Holds the keys Debian's packages are checked with; it has no program. */
export const KEYRING = {
  name: 'debian-archive-keyring',
  path: '/usr/share/keyrings/debian-archive-keyring.gpg',
} as const;

/** The Debian package that brings a program; the program's own name when none is known. */
export function packageOf(program: string): string {
  return hostPackages.find(({ binary }) => binary === program)?.name ?? program;
}
