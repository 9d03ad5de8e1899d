#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# room.sh ROOT GO BUNDLE PACKAGES ADDR TARGET: what a newcomer does, on the Debian in the folder ROOT, which it changes. GO is a folder with Go, as its archive unpacks.
# It runs as root in namespaces of its own for mounts and processes, so that all of it is gone when it ends. What the newcomer's environment has besides is in
# ROOT/room/env, one a line.
set -euo pipefail
root=$1 go=$2 bundle=$3 packages=$4 addr=$5 target=$6

mount --bind "$root" "$root"
cd "$root"
mkdir -p room usr/local/go
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys || true
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
	touch dev/$name
	mount --bind /dev/$name dev/$name
done
ln -s /proc/self/fd dev/fd
for n in 0 1 2; do ln -s /proc/self/fd/$n "dev/$(printf 'stdin stdout stderr' | cut -d' ' -f$((n + 1)))"; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount --bind "$go" usr/local/go
mount -o remount,bind,ro usr/local/go
cp "$bundle" room/tree.bundle
chmod 644 room/tree.bundle

# The network is the machine's: its names, the place where it gets packages, and the certificates that it trusts.
cp -L /etc/resolv.conf /etc/hosts etc/
for part in sources.list sources.list.d apt.conf.d trusted.gpg.d; do
	if [ -e /etc/apt/$part ]; then rm -rf etc/apt/$part && cp -rL /etc/apt/$part etc/apt/; fi
done
inside() { chroot . env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
part() { echo "== $1 (${SECONDS} s)"; }

part "apt-get install $packages"
inside apt-get -qq update
# shellcheck disable=SC2086 # it is a list
inside apt-get -qq install -y $packages >room/apt.log 2>&1 || { tail -30 room/apt.log; exit 1; }
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
	mkdir -p etc/ssl/certs
	cp -L /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ca-certificates.crt
fi
inside useradd --create-home --shell /bin/bash newcomer
inside chown -R newcomer room

mapfile -t env <room/env
exec setpriv --no-new-privs chroot --userspec=newcomer:newcomer . env -i HOME=/home/newcomer USER=newcomer LOGNAME=newcomer LC_ALL=C.UTF-8 TERM=dumb \
	PATH=/usr/local/go/bin:/usr/local/bin:/usr/bin:/bin "${env[@]}" bash /room/newcomer.sh "$addr" "$target"
