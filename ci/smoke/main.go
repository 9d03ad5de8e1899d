// SPDX-License-Identifier: GPL-3.0-or-later

// Command smoke is the reference box's smoke test (HME-040). It needs two NVIDIA GPUs of unequal memory, and it fails, with
// what to do, where it cannot run: a skipped smoke test would look like a passed one.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "smoke: FAILED:", err)
		os.Exit(1)
	}
}

func run() error {
	lib := nvml.New()
	if ret := lib.Init(); ret != nvml.SUCCESS {
		return fmt.Errorf("NVML found no NVIDIA driver (%s). Run this on the reference box of .docs/HOME_PROFILE_TARGET.md, "+
			"with the driver loaded: `nvidia-smi` must list its GPUs", lib.ErrorString(ret))
	}
	defer func() { _ = lib.Shutdown() }()
	count, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return fmt.Errorf("NVML could not count the GPUs: %s", lib.ErrorString(ret))
	}
	var sizes []uint64
	for i := range count {
		device, ret := lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			return fmt.Errorf("NVML could not open GPU %d: %s", i, lib.ErrorString(ret))
		}
		name, ret := device.GetName()
		if ret != nvml.SUCCESS {
			return fmt.Errorf("NVML could not name GPU %d: %s", i, lib.ErrorString(ret))
		}
		memory, ret := device.GetMemoryInfo()
		if ret != nvml.SUCCESS {
			return fmt.Errorf("NVML could not read the memory of GPU %d: %s", i, lib.ErrorString(ret))
		}
		fmt.Printf("GPU %d: %s, %d MiB, %d MiB free\n", i, name, memory.Total>>20, memory.Free>>20)
		sizes = append(sizes, memory.Total)
	}
	if len(sizes) < 2 || sizes[0] == sizes[1] {
		return errors.New("the reference box has two GPUs of unequal memory (24 GB and 12 GB); this machine has not")
	}
	return errors.New("the GPUs are there, but mixed-GPU placement (stage 9) is not built yet: see TODO.md")
}
