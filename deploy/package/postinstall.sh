#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# A first installation starts nothing. An upgrade starts the daemon again if it ran: its tasks go on (LO-639). If it does not start, the package is installed all the same, and the reason is told.
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
		if systemctl start orchestratord.service; then
			rm "$run/llama-orch-restart"
		else # the mark stays: once that is mended, the next upgrade starts the daemon too
			echo "llama-orch: the daemon ran before the upgrade and does not start now; what it accepted is kept. Why, say" >&2
			echo "    orchestratord check --config /etc/llama-orch/config.yaml" >&2
			echo "    journalctl -u orchestratord.service -n 20" >&2
			echo "When that is mended: systemctl start orchestratord.service" >&2
		fi
	fi
fi
