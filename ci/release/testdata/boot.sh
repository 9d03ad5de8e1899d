#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Boots the Debian in the folder BASE as a machine of its own, with systemd: boot.sh BASE FILE... copies the files into its /root. What it changes is in memory, and gone at the end.
# It runs as root in namespaces of its own (unshare -m -p -n -u -i -C --fork), in a control group that it may fill.
set -euo pipefail
base=$1
shift
at=$(mktemp -d)
mount -t tmpfs tmpfs "$at"
mkdir "$at"/{up,work,root}
mount -t overlay overlay -o "lowerdir=$base,upperdir=$at/up,workdir=$at/work" "$at/root"
cp "$@" "$at/root/root"
cd "$at/root"
mount -t proc proc proc
mount --rbind /sys sys
mount --make-rslave sys
for dir in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs $dir; done
chmod 1777 tmp
for name in null zero full random urandom tty; do
	touch dev/$name
	mount --bind /dev/$name dev/$name
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
	mount -t cgroup2 cgroup2 sys/fs/cgroup
else # version 1: systemd's own tree, and that of the devices
	mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
	mkdir sys/fs/cgroup/{systemd,devices}
	mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
	mount -t cgroup -o devices cgroup sys/fs/cgroup/devices
fi
hostname box
ip link set lo up
mkdir old
pivot_root . old
umount -l /old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --log-target=null --show-status=no </dev/null
