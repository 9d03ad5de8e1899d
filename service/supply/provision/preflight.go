// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// packageOf says which packages of Debian and of Arch have the tools.
var packageOf = map[string]struct{ debian, arch string }{
	"npm":    {"npm", "npm"},
	"git":    {"git", "git"},
	"cmake":  {"cmake", "cmake"},
	"ninja":  {"ninja-build", "ninja"},
	"c++":    {"g++", "gcc"},
	"nvcc":   {"nvidia-cuda-toolkit", "cuda"},
	"docker": {"docker.io", "docker"},
	"podman": {"podman", "podman"},
	"sudo":   {"sudo", "sudo"},
	// For Debian, only NVIDIA's own repository has it.
	"nvidia-ctk": {"nvidia-container-toolkit", "nvidia-container-toolkit"},
}

// Preflight names the tools that the plan needs and this machine lacks, with the commands that install them on Debian and on Arch. It runs
// nothing.
func Preflight(p Plan) error {
	return preflight(p.Tools...)
}

// Lacks says in one line what keeps the plan from being done on this machine: tools, or the program itself where the plan prepares none. It is
// nil where nothing is missing.
func Lacks(p Plan) error {
	if err := Preflight(p); err != nil {
		return err
	}
	if p.Mode != Binary || p.Folder != "" {
		return nil // the steps make the program
	}
	if _, err := programAt(p.Program); err != nil {
		return fmt.Errorf("missing on this machine: the program; %w: correct `provisioning.path`, or take another mode (source builds a llama-server)", err)
	}
	return nil
}

func preflight(tools ...string) error {
	var absent []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil && !slices.Contains(absent, tool) {
			absent = append(absent, tool)
		}
	}
	return missing(absent)
}

func missing(tools []string) error {
	if len(tools) == 0 {
		return nil
	}
	var debian, arch []string
	for _, tool := range tools {
		known, ok := packageOf[tool]
		if !ok {
			known.debian, known.arch = tool, tool
		}
		debian, arch = append(debian, known.debian), append(arch, known.arch)
	}
	return errors.New("missing on this machine: " + strings.Join(tools, ", ") +
		". Debian: apt-get install -y " + strings.Join(debian, " ") + "; Arch: pacman -S --needed " + strings.Join(arch, " "))
}
