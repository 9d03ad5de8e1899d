#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# The daemon is stopped before its files are replaced, since a worker whose program or model is replaced ends its task. Running tasks have time to finish; the others go on when the daemon is back.
set -e
run=${LLORCH_RUN:-/run} # tests have another
if [ -d "$run/systemd/system" ] && systemctl is-active --quiet orchestratord.service; then
	: >"$run/llama-orch-restart"
	systemctl stop orchestratord.service
fi
