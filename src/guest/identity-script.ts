/**
 * What runs in a guest that was loaded, in any POSIX sh. Every program started costs an emulated guest some 50 ms, so there
 * are few of them. The agent runs it as it is: what it leaves running must hold neither of its outputs. What it is told comes
 * on stdin, a line each, and never on a command line: reason, seed in hex, seconds a hook may take, and for a copy the time in
 * hundredths of a second, host name, MAC (or nothing), machine id, and both halves of an Ed25519 and of an ECDSA host key. It says
 * what it did on stdout, a line each, and `done` at the end; the sentence why not on stderr.
 */
const COMMON = `set -u
umask 022
cd /
# What the agent's service manager told the agent is nobody else's business.
unset INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET SYSTEMD_EXEC_PID
export LC_ALL=C HOME="\${HOME:-/root}" PATH="\${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
fail() {
  echo "$*" >&2
  exit 1
}
put() {
  printf '%s\\n' "$2" >"$1" || fail "$1 cannot be written"
}
# What goes on afterwards would end with the agent's service if it stayed in its control group.
leave_service() {
  [ -f /sys/fs/cgroup/cgroup.controllers ] || return 0
  [ -d /sys/fs/cgroup/hatch-left ] || mkdir /sys/fs/cgroup/hatch-left
  echo 0 >/sys/fs/cgroup/hatch-left/cgroup.procs
} 2>/dev/null
find_card() {
  card=
  for path in /sys/class/net/*/device; do
    [ -e "$path" ] || continue
    path=\${path%/device}
    read -r type <"$path/type" || continue
    [ "$type" = 1 ] || continue
    card=\${path##*/}
    return
  done
}
`;

/**
 * What has passed since the agent started us is added (field 22 of proc(5)'s stat: hundredths since the boot).
 */
const CLOCK = `
set_clock() {
  line= up=
  read -r line <"/proc/$$/stat"
  read -r up rest </proc/uptime
  set -- \${line##*) }
  case \${20-}\${up%.*}\${up#*.} in
    '' | *[!0-9]*) ;;
    *) now=$((now + \${up%.*}\${up#*.} - \${20})) ;;
  esac
  seconds=$((now / 100)) hundredths=$((now % 100 + 100))
  date -s "@$seconds.\${hundredths#1}" >/dev/null 2>&1 || date -s "@$seconds" >/dev/null || fail 'its clock cannot be set'
}
`;

/**
 * The bytes are credited and the generator reseeded from them at once (RNDADDENTROPY, RNDRESEEDCRNG, random(4)): a write to
 * /dev/urandom alone counts for nothing until the next reseeding, a minute later at worst. The seed for the next boot is
 * made anew too. Where there is nothing to ask the kernel with, its own VM Generation ID driver has done it, if it has one.
 */
const RESEED = `
reseed() {
  if command -v perl >/dev/null; then
    perl -e '
      use strict;
      my $bytes = pack "H*", <STDIN> =~ s/\\s//gr;
      open my $random, "+<", "/dev/urandom" or die "/dev/urandom: $!\\n";
      my $entropy = pack("ii", 8 * length $bytes, length $bytes) . $bytes;
      ioctl $random, 0x40085203, $entropy or die "RNDADDENTROPY: $!\\n";
      ioctl $random, 0x5207, 0 or die "RNDRESEEDCRNG: $!\\n";
      for my $path (@ARGV) {
        open my $file, "+<", $path or next;
        sysread $random, my $next, 512;
        syswrite $file, $next;
      }
    ' "$@" <<END || return
$seed
END
    echo 'reseeded yes'
  elif command -v python3 >/dev/null; then
    python3 -c '
import fcntl, struct, sys
seed = bytes.fromhex(sys.stdin.readline())
with open("/dev/urandom", "r+b", buffering=0) as random:
    fcntl.ioctl(random, 0x40085203, struct.pack("ii", 8 * len(seed), len(seed)) + seed)
    fcntl.ioctl(random, 0x5207)
    for path in sys.argv[1:]:
        try:
            with open(path, "r+b", buffering=0) as file: file.write(random.read(512))
        except OSError: pass
' "$@" <<END || return
$seed
END
    echo 'reseeded yes'
  else
    echo "$seed" >/dev/urandom
    for driver in /sys/bus/*/drivers/vmgenid/*:*; do
      [ -e "$driver" ] && echo 'reseeded yes' && return
    done
    echo 'it has neither perl nor python3 to reseed its random state with, and its kernel does not do it' >&2
    return 1
  fi
}
reseed_all() {
  set -- /var/lib/systemd/random-seed /var/lib/urandom/random-seed /var/lib/misc/random-seed
  reseed "$@"
}
`;

/**
 * What a hook leaves behind in the background may hold its output for ever, so that goes into a file. Names that do not fit
 * on a line of ours are passed over, as are editors' and package managers' leftovers.
 */
