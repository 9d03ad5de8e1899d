// SPDX-License-Identifier: GPL-3.0-or-later

package nvmlstub

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/dl"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
)

// Env is the environment variable that names the state's file.
const Env = "LLORCH_NVML_STUB"

// EnvBuilt names a stand-in that was built elsewhere, for machines without a C compiler.
const EnvBuilt = "LLORCH_NVML_STUB_BUILT"

// library is the file name of NVML.
const library = "libnvidia-ml.so.1"

//go:embed lib/nvml.c
var source string

// Build compiles the stand-in into the existing folder dir with the machine's C compiler, or takes the one that EnvBuilt names, and returns the library's path. A program with dir in
// LD_LIBRARY_PATH takes it for NVML.
func Build(dir string) (lib string, err error) {
	lib = filepath.Join(dir, library)
	made := lib + ".new"
	if built := os.Getenv(EnvBuilt); built != "" {
		content, err := os.ReadFile(built)
		if err == nil {
			err = atomicfile.Write(lib, content, 0o700)
		}
		if err != nil {
			return "", fmt.Errorf("take the stand-in for NVML that was built elsewhere: %w", err)
		}
		return lib, nil
	}
	cmd := exec.Command("cc", "-std=gnu11", "-O1", "-Wall", "-fPIC", "-shared", "-pthread", "-Wl,-soname,"+library, "-o", made, "-x", "c", "-")
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the stand-in for NVML: %w: %s", err, out)
	}
	if err := os.Rename(made, lib); err != nil {
		return "", fmt.Errorf("put the stand-in for NVML in place: %w", err)
	}
	return lib, nil
}

// Hide has this process, and programs that it starts, find no card and no driver, whatever the machine has: it puts the stand-in into the existing folder
// dir, without a state, and loads it. A library that is loaded is what everybody gets who opens one of its name.
func Hide(dir string) error {
	lib, err := Build(dir)
	if err != nil {
		return err
	}
	for name, value := range Hidden(dir) {
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("hide the machine's cards: %w", err)
		}
	}
	if err := dl.New(lib, dl.RTLD_NOW|dl.RTLD_GLOBAL|dl.RTLD_NODELETE).Open(); err != nil {
		return fmt.Errorf("load the stand-in for NVML: %w", err)
	}
	return nil
}

// Hidden is the environment of a program that finds no card, where Build has put the stand-in into dir.
func Hidden(dir string) map[string]string {
	return map[string]string{"LD_LIBRARY_PATH": dir, Env: filepath.Join(dir, "none")}
}

// State is what the stand-in answers from.
type State struct {
	Driver string // empty: the driver is gone
	CUDA   int    // 12080 is 12.8
	Cards  []Card // counted from 0
	events []string
}

// Card is one GPU. Bytes.
type Card struct {
	UUID      string
	Name      string
	Total     int64
	Used      int64 // by no named process
	Util      int   // per cent
	Temp      int   // °C
	Power     int   // W
	Energy    int64 // mJ since the driver was loaded; 0: the card has no counter
	Flow      int64 // mJ by which that grows each second
	ECC       *int64
	Lost      bool // it fell off the bus
	Processes []Process
}

// Process holds memory of a card, whether or not it runs.
type Process struct {
	PID  int
	Used int64
}

// Reference returns the cards of the machine that the project is made for: 24 GB and 12 GB.
func Reference() *State {
	return &State{Driver: "570.86.10", CUDA: 12080, Cards: []Card{
		{UUID: "GPU-3090aaaa-0000-4000-8000-000000000000", Name: "NVIDIA GeForce RTX 3090", Total: 24 << 30, Used: 300 << 20, Temp: 41, Power: 32},
		{UUID: "GPU-3060bbbb-0000-4000-8000-000000000001", Name: "NVIDIA GeForce RTX 3060", Total: 12 << 30, Used: 200 << 20, Temp: 38, Power: 17},
	}}
}

// XID adds an event of a card. The next Write makes it happen.
func (s *State) XID(card int, code uint64) {
	s.events = append(s.events, fmt.Sprintf("xid %d %d seq=%d", card, code, len(s.events)+1))
}

// UncorrectableECC adds the event of a memory error that could not be corrected.
func (s *State) UncorrectableECC(card int) {
	s.events = append(s.events, fmt.Sprintf("ecc %d seq=%d", card, len(s.events)+1))
}

// Write replaces the state at path. No reader sees half of it.
func (s *State) Write(path string) error {
	var b strings.Builder
	if s.Driver == "" {
		b.WriteString("lost\n")
	}
	fmt.Fprintf(&b, "driver %s\ncuda %d\n", s.Driver, s.CUDA)
	for i, c := range s.Cards {
		fmt.Fprintf(&b, "card %d uuid=%s name=\"%s\" total=%d used=%d util=%d temp=%d power=%d", i, c.UUID, c.Name, c.Total, c.Used, c.Util, c.Temp, c.Power)
		if c.Energy > 0 {
			fmt.Fprintf(&b, " energy=%d flow=%d", c.Energy, c.Flow)
		}
		if c.ECC != nil {
			fmt.Fprintf(&b, " ecc=%d", *c.ECC)
		}
		b.WriteByte('\n')
		if c.Lost {
			fmt.Fprintf(&b, "lost %d\n", i)
		}
		for _, p := range c.Processes {
			b.WriteString(claim(i, p))
		}
	}
	for _, e := range s.events {
		b.WriteString(e + "\n")
	}
	return put(path, b.String())
}

// Claim says that a running program holds memory of cards, by their index, until it ends or claims again. An empty claim ends the last one.
func Claim(state string, pid int, used map[int]int64) error {
	dir := state + ".d"
	path := filepath.Join(dir, strconv.Itoa(pid))
	if len(used) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("take back a claim: %w", err)
		}
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make room for claims: %w", err)
	}
	var b strings.Builder
	for card, bytes := range used {
		b.WriteString(claim(card, Process{PID: pid, Used: bytes}))
	}
	return put(path, b.String())
}

func claim(card int, p Process) string {
	return fmt.Sprintf("process %d pid=%d used=%d\n", card, p.PID, p.Used)
}

// put replaces a file that the stand-in may be reading. It takes no file whose name begins with a dot for a claim, so none that is
// still being written.
func put(path, text string) error {
	if err := atomicfile.Write(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the stand-in's state: %w", err)
	}
	return nil
}
