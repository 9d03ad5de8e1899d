#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# newcomer.sh ADDR TARGET: the first minutes with the project, as the README has them. An empty TARGET ends behind Ctrl-C; else it is one of `go tool mage`.
set -euo pipefail
addr=$1 target=$2
part() { echo "== $1 (${SECONDS} s)"; }
cd

part "git clone"
git clone -q -c advice.detachedHead=false /room/tree.bundle llama-orch # a bundle of a commit has no branch
cd llama-orch
git switch -q -c main

part "go tool mage up"
if [ "$addr" != 127.0.0.1:8080 ]; then export LLORCH_BIND_ADDR=$addr; fi
set -m # so that it has a process group of its own, as on a terminal
go tool mage up >../up.log 2>&1 &
up=$!
until grep -q '^Ctrl-C stops it' ../up.log; do
	if ! kill -0 $up 2>/dev/null; then
		cat ../up.log
		echo "it ended by itself"
		exit 1
	fi
	sleep 0.2
done
part "it serves"
cat ../up.log

part "Ctrl-C"
kill -INT -- -$up
code=0
wait $up || code=$?
set +m
unset LLORCH_BIND_ADDR
if [ $code != 0 ]; then
	cat ../up.log
	echo "up ended with $code"
	exit 1
fi
for process in /proc/[0-9]*; do
	case $(readlink "$process/exe" || true) in
	"$PWD"/*)
		echo "a process is left behind: $(tr '\0' ' ' <"$process/cmdline")"
		exit 1
		;;
	esac
done
if [ -n "$(git status --short)" ]; then
	git status --short
	echo "it left files in the tree that git does not ignore"
	exit 1
fi

if [ -n "$target" ]; then
	part "go tool mage $target"
	go tool mage "$target"
fi
part "done"
