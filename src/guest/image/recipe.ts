import { createHash } from 'node:crypto';
import type { GuestFile } from './guest-file.ts';
import { GUEST_FILES } from './guest-files.ts';
import { INITRD_INIT } from './initrd-init.ts';

/** All that decides what is in the image. Nothing of the machine that builds it belongs here. */
export interface Recipe {
  /** Raised when the building itself changes in a way the rest of the recipe does not show. */
  readonly formatVersion: number;
  readonly name: string;
  readonly suite: string;
  readonly architecture: string;
  readonly packages: readonly string[];
  /** Only its files are taken: the host starts the kernel, so in the guest there is nothing to install or upgrade. */
  readonly kernelPackage: string;
  /** Paths dpkg leaves out, in the guest too when it installs more. */
  readonly dpkgOptions: readonly string[];
  readonly files: readonly GuestFile[];
  readonly folders: readonly string[];
  /** Path and what it points at. */
  readonly links: Readonly<Record<string, string>>;
  /** Removed after the packages are in; a last part with a star removes all that fits. */
  readonly removed: readonly string[];
  readonly initrd: { readonly init: string; readonly modules: readonly string[] };
  readonly filesystem: {
    readonly label: string;
    readonly sizeMib: number;
    readonly features: readonly string[];
  };
  readonly bootArgs: string;
  readonly defaultUser: string;
}

/** Units that cost boot time, or time and network later, and give a VM nothing. */
const MASKED = [
  'apt-daily.timer',
  'apt-daily.service',
  'apt-daily-upgrade.timer',
  'apt-daily-upgrade.service',
  'dpkg-db-backup.timer',
  'e2scrub_all.timer',
  'e2scrub_reap.service',
  'fstrim.timer',
  'getty@tty1.service',
  'modprobe@drm.service',
  'sys-fs-fuse-connections.mount',
  'sys-kernel-config.mount',
  'sys-kernel-debug.mount',
  'systemd-firstboot.service',
  'systemd-initctl.socket',
  'systemd-networkd.socket',
  'systemd-pstore.service',
  'systemd-repart.service',
];

/** Generators that look for what cannot be there, at every boot and every reload. */
const MASKED_GENERATORS = [
  'cloud-init-generator',
  'systemd-bless-boot-generator',
  'systemd-cryptsetup-generator',
  'systemd-gpt-auto-generator',
  'systemd-hibernate-resume-generator',
  'systemd-integritysetup-generator',
  'systemd-rc-local-generator',
  'systemd-system-update-generator',
  'systemd-veritysetup-generator',
];

/** Enabled units: who wants it, and where it lies. */
const WANTED = [
  ['multi-user.target', 'cloud-init.target', '/lib/systemd/system'],
  ['cloud-init.target', 'cloud-init-local.service', '/etc/systemd/system'],
  ['multi-user.target', 'systemd-networkd.service', '/lib/systemd/system'],
  ['network-online.target', 'systemd-networkd-wait-online.service', '/lib/systemd/system'],
  ['sysinit.target', 'hatch-resolv.path', '/etc/systemd/system'],
  ['multi-user.target', 'hatch-identity.service', '/etc/systemd/system'],
  ['local-fs.target', 'hatch-grow-root.service', '/etc/systemd/system'],
] as const;

/** The default image: a small Debian that boots fast where the processor is emulated, too. */
export const RECIPE: Recipe = {
  formatVersion: 1,
  name: 'hatch-debian-12',
  suite: 'bookworm',
  architecture: 'amd64',
  packages: [
    'busybox-static',
    'ca-certificates',
    'cloud-init',
    'curl',
    'dbus',
    'iproute2',
    'iputils-ping',
    'kmod',
    'less',
    'locales',
    'netbase',
    'openssh-server',
    'procps',
    'qemu-guest-agent',
    'sudo',
    'systemd-sysv',
    'udev',
    'vim-tiny',
  ],
  kernelPackage: 'linux-image-cloud-amd64',
  dpkgOptions: [
    'path-exclude=/usr/share/man/*',
    'path-exclude=/usr/share/info/*',
    'path-exclude=/usr/share/lintian/*',
    'path-exclude=/usr/share/locale/*',
    'path-exclude=/usr/share/doc/*',
    'path-include=/usr/share/doc/*/copyright',
    // With nothing in it systemd-binfmt.service has nothing to do, and a second of emulated boot is saved.
    'path-exclude=/usr/lib/binfmt.d/python*',
  ],
  files: GUEST_FILES,
  folders: ['/etc/hatch/after-restore.d'],
  links: {
    '/var/lib/dbus/machine-id': '/etc/machine-id',
    ...Object.fromEntries(MASKED.map((unit) => [`/etc/systemd/system/${unit}`, '/dev/null'])),
    ...Object.fromEntries(
      MASKED_GENERATORS.map((name) => [`/etc/systemd/system-generators/${name}`, '/dev/null']),
    ),
    ...Object.fromEntries(
      WANTED.map(([by, unit, folder]) => [`/etc/systemd/system/${by}.wants/${unit}`, `${folder}/${unit}`]),
    ),
  },
  removed: [
    '/boot/*',
    '/etc/apt/apt.conf.d/99mmdebstrap',
    '/etc/apt/sources.list.d/*',
    '/etc/ssh/ssh_host_*',
    '/etc/systemd/system/cloud-init.target.wants/cloud-init-hotplugd.socket',
    '/etc/systemd/system/getty.target.wants/getty@tty1.service',
    '/var/cache/debconf/*-old',
    '/var/lib/cloud/*',
    '/var/lib/dpkg/*-old',
    '/var/lib/systemd/random-seed',
    '/var/log/*.log',
    '/var/log/apt',
    '/tmp/*',
  ],
  initrd: {
    init: INITRD_INIT,
    // What stands between the kernel and its disk; udev loads the rest (net, console, rng, vsock) from the root file system.
    modules: ['virtio_pci', 'virtio_mmio', 'virtio_blk'],
  },
  filesystem: {
    label: 'hatch-root',
    sizeMib: 2048,
    // Named one by one, so that the building machine's mke2fs.conf decides nothing.
    features: [
      'none',
      'has_journal',
      'ext_attr',
      'resize_inode',
      'dir_index',
      'filetype',
      'extent',
      '64bit',
      'flex_bg',
      'sparse_super',
      'large_file',
      'huge_file',
      'dir_nlink',
      'extra_isize',
      'metadata_csum',
    ],
  },
  bootArgs: 'console=ttyS0 reboot=t panic=-1 root=/dev/vda rw rootfstype=ext4 net.ifnames=0',
  defaultUser: 'debian',
};

/** The recipe's name among builds: the same for the same recipe on every machine, another for any change of it. */
export function recipeHash(recipe: Recipe = RECIPE): string {
  return createHash('sha256').update(canonical(recipe)).digest('hex').slice(0, 16);
}

/** The sources.list the guest gets: Debian's public mirror, whatever mirror the image was built from. */
export function guestSources(recipe: Recipe): string {
  const { suite } = recipe;
  return [
    `deb http://deb.debian.org/debian ${suite} main`,
    `deb http://deb.debian.org/debian ${suite}-updates main`,
    `deb http://deb.debian.org/debian-security ${suite}-security main`,
    '',
  ].join('\n');
}

/** JSON whose keys stand in order, so that equal values give equal text. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}
