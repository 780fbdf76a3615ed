#!/bin/bash
# Runs as the first process of a bare lab: the machine's own processes and files, with a network, /run, cgroup tree and
# tracefs of the lab's. The machine's systemd is not there to be asked, and tracefs is mounted where systemd has it.
#
# Usage: bare.sh DIR CGROUP VISIBLE...
set -euo pipefail

dir=$1
echo "$$" >"$dir/init.pid"

mount -n -t tmpfs -o mode=755,nosuid,nodev tmpfs /run
umount --recursive /sys/fs/cgroup
mount -n -t cgroup2 cgroup2 /sys/fs/cgroup
mount -n -t tracefs tracefs /sys/kernel/tracing
ip link set lo up

# Who hears it does not listen for long.
NOTIFY_SOCKET=$dir/booted systemd-notify --ready --no-block
exec sleep infinity
