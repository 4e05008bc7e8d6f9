import { IDENTITY_HELPER } from '../identity-helper.ts';
import { CLOUD_INIT_FILES } from './guest-cloud-init.ts';
import type { GuestFile } from './guest-file.ts';

/** First line of the resolv.conf we own: whoever writes another one there owns the file. */
const RESOLV_MARK =
  '# Written by hatch-resolv from the DHCP lease. Change this line and the file is yours: it will not be written again.';

const network: readonly GuestFile[] = [
  {
    // No IPv6, so that nothing waits for a router; the client id is the MAC, since forks share a machine id.
    path: '/etc/systemd/network/80-dhcp.network',
    content: `[Match]
Name=en* eth*

[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no
LLDP=no

[DHCPv4]
ClientIdentifier=mac
UseHostname=no
SendHostname=no
`,
  },
  {
    // Off by address, not by ipv6.disable=1: programs may still open IPv6 sockets (nginx does in its default site).
    path: '/etc/sysctl.d/50-hatch.conf',
    content: `net.ipv6.conf.all.disable_ipv6=1
net.ipv6.conf.default.disable_ipv6=1
`,
  },
  {
    path: '/etc/systemd/system/systemd-networkd-wait-online.service.d/hatch.conf',
    content: `# A machine without a network card waits for nothing, one whose DHCP server is silent for ten seconds.
[Unit]
ConditionPathExistsGlob=/sys/class/net/e*

[Service]
ExecStart=
ExecStart=-/lib/systemd/systemd-networkd-wait-online --any --ipv4 --timeout=10
ExecStartPost=-/usr/lib/hatch/resolv
`,
  },
  { path: '/etc/resolv.conf', content: `${RESOLV_MARK}\n` },
  {
    path: '/usr/lib/hatch/resolv',
    executable: true,
    content: `#!/bin/sh
# Puts the name servers of the DHCP lease into /etc/resolv.conf, unless somebody else has taken that file over.
state=/run/systemd/netif/state
conf=/etc/resolv.conf
[ -r "$state" ] || exit 0
[ ! -h "$conf" ] || exit 0
if [ -s "$conf" ]; then
  read -r first < "$conf"
  case $first in '# Written by hatch-resolv'*) ;; *) exit 0 ;; esac
fi
dns= domains=
while IFS='=' read -r key value; do
  case $key in
    DNS) dns=$value ;;
    DOMAINS) domains=$value ;;
  esac
done < "$state"
[ -n "$dns" ] || exit 0
{
  echo '${RESOLV_MARK}'
  for server in $dns; do echo "nameserver $server"; done
  [ -z "$domains" ] || echo "search $domains"
} > "$conf.$$" && mv "$conf.$$" "$conf"
`,
  },
  {
    path: '/etc/systemd/system/hatch-resolv.service',
    content: `[Unit]
Description=Name servers from the DHCP lease
DefaultDependencies=no
After=systemd-remount-fs.service
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/usr/lib/hatch/resolv
`,
  },
  {
    path: '/etc/systemd/system/hatch-resolv.path',
    content: `[Unit]
Description=Watch the DHCP lease for name servers
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target

[Path]
PathChanged=/run/systemd/netif/state
`,
  },
];

const agent: readonly GuestFile[] = [
  {
    // Debian's own unit serves virtio-serial, started by its udev rule. This one serves virtio-vsock (device id 19).
    path: '/etc/systemd/system/hatch-agent-vsock.service',
    content: `[Unit]
Description=Guest agent on vsock port 1024
ConditionPathExists=!/dev/virtio-ports/org.qemu.guest_agent.0

[Service]
ExecStartPre=-/sbin/modprobe vmw_vsock_virtio_transport
ExecStart=/usr/sbin/qemu-ga --method=vsock-listen --path=4294967295:1024
Restart=always
RestartSec=1
`,
  },
  {
    path: '/etc/udev/rules.d/60-hatch-agent-vsock.rules',
    content: `ACTION!="remove", SUBSYSTEM=="virtio", ATTR{device}=="0x0013", TAG+="systemd", ENV{SYSTEMD_WANTS}="hatch-agent-vsock.service"
`,
  },
];

