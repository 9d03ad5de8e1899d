#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The life of the package on a Debian of its own, under systemd: life.sh OLDVERSION NEWVERSION. The packages are /root/old.deb and /root/new.deb.
set -euo pipefail
old=$1 new=$2
say() { echo "== $*"; }
fail() {
	echo "FAILED: $*" >&2
	journalctl -u orchestratord -n 20 --no-pager -o cat >&2
	exit 1
}
show() { systemctl show -p "$1" --value orchestratord; }
ready() {
	for _ in $(seq 600); do
		llama-orch doctor --json >/tmp/doctor 2>/dev/null || true
		grep -q '"tasks are taken"' /tmp/doctor && return
		systemctl -q is-active orchestratord || fail "the daemon ended"
		sleep 0.1
	done
	fail "the daemon is not ready"
}
again() { # the service has been started again, and is another process than before
	for _ in $(seq 600); do
		if [ "$(show ActiveState)" = active ] && [ "$(show MainPID)" != "$1" ] && [ "$(show MainPID)" != 0 ]; then
			ready
			return
		fi
		sleep 0.1
	done
	fail "systemd did not start the daemon again"
}
ask() { llama-orch run --model haiku --seed 7 'Write a haiku about snow containing "nine".'; }
declare -a tasks
begin() { # three tasks, one of which runs
	for i in 1 2 3; do
		ask >/tmp/answer.$i 2>/tmp/err.$i & tasks[i]=$!
	done
	sleep 1
	for i in 1 2 3; do kill -0 "${tasks[i]}" || fail "task $i had ended too early"; done
}
finish() {
	for i in 1 2 3; do
		wait "${tasks[i]}" || fail "task $i did not survive: $(cat /tmp/err.$i)"
		cmp /tmp/answer.$i /tmp/answer || fail "task $i has another answer"
	done
}

say install
dpkg -i /root/old.deb
grep -q '^llama-orch:' /etc/passwd || fail "there is no user"
[ "$(stat -c %a /etc/llama-orch/environment)" = 600 ] || fail "others can read the secrets"
[ -e /usr/share/man/man1/llama-orch.1.gz ] || fail "there is no manual"
for dir in /var/lib/llama-orch /var/backups/llama-orch; do
	[ "$(stat -c '%a %U' $dir)" = "700 llama-orch" ] || fail "$dir is not the daemon's alone before the first start"
done
orchestratord version | grep -F "$old"
[ "$(systemctl is-enabled orchestratord || true)" = disabled ] || fail "the installation enabled something"
! systemctl -q is-active orchestratord || fail "the installation started something"
[ "$(systemctl is-enabled llama-orch-backup.timer || true)" = disabled ] || fail "the installation enabled the backups"
systemd-analyze verify --man=no orchestratord.service llama-orch-nvidia.service llama-orch-backup.service llama-orch-backup.timer 2>/tmp/err || true # what it says of other units is not ours
! grep -E 'orchestratord|llama-orch' /tmp/err || fail "the units have faults"
systemd-analyze security orchestratord.service | tail -n 1

say start, and run a task
systemctl enable --now orchestratord
ready
ask >/tmp/answer
[ -s /tmp/answer ]
llama-orch doctor --config /etc/llama-orch/config.yaml | tee /tmp/doctor || fail "doctor finds faults in a fresh installation"
! grep -qE '^(fail|warn) +(server|readiness|pool|engine libraries|libffi|port)' /tmp/doctor || fail "doctor finds faults in a fresh installation"
setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME=/tmp llama-orch doctor --config /etc/llama-orch/config.yaml | tee /tmp/doctor || fail "doctor finds faults for a user who may not see the data folder"
grep -qE '^skip +data folder' /tmp/doctor || fail "the data folder cannot have been looked at"
! grep -q 'install -d -o' /tmp/doctor || fail "doctor would take the folder from the daemon"

say what it may reach
pid=$(show MainPID)
grep -q '^NoNewPrivs:	1$' /proc/"$pid"/status && grep -q '^Seccomp:	2$' /proc/"$pid"/status && grep -q '^CapBnd:	0000000000000000$' /proc/"$pid"/status || fail "it has more rights than it should"
sees() { nsenter -t "$pid" -m -S "$(id -u llama-orch)" -G "$(id -g llama-orch)" -- sh -c "$1"; }
for place in /usr /etc /var /boot; do
	! nsenter -t "$pid" -m -- touch $place/x 2>/tmp/err || fail "even root can write $place there"
	grep -q 'Read-only file system' /tmp/err || fail "$place: $(cat /tmp/err)"
done
! sees 'ls /root' 2>/dev/null || fail "it sees homes"
sees 'touch /var/lib/llama-orch/x && rm /var/lib/llama-orch/x' || fail "it cannot write its own folder"
[ "$(stat -c '%a %U' /var/lib/llama-orch)" = "700 llama-orch" ] || fail "others can read the data folder"

