#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The life of the package on this Debian, in an overlay that is gone at the end: life.sh OLD.deb NEW.deb OLDVERSION NEWVERSION
# It runs as root in a mount and a network namespace of its own (unshare -m -n). A stand-in does what systemd would.
set -euo pipefail
if [ "$1" != inside ]; then
	at=$(mktemp -d)
	mount -t tmpfs tmpfs "$at"
	mkdir "$at"/{up,work,root}
	mount -t overlay overlay -o "lowerdir=/,upperdir=$at/up,workdir=$at/work" "$at/root"
	for dir in proc dev tmp; do mount --rbind "/$dir" "$at/root/$dir"; done
	mount -t tmpfs tmpfs "$at/root/run"
	ip link set lo up
	cp "$0" "$at/root/life.sh"
	cp "$1" "$at/root/old.deb"
	cp "$2" "$at/root/new.deb"
	exec chroot "$at/root" /bin/bash /life.sh inside "$3" "$4"
fi
old=$2 new=$3
unit=/usr/lib/systemd/system/orchestratord.service
say() { echo "== $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

# A stand-in for systemd: it starts and stops the service as the unit says, and the package's scripts call it.
mkdir -p /run/systemd/system
cat >/usr/bin/systemctl <<'END'
#!/bin/bash
set -euo pipefail
echo "systemctl $*" >>/calls
unit=/usr/lib/systemd/system/orchestratord.service
running() { [ -e /pid ] && kill -0 "$(cat /pid)" 2>/dev/null; }
stop() {
	running || return 0
	kill -TERM "$(cat /pid)"
	for _ in $(seq 300); do running || return 0; sleep 0.1; done
	exit 1
}
case "$1" in
daemon-reload) ;;
is-active) running ;;
stop) stop ;;
disable) stop ;;
start)
	install -d -o llama-orch -g llama-orch -m 0700 /var/lib/llama-orch
	install -d -o llama-orch -g llama-orch -m 0755 /var/cache/llama-orch
	exec=$(sed -n 's/^ExecStart=//p' $unit)
	env=$(sed -n 's/^Environment=//p' $unit)
	cd /
	umask 0077
	# shellcheck disable=SC2086 # they are words
	setsid setpriv --reuid=llama-orch --regid=llama-orch --init-groups --no-new-privs env -i PATH=/usr/bin:/bin $env $exec >/out 2>>/log </dev/null &
	echo $! >/pid
	;;
*) exit 1 ;;
esac
END
ready() {
	for _ in $(seq 600); do
		llama-orch doctor --json >/doctor 2>/dev/null || true
		grep -q '"tasks are taken"' /doctor && return
		systemctl is-active || { cat /log >&2; fail "the daemon ended"; }
		sleep 0.1
	done
	fail "the daemon is not ready: $(tail -5 /log)"
}
start() { systemctl start orchestratord.service && ready; }
stop() { systemctl stop orchestratord.service; }
ask() { llama-orch run --model haiku --seed 7 'Write a haiku about snow containing "nine".'; }

say install
dpkg -i --force-depends /old.deb
grep -q '^llama-orch:' /etc/passwd || fail "there is no user"
[ "$(stat -c %a /etc/llama-orch/environment)" = 600 ] || fail "others can read the secrets"
man -w llama-orch >/dev/null 2>&1 || [ -e /usr/share/man/man1/llama-orch.1.gz ] || fail "there is no manual"
orchestratord version | grep -F "$old"
! systemctl is-active || fail "the installation started something"

say start, and run a task
start
ask >/answer
[ -s /answer ]

say a slow model, by a configuration that the operator changed
stop
sed -i 's/^    ctx: 256$/    ctx: 256\n    pace: 4/' /etc/llama-orch/config.yaml
start

say upgrade with tasks in flight
for i in 1 2 3; do
	ask >/answer.$i 2>/err.$i & tasks[i]=$!
done
sleep 1
for i in 1 2 3; do kill -0 ${tasks[i]} || fail "task $i had ended before the upgrade"; done
dpkg -i --force-depends --force-confold /new.deb
ready
orchestratord version | grep -F "$new"
for i in 1 2 3; do
	wait ${tasks[i]} || fail "task $i did not survive: $(cat /err.$i)"
	cmp /answer.$i /answer || fail "task $i has another answer"
done
grep -q 'pace: 4' /etc/llama-orch/config.yaml || fail "the upgrade took the operator's configuration"

say back up, and restore
setpriv --reuid=llama-orch --regid=llama-orch --init-groups orchestratord backup --config /etc/llama-orch/config.yaml /var/cache/llama-orch/backup
stop
rm -r /var/lib/llama-orch
install -d -o llama-orch -g llama-orch -m 0700 /var/lib/llama-orch
setpriv --reuid=llama-orch --regid=llama-orch --init-groups orchestratord restore --config /etc/llama-orch/config.yaml /var/cache/llama-orch/backup
start
[ "$(llama-orch tasks --json | grep -c '"task_id"')" -ge 1 ] || fail "the tasks are gone"

say remove, and purge
dpkg -r llama-orch
! systemctl is-active || fail "the daemon still runs"
! [ -e /usr/bin/orchestratord ] || fail "the program is left"
[ -e /etc/llama-orch/config.yaml ] || fail "the configuration is gone before the purge"
dpkg -P llama-orch
! [ -e /etc/llama-orch/config.yaml ] || fail "the configuration is left"
[ -e /var/lib/llama-orch/state.db ] || fail "what was accepted is gone"
say done
