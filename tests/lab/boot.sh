#!/bin/bash
# Runs as the first process of a lab's namespaces: gives it file systems of its own and becomes systemd.
#
# The machine's root is seen read-only. /dev, /etc, /run, /tmp, /var and the unit directories are the
# lab's own, and so are /proc and /sys, so nothing that runs in here can change the machine. Only the
# units that the lab names exist: no sysctl, udev, tmpfiles or fstab of the machine is acted on.
#
# Usage: boot.sh DIR CGROUP VISIBLE...
# DIR is writable in the lab at its own path; each VISIBLE directory is there too, read-only.
set -euo pipefail

dir=$1
shift 2
units=$(realpath /lib/systemd/system)
generators=$(realpath /lib/systemd/system-generators)

# The machine's /proc is still mounted here, so this is the pid that the keeper knows us by.
read -r init_pid _ </proc/self/stat
echo "$init_pid" >"$dir/init.pid"

# First of all, because mount(8) keeps notes in /run. What is needed of the old tree is set aside here, and
# moved into place at the end.
stage=/run/lab
mount -n -t tmpfs -o mode=755,nosuid,nodev tmpfs /run
mkdir -p "$stage"/{etc,dev,units,visible}

mount -t proc -o nosuid,nodev,noexec proc /proc
# Unmounted and not just covered: programs look for the cgroup2 mount in the list of mounts.
umount --recursive /sys
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -o remount,bind,ro /sys
# systemd raises kernel-wide limits at its start; those are the machine's.
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
ip link set lo up

cp -a /etc/. "$stage"/etc/
# The machine may have an unwait of its own.
rm -rf "$stage"/etc/unwait "$stage"/etc/systemd/system
mkdir -p "$stage"/etc/systemd/system
rm -f "$stage"/etc/machine-id
tr -d - </proc/sys/kernel/random/uuid >"$stage"/etc/machine-id

mount -t tmpfs -o mode=755,nosuid tmpfs "$stage"/dev
for node in null zero full random urandom tty; do
    touch "$stage/dev/$node"
    mount --bind "/dev/$node" "$stage/dev/$node"
done
ln -s /proc/self/fd "$stage"/dev/fd
# Units with PrivateDevices= want it; systemd mounts the rest of /dev/pts.
ln -s pts/ptmx "$stage"/dev/ptmx

for unit in sysinit.target basic.target sockets.target slices.target shutdown.target umount.target \
    final.target multi-user.target network.target network-online.target time-sync.target \
    dbus.service dbus.socket \
    systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket; do
    cp -a "$units/$unit" "$stage"/units/
done
cat >"$stage"/units/lab.target <<'UNIT'
[Unit]
Description=The lab
Requires=basic.target dbus.socket systemd-journald.socket
After=basic.target dbus.socket systemd-journald.socket
UNIT

visible=("$dir" "$@")
for index in "${!visible[@]}"; do
    mkdir "$stage/visible/$index"
    mount --bind "${visible[index]}" "$stage/visible/$index"
    [[ $index == 0 ]] || mount -o remount,bind,ro "$stage/visible/$index"
done

mount -o remount,bind,ro /
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /tmp
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /var
mkdir -m 755 /var/lib /var/log
mkdir -m 1777 /var/tmp
mount --bind "$stage"/etc /etc
mount --bind "$stage"/units "$units"
[[ ! -d $generators ]] || mount -t tmpfs -o mode=755 tmpfs "$generators"
mount --move "$stage"/dev /dev

for index in "${!visible[@]}"; do
    mkdir -p "${visible[index]}"
    mount --move "$stage/visible/$index" "${visible[index]}"
done

# A container's systemd leaves this to whoever starts it, and hands units their credentials by it. Nothing of it
# reaches the machine: the whole tree was made private when it was unshared.
mount --make-rshared /

# `container` tells systemd that hardware, clock and kernel are not its business.
# NOTIFY_SOCKET is where it says that the boot is over.
exec env -i container=lab NOTIFY_SOCKET="$dir/booted" PATH="$PATH" LANG=C.UTF-8 \
    "$(realpath /lib/systemd/systemd)" --system --unit=lab.target --log-target=console --show-status=no
