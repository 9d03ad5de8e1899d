#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs the tests of NVML on their stand-in, and the probe on this machine's driver. What they say is in results/, to be carried back.
cd "$(dirname "$0")" || exit 3
mkdir -p results
LLORCH_NVML_STUB_BUILT=$PWD/libnvidia-ml-standin.so
export LLORCH_NVML_STUB_BUILT
bad=0
for tests in ./*.test; do
	if "$tests" -test.count=1 -test.timeout=5m -test.v >"results/${tests#./}.log" 2>&1; then
		echo "$tests: passed"
	else
		bad=1
		echo "$tests: FAILED, see results/${tests#./}.log"
	fi
done
./gpuprobe >results/gpuprobe.json
case $? in
0) echo "gpuprobe: what the cards tell can be" ;;
2) echo "gpuprobe: this machine has no card that can be used: $(sed -n 's/^  "why_no_card": //p' results/gpuprobe.json)" ;;
*) bad=1; echo "gpuprobe: FAILED, see results/gpuprobe.json" ;;
esac
uname -srm >results/machine.txt
exit $bad
