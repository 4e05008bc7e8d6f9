/**
 * The program the kernel starts from the initrd: loads what a virtio disk needs, waits for the root file system's device,
 * and hands over to it. It reads root=, rootfstype=, rootflags=, ro, rw and init= as kernel-parameters.txt has them.
 * Debian's own initrd does the same in ten times the size and seconds more of emulated processor (it starts udev).
 */
export const INITRD_INIT = `#!/bin/busybox sh
busybox mount -t proc -o nosuid,nodev,noexec proc /proc
busybox mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
busybox mount -t devtmpfs -o nosuid,mode=0755 dev /dev
root= fstype=ext4 flags= mode=ro init=/sbin/init
read -r line < /proc/cmdline
for word in $line; do
  case $word in
    root=*) root=\${word#root=} ;;
    rootfstype=*) fstype=\${word#rootfstype=} ;;
    rootflags=*) flags=,\${word#rootflags=} ;;
    init=*) init=\${word#init=} ;;
    rw | ro) mode=$word ;;
  esac
done
while read -r module; do busybox insmod "/lib/$module"; done < /modules
tries=0
while :; do
  case $root in
    LABEL=* | UUID=*) device=$(busybox findfs "$root" 2> /dev/null) ;;
    *) device=$root ;;
  esac
  [ ! -b "$device" ] || break
  tries=$((tries + 1))
  [ $tries -lt 600 ] || { echo "hatch-initrd: the root device $root did not appear in 30 s"; exit 1; }
  busybox usleep 50000
done
busybox mount -t "$fstype" -o "$mode$flags" "$device" /root || { echo "hatch-initrd: cannot mount $device"; exit 1; }
busybox mount -o move /proc /root/proc
busybox mount -o move /sys /root/sys
busybox mount -o move /dev /root/dev
exec busybox switch_root /root "$init"
`;
