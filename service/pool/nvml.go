// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/llama-orch/llama-orch/service/task"
)

// checkNVML returns nil where the NVIDIA driver has the cards of the mask. A GPU pool never falls back to the CPU
// (ORCH-1102), so the error says what to do.
func checkNVML(mask string) error {
	lib := nvml.New()
	if status := lib.Init(); status != nvml.SUCCESS {
		return noGPU("the NVIDIA driver cannot be used (%s): install it, or say `device: cpu` to decode on the CPU", nvml.ErrorString(status))
	}
	defer func() { _ = lib.Shutdown() }()
	count, status := lib.DeviceGetCount()
	if status != nvml.SUCCESS {
		return noGPU("the NVIDIA driver does not list its cards (%s): look at `nvidia-smi`", nvml.ErrorString(status))
	}
	if count == 0 {
		return noGPU("the NVIDIA driver has no card: look at `nvidia-smi`, or say `device: cpu` to decode on the CPU")
	}
	return checkMask(mask, count)
}

// checkMask returns nil where every index of the mask names one of so many cards, once.
func checkMask(mask string, cards int) error {
	if mask == "auto" {
		return nil
	}
	indices := strings.Split(mask, ",")
	for i, text := range indices {
		index, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || index < 0 || index >= cards || slices.Contains(indices[:i], text) {
			return noGPU("`device: %s` does not fit this machine, which has %d cards, counted from 0: correct it", mask, cards)
		}
	}
	return nil
}

func noGPU(format string, args ...any) error {
	return task.Errorf(task.PoolUnavailable, "%s", fmt.Sprintf(format, args...))
}