const HOOKS = `
run_hooks() {
  out=
  for hook in /etc/hatch/after-restore.d/*; do
    name=\${hook##*/}
    case $name in *[!A-Za-z0-9._-]* | *.dpkg-* | *.rpmsave | *.rpmnew) continue ;; esac
    [ -f "$hook" ] && [ -x "$hook" ] || continue
    if [ ! "$out" ]; then
      out=$(mktemp -d /run/hatch-hooks.XXXXXX || mktemp -d) || fail 'there is no room for what hooks say'
    fi
    (
      leave_service
      HATCH_REASON=$reason exec timeout -k 1 "$hook_seconds" "$hook"
    ) >"$out/said" 2>&1
    code=$?
    echo "hook $code $name"
    if [ $code -ne 0 ]; then
      tail -c 500 "$out/said" | tr -c '[:print:]\\n' '?' | sed 's/^/said /'
    fi
  done
  [ "$out" ] && rm -rf "$out"
}
`;

const IDENTITY = `
set_hostname() {
  read -r old </proc/sys/kernel/hostname || old=
  echo "$hostname" >/proc/sys/kernel/hostname || fail 'the host name cannot be set'
  put /etc/hostname "$hostname"
  case $old in
    '' | localhost | localhost.* | *[!A-Za-z0-9.-]*) ;;
    *) [ ! -f /etc/hosts ] || rename_in_hosts ;;
  esac
}

# Where a name in /etc/hosts is the old one, or the old one and a domain.
rename_in_hosts() {
  text= other=
  while IFS= read -r line || [ "$line" ]; do
    case $line in
      '#'*) ;;
      *[[:space:]]"$old"*)
        rest=$line
        line=
        while
          before=\${rest%%"$old"*}
          [ "$before" != "$rest" ]
        do
          rest=\${rest#*"$old"}
          case "$before|$rest" in
            *[[:space:]]'|' | *[[:space:]]'|'[[:space:].]*) line=$line$before$hostname other=1 ;;
            *) line=$line$before$old ;;
          esac
        done
        line=$line$rest
        ;;
    esac
    text=$text$line'
'
  done </etc/hosts
  [ ! "$other" ] || printf %s "$text" >/etc/hosts || fail '/etc/hosts cannot be written'
}

set_machine_id() {
  # A guest that has none makes one when it wants it.
  old_id=
  [ -f /etc/machine-id ] && read -r old_id </etc/machine-id
  [ -e /etc/machine-id ] && put /etc/machine-id "$machine_id"
  if [ -f /var/lib/dbus/machine-id ] && [ ! -h /var/lib/dbus/machine-id ]; then
    put /var/lib/dbus/machine-id "$machine_id"
  fi
}

# The journal lies in a folder of that name, and journalctl looks nowhere else. Nobody waits for it.
move_journal() {
  moved=
  for top in /run/log/journal /var/log/journal; do
    if [ "$old_id" ] && [ -d "$top/$old_id" ]; then
      mv "$top/$old_id" "$top/$machine_id" && moved=1
    fi
  done
  [ ! "$moved" ] || ! command -v systemctl || systemctl --no-block restart systemd-journald
}

# Whether a pid is a program's of this name.
runs() {
  comm=
  case $1 in '' | *[!0-9]*) return 1 ;; esac
  { read -r comm <"/proc/$1/comm"; } 2>/dev/null
  [ "$comm" = "$2" ]
}

give_key() {
  put "$key" "-----BEGIN OPENSSH PRIVATE KEY-----
$1
-----END OPENSSH PRIVATE KEY-----"
  put "$key.pub" "$2"
  made="$made $kind"
  echo "key $2"
}

set_host_keys() {
  made=
  for key in /etc/ssh/ssh_host_*_key; do
    [ -f "$key" ] || continue
    kind=\${key#/etc/ssh/ssh_host_}
    kind=\${kind%_key}
    # What is written over keeps its mode and owner.
    case $kind in
      ed25519) give_key "$ed25519" "$ed25519_public"; continue ;;
      ecdsa) give_key "$ecdsa" "$ecdsa_public"; continue ;;
      rsa | dsa) ;;
      *) continue ;;
    esac
    # It is asked whether it may overwrite them.
    ssh-keygen -q -t "$kind" -N '' -C "root@$hostname" -f "$key" >/dev/null <<END || fail "no $kind host key could be made"
y
END
    made="$made $kind"
    read -r public <"$key.pub" && echo "key $public"
  done
}

# sshd has read its keys when it started; at SIGHUP it starts anew, and sessions go on.
reload_sshd() {
  for file in /run/sshd.pid /var/run/sshd.pid; do
    pid=
    { read -r pid <"$file"; } 2>/dev/null
    if runs "$pid" sshd; then
      kill -HUP "$pid"
      return
    fi
  done
  for stat in /proc/[0-9]*/stat; do
    line=
    { read -r line <"$stat"; } 2>/dev/null
    case $line in
      *' (sshd) '[A-Z]' 1 '*) kill -HUP "\${line%% *}" ;;
    esac
  done
}

# DHCP clients that would go on with the old lease; systemd-networkd and NetworkManager drop theirs when the card goes down.
forget_lease() {
  for file in /run/dhclient*.pid /run/dhcpcd*.pid /run/dhcpcd/*.pid /run/udhcpc*.pid; do
    pid=
    { read -r pid <"$file"; } 2>/dev/null || continue
    for name in dhclient dhcpcd udhcpc; do
      runs "$pid" "$name" && kill -KILL "$pid"
    done
  done
  set --
  for file in /var/lib/dhcp/dhclient*.lease* /var/lib/dhclient/*.lease* /var/lib/dhcpcd/*.lease* \\
    /var/lib/NetworkManager/*.lease*; do
    [ -f "$file" ] && set -- "$@" "$file"
  done
  [ $# -eq 0 ] || rm -f "$@"
}

# Where configuration is found by the card's address, it must find it after the next boot.
rename_mac() {
  set --
  for file in /etc/netplan/*.yaml /etc/systemd/network/* /run/systemd/network/* /etc/network/interfaces \\
    /etc/network/interfaces.d/* /etc/udev/rules.d/*net* /etc/NetworkManager/system-connections/* \\
    /etc/sysconfig/network-scripts/ifcfg-*; do
    [ -f "$file" ] && [ ! -h "$file" ] && set -- "$@" "$file"
  done
  for file; do
    while IFS= read -r line; do
      case $line in
        *[0-9A-Fa-f]:[0-9A-Fa-f]*)
          sed -i "s/$old_mac/$mac/Ig" "$file"
          break
          ;;
      esac
    done <"$file"
  done
}

set_card() {
  find_card
  if [ ! "$card" ]; then
    [ ! "$mac" ] || fail 'it has no network card'
    return
  fi
  [ "$mac" ] || return
  read -r old_mac <"/sys/class/net/$card/address"
  forget_lease
  ip -batch - <<END >/dev/null 2>&1 || {
address flush dev $card
link set dev $card down address $mac
END
    ip addr flush dev "$card"
    ip link set "$card" down
    ip link set "$card" address "$mac"
  }
  read -r taken <"/sys/class/net/$card/address"
  [ "$taken" = "$mac" ] || fail 'the network card does not take another address'
  rename_mac
}
`;

