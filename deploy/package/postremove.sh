#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# The data folder and the user stay: what was accepted is not a package's to delete.
set -e
run=${LLORCH_RUN:-/run} # tests have another
if [ -d "$run/systemd/system" ]; then
	systemctl daemon-reload
fi
