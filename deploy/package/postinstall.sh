#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# A first installation starts nothing. An upgrade starts the daemon again if it ran: its tasks go on (LO-639).
set -e
run=${LLORCH_RUN:-/run} # tests have another
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers llama-orch.conf
fi
if command -v systemd-tmpfiles >/dev/null; then
	systemd-tmpfiles --create llama-orch.conf
fi
if [ -d "$run/systemd/system" ]; then
	systemctl daemon-reload
	if [ -e "$run/llama-orch-restart" ]; then
		rm "$run/llama-orch-restart"
		systemctl start orchestratord.service
	fi
fi