const identity: readonly GuestFile[] = [
  { path: '/usr/lib/hatch/identity', executable: true, content: IDENTITY_HELPER },
  {
    // Its folder goes when it ends, and with it the pipe: nobody then takes it for one that runs. It goes before all that it wakes by
    // what it changes (systemd, systemd-networkd, sshd), which would else come in between where there is one processor.
    path: '/etc/systemd/system/hatch-identity.service',
    content: `[Unit]
Description=Makes this machine somebody else when it comes out of a snapshot as a copy
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/lib/hatch/identity
Restart=always
RuntimeDirectory=hatch
RuntimeDirectoryMode=0700
OOMScoreAdjust=-900
CPUSchedulingPolicy=fifo
CPUSchedulingPriority=1
CPUSchedulingResetOnFork=yes
`,
  },
];

const power: readonly GuestFile[] = [
  {
    path: '/usr/lib/systemd/system-shutdown/hatch',
    executable: true,
    content: `#!/bin/sh
# The last this machine says, so that its host can tell a power-off from a reboot, and both from a crash.
case $1 in
  reboot | kexec) word=reboot ;;
  *) word=poweroff ;;
esac
tty=/dev/ttyS0
[ -c "$tty" ] || tty=/dev/console
# On a line of its own, even if the one before it has no end.
printf '\\nhatch-shutdown: %s\\n' "$word" > "$tty"
# Setting a mode waits until all has gone out.
stty -F "$tty" opost onlcr 2> /dev/null
exit 0
`,
  },
];

const hooks: readonly GuestFile[] = [
  {
    path: '/etc/hatch/after-restore.d/README',
    content: `Programs in here run, in the order of their names, when this machine has been restored from a snapshot, and when it has
come out of one as a copy (a fork). HATCH_REASON in their environment is "restore" or "fork".

They run as root, one after another, each for ten seconds at most. By then the clock is right; a copy has its own host
name, machine id and SSH host keys, and its network card comes up only after the last of them. Names are letters, digits,
".", "_" and "-"; what is not executable, like this file, is passed over. One that fails is told of and stops nothing.
`,
  },
];

const boot: readonly GuestFile[] = [
  {
    path: '/etc/fstab',
    content: `# The kernel mounts the root file system (root= and rw on its command line); hatch-grow-root.service grows it.
`,
  },
  {
    // At every boot, since a disk may be made larger at any time. The file system is the whole disk: nothing to partition.
    path: '/etc/systemd/system/hatch-grow-root.service',
    content: `[Unit]
Description=Grow the root file system to the size of its disk
DefaultDependencies=no
After=systemd-remount-fs.service
Conflicts=shutdown.target
Before=local-fs.target shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-/lib/systemd/systemd-growfs /
`,
  },
  {
    path: '/etc/modprobe.d/hatch.conf',
    content: `# Not loaded by themselves: they cost seconds of boot where the processor is emulated, and a microVM has no use for
# them. "modprobe kvm_intel" still works.
blacklist kvm_intel
blacklist kvm_amd
blacklist powernow_k8
blacklist acpi_cpufreq
blacklist pcc_cpufreq
blacklist intel_rapl_msr
blacklist pcspkr
blacklist serio_raw
`,
  },
];

const system: readonly GuestFile[] = [
  { path: '/etc/hostname', content: 'hatch\n' },
  { path: '/etc/hosts', content: '127.0.0.1 localhost\n127.0.1.1 hatch\n' },
  { path: '/etc/default/locale', content: 'LANG=C.UTF-8\n' },
  // Empty, not missing: systemd makes one at first boot and does not take that boot for an unconfigured machine's.
  { path: '/etc/machine-id', content: '' },
  {
    // After 50-cloud-init.conf, and the first word counts: ssh_pwauth in user-data still has its way.
    path: '/etc/ssh/sshd_config.d/60-hatch.conf',
    content: 'PasswordAuthentication no\n',
  },
  {
    path: '/etc/apt/apt.conf.d/90hatch',
    content: `APT::Install-Recommends "false";
Acquire::Languages "none";
`,
  },
];

/**
 * Every file the recipe adds to what Debian's packages bring, or puts in its place: systemd units, udev rules, networkd
 * settings, as their manuals have them.
 */
export const GUEST_FILES: readonly GuestFile[] = [
  ...system,
  ...network,
  ...agent,
  ...identity,
  ...power,
  ...hooks,
  ...boot,
  ...CLOUD_INIT_FILES,
];