const READ_COMMON = `IFS= read -r reason && IFS= read -r seed && IFS= read -r hook_seconds || fail 'nothing was said on stdin'
`;

/** Makes a copy somebody else. */
export const IDENTITY_SCRIPT = `${COMMON}${CLOCK}${RESEED}${HOOKS}${IDENTITY}
${READ_COMMON}read -r now && IFS= read -r hostname && IFS= read -r mac && IFS= read -r machine_id || fail 'too little was said on stdin'
IFS= read -r ed25519 && IFS= read -r ed25519_public && IFS= read -r ecdsa && IFS= read -r ecdsa_public || fail 'too little was said on stdin'
exec </dev/null
# Before the rest, since all that is drawn afterwards must be another's.
reseed_all || fail 'its random state could not be reseeded'
set_hostname
set_machine_id
set_host_keys
# Last, for others in the guest have work to do when these change.
set_card
set_clock
run_hooks
[ ! "$made" ] || reload_sshd
echo done
(
  leave_service
  move_journal
) >/dev/null 2>&1 &
`;

/** The hooks alone, told as the rest is but on the command line: reason and seconds are no secrets. */
export const HOOKS_SCRIPT = `${COMMON}${HOOKS}
reason=$1 hook_seconds=$2
run_hooks
exit 0
`;

/** What is done to a guest that was restored as itself, once its clock is set (`GuestAgent.setTime`). */
export const REFRESH_SCRIPT = `${COMMON}${RESEED}${HOOKS}
${READ_COMMON}exec </dev/null
reseed_all || echo 'reseeded no'
run_hooks
echo done
`;

/**
 * Brings the card up, and has whoever manages it ask for an address at once. systemd-networkd and others would first ask for
 * the address the machine had as another, and wait for the refusal: told to begin anew, they do not.
 */
export const JOIN_SCRIPT = `${COMMON}
find_card
[ "$card" ] || fail 'it has no network card'
# These wait for their lease, or do not come back at all.
later() {
  leave_service
  setsid "$@" </dev/null >/dev/null 2>&1 &
  exit 0
}
read -r index <"/sys/class/net/$card/ifindex"
managed=
if [ -f "/run/systemd/netif/links/$index" ] && command -v networkctl >/dev/null; then
  managed=1
  while read -r line; do
    [ "$line" = ADMIN_STATE=unmanaged ] && managed=
  done <"/run/systemd/netif/links/$index"
  [ "$managed" ] && networkctl reconfigure "$card"
fi
ip link set dev "$card" up || fail 'the network card cannot be brought up'
[ ! "$managed" ] || exit 0
if [ -d /run/NetworkManager ] && command -v nmcli >/dev/null; then
  later nmcli device connect "$card"
fi
for file in /etc/network/interfaces /etc/network/interfaces.d/*; do
  [ -f "$file" ] || continue
  while read -r word name rest; do
    [ "$word $name" = "iface $card" ] && command -v ifup >/dev/null && later ifup --force "$card"
  done <"$file"
done
command -v dhclient >/dev/null && later dhclient "$card"
command -v dhcpcd >/dev/null && later dhcpcd "$card"
command -v udhcpc >/dev/null && later udhcpc -b -i "$card"
exit 0
`;