say the journal has levels
journalctl -u orchestratord -p warning -o cat --no-pager | grep -q '"level":"warn"' || fail "no warning has the priority of one"
! journalctl -u orchestratord -p warning -o cat --no-pager | grep -q '"level":"info"' || fail "a piece of information has the priority of a warning"

say a slow model, by a configuration that the operator changed, and a reload
sed -i 's/^    ctx: 256$/    ctx: 256\n    pace: 4/' /etc/llama-orch/config.yaml
systemctl reload orchestratord || fail "the reload failed"
ready
systemctl restart orchestratord
ready

say a kill -9, with tasks in flight
begin
pid=$(show MainPID)
kill -9 "$pid"
again "$pid"
finish

say a daemon that hangs, with tasks in flight
mkdir -p /etc/systemd/system/orchestratord.service.d
printf '[Service]\nWatchdogSec=3\nTimeoutAbortSec=2\n' >/etc/systemd/system/orchestratord.service.d/short.conf
systemctl daemon-reload
systemctl restart orchestratord
ready
sleep 7
pid=$(show MainPID)
[ "$(show NRestarts)" = 0 ] || fail "the watchdog ended a daemon that turns"
begin
kill -STOP "$pid"
again "$pid"
finish

say a crash, with tasks in flight
begin
pid=$(show MainPID)
kill -ABRT "$pid" # as a panic that nothing contains: Go would exit with the code of a wrong configuration
again "$pid"
finish
rm -r /etc/systemd/system/orchestratord.service.d
systemctl daemon-reload
systemctl restart orchestratord
ready

say a configuration that is refused
sed -i 's/^auth:/outh:/' /etc/llama-orch/config.yaml
! systemctl restart orchestratord || fail "it started with a wrong configuration"
sleep 3
[ "$(show ActiveState)" = failed ] || fail "it is tried again and again: $(show ActiveState)"
journalctl -u orchestratord -n 5 -o cat --no-pager | grep -q 'did you mean' || fail "the journal does not say what is wrong"
sed -i 's/^outh:/auth:/' /etc/llama-orch/config.yaml
systemctl start orchestratord
ready

say upgrade with tasks in flight
begin
dpkg -i --force-confold /root/new.deb
ready
orchestratord version | grep -F "$new"
finish
grep -q 'pace: 4' /etc/llama-orch/config.yaml || fail "the upgrade took the operator's configuration"
[ "$(systemctl is-enabled orchestratord)" = enabled ] || fail "the upgrade disabled the service"

say an upgrade that cannot start
sed -i 's/^auth:/outh:/' /etc/llama-orch/config.yaml
dpkg -i --force-confold /root/old.deb 2>/tmp/err || fail "the package manager is stuck: $(cat /tmp/err)"
grep -q 'orchestratord check' /tmp/err || fail "nobody said what to do"
dpkg -s llama-orch | grep -q '^Status: install ok installed$' || fail "the package is not installed"
sed -i 's/^outh:/auth:/' /etc/llama-orch/config.yaml
dpkg -i --force-confold /root/new.deb
systemctl start orchestratord
ready

say back up, and restore
as() { setpriv --reuid=llama-orch --regid=llama-orch --init-groups "$@"; }
as orchestratord backup --config /etc/llama-orch/config.yaml /var/cache/llama-orch/backup
! as orchestratord restore --config /etc/llama-orch/config.yaml /var/cache/llama-orch/backup 2>/tmp/err || fail "a restore over a daemon that runs"
grep -q 'another orchestratord uses the data folder' /tmp/err || fail "it says: $(cat /tmp/err)"
for _ in 1 2; do
	systemctl start llama-orch-backup.service || fail "the nightly backup: $(journalctl -u llama-orch-backup -n 5 -o cat --no-pager)"
	sleep 1
done
[ "$(find /var/backups/llama-orch -name SHA256SUMS | wc -l)" = 2 ] || fail "the nightly backups are not there"
systemctl stop orchestratord
rm -r /var/lib/llama-orch
systemd-tmpfiles --create llama-orch.conf # a new box: the package does this when it is installed, before the first start
as orchestratord restore --config /etc/llama-orch/config.yaml /var/cache/llama-orch/backup
systemctl start orchestratord
ready
[ "$(llama-orch tasks --json | grep -c '"task_id"')" -ge 1 ] || fail "the tasks are gone"


say remove, and purge
dpkg -r llama-orch
! systemctl -q is-active orchestratord || fail "the daemon still runs"
! [ -e /usr/bin/orchestratord ] || fail "the program is left"
[ -e /etc/llama-orch/config.yaml ] || fail "the configuration is gone before the purge"
[ -z "$(systemctl list-units --failed --no-legend --plain)" ] || fail "a unit failed: $(systemctl list-units --failed --no-legend --plain)"
dpkg -P llama-orch
! [ -e /etc/llama-orch/config.yaml ] || fail "the configuration is left"
[ -e /var/lib/llama-orch/state.db ] || fail "what was accepted is gone"
say done
