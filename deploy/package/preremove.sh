#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# dpkg calls this before an upgrade too.
set -e
run=${LLORCH_RUN:-/run} # tests have another
if [ "$1" = upgrade ]; then
	exec sh /usr/share/llama-orch/preupgrade.sh
fi
if [ -d "$run/systemd/system" ]; then
	systemctl disable --now llama-orch-backup.timer orchestratord.service
fi
