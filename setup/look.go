// SPDX-License-Identifier: GPL-3.0-or-later

package setup

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/task"
)

// The programs that are looked for in PATH.
const (
	llamaServer = "llama-server"
	vllmProgram = "vllm"
	ollama      = "ollama"
)

var programs = []string{llamaServer, vllmProgram, ollama, "docker", "podman"}

// askWithin is how long a llama-server has to say which devices it knows.
const askWithin = 10 * time.Second

// Options say where to look.
type Options struct {
	Env     func(string) string
	NVML    string   // the library's path; empty: where the loader finds it
	Meminfo string   // empty: the kernel's
	Folders []Folder // with models, beside the usual ones
	Bundled []string // where the bundled model may be
}

// Look looks at this machine. What cannot be seen is left out, and said in Seen.
func Look(ctx context.Context, o Options) Seen {
	s := Seen{Memory: memory(o.Meminfo), Engines: engines(ctx, o.Env("PATH"))}
	s.Cards, s.NoCards = cards(ctx, o.NVML)
	found := newFinder()
	for _, folder := range slices.Concat(o.Folders, usual(o.Env)) {
		s.Looked = append(s.Looked, folder.path)
		found.folder(folder)
	}
	for _, store := range stores(o.Env) {
		s.Looked = append(s.Looked, store)
		found.store(store)
	}
	if !slices.ContainsFunc(found.models, func(m Model) bool { return m.Workload == task.Completion }) {
		found.bundled(o.Bundled)
	}
	s.Models, s.Left = found.models, found.left
	return s
}

// cards asks the driver once.
func cards(ctx context.Context, library string) (cards []Card, why string) {
	monitor := gpu.NewMonitor(gpu.Options{LibraryPath: library, Interval: time.Hour})
	_ = monitor.Start(ctx) // it says all in its snapshot
	defer func() { _ = monitor.Stop(context.WithoutCancel(ctx)) }()
	seen := monitor.Snapshot()
	for _, c := range seen.Cards {
		if c.Healthy {
			cards = append(cards, Card{c.Index, c.Short(), c.Total, c.Free})
		}
	}
	return cards, strings.TrimRight(seen.Err, ".")
}

// memory is what this machine has, or 0 if the kernel does not tell.
func memory(file string) int64 {
	if file == "" {
		file = "/proc/meminfo"
	}
	f, err := os.Open(file)
	if err != nil {
		return 0
	}
	defer f.Close() // it was only read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 3 && fields[0] == "MemTotal:" {
			kibi, _ := strconv.ParseInt(fields[1], 10, 50)
			return kibi << 10
		}
	}
	return 0
}

// engines looks for programs in the folders of PATH.
func engines(ctx context.Context, path string) (found []Engine) {
	for _, name := range programs {
		for _, dir := range filepath.SplitList(path) {
			file := filepath.Join(dir, name)
			if at, err := os.Stat(file); err != nil || !filepath.IsAbs(file) || !at.Mode().IsRegular() || at.Mode()&0o111 == 0 {
				continue
			}
			e := Engine{Name: name, Path: file, Devices: -1}
			if name == llamaServer {
				e.Devices = devices(ctx, file)
			}
			found = append(found, e)
			break
		}
	}
	return found
}

// devices asks a llama-server how many GPUs it can compute on; -1: it does not say.
func devices(ctx context.Context, server string) int {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, server, "--list-devices")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	_, list, told := strings.Cut(string(out), "Available devices:")
	if err != nil || !told {
		return -1
	}
	n := 0
	for line := range strings.Lines(list) {
		name, _, is := strings.Cut(strings.TrimSpace(line), ":")
		if is && !strings.ContainsAny(name, " \t") && !strings.HasPrefix(name, "CPU") && !strings.HasPrefix(name, "BLAS") {
			n++
		}
	}
	return n
}
