// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"os"
	"slices"
	"strings"
)

// ContainerEnv is all that the command of a container inherits: what it needs to find its daemon, or its rootless state.
func ContainerEnv() (env []string) {
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if slices.Contains([]string{"PATH", "HOME", "LANG", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "TMPDIR"}, name) ||
			strings.HasPrefix(name, "DOCKER_") || strings.HasPrefix(name, "CONTAINER_") {
			env = append(env, pair)
		}
	}
	return env
}

// WorkerEnv is all that a worker inherits. Mask names its cards: "cpu" for none, a list of indices, or "auto" for any.
func WorkerEnv(libs, mask string) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "LANG"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	if own := os.Getenv("LD_LIBRARY_PATH"); own != "" && libs != "" {
		libs += ":" + own
	} else if own != "" {
		libs = own
	}
	if libs != "" {
		env = append(env, "LD_LIBRARY_PATH="+libs)
	}
	switch mask {
	case "auto":
	case "cpu":
		env = append(env, "CUDA_VISIBLE_DEVICES=")
	default: // NVML counts cards in the order of the bus; CUDA does so only if it is told
		env = append(env, "CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES="+mask)
	}
	return env
}
