// SPDX-License-Identifier: GPL-3.0-or-later

// Package setup looks at a machine and writes a configuration for it, or turns that of another program into one (LO-930, LO-931). What is seen
// is plain data, what is proposed follows from it alone, and each pool says why it is as it is.
package setup

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/task"
)

// Seen is what a configuration depends on. Sizes are in bytes.
type Seen struct {
	Cards   []Card
	NoCards string // why there are none; empty: nobody has looked
	Memory  int64  // of the host
	Engines []Engine
	Models  []Model
	Looked  []string // the folders in which models were looked for
	Left    []Left   // what was found and cannot be used
}

// Card is one GPU.
type Card struct {
	Index       int
	Name        string
	Total, Free int64
}

// Engine is a program of this machine that runs models, or the containers in which they run.
type Engine struct {
	Name    string // llama-server, vllm, ollama, docker or podman
	Path    string
	Devices int // GPUs that it can compute on, for a llama-server; -1: it does not say
}

// Model is a model of this machine.
type Model struct {
	Name    string // by which requests will ask for it
	Path    string // the file, its first part, or the folder
	From    string // where it was found, like Ollama
	Hub     bool   // it is a folder in the form of the Hugging Face hub
	Bundled bool   // it is the small one that comes with this program: it is for the built-in worker, on the CPU
	Aliases []string

	Workload     task.Workload
	Architecture string
	Quantisation string
	Bytes        int64 // of its files
	Ctx          int   // its own context, in tokens; 0: not known
	Template     bool  // it has a template for chats in its file
	OnCard       Need
	OnHost       Need

	Args   []string               // of llama-server, for its projector and adapters
	Asked  int                    // the context that its user has chosen; 0: none
	Sample *config.SamplerProfile // the sampling that its user has chosen
	Params config.Params          // what else
	Whys   []string               // further sentences about it
}

// Need is the memory that a worker of a model takes, as far as it is a line: a part that it always takes, and one for each token of its context.
type Need struct{ Fixed, Token int64 }

// At is the need of a context.
func (n Need) At(ctx int) int64 { return n.Fixed + n.Token*int64(ctx) }

// Left is something that could not be taken along, and why.
type Left struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Pool is a proposed pool, with the reasons for it.
type Pool struct {
	config.Pool
	Whys []string
}

// Proposal is a proposed configuration.
type Proposal struct {
	Head     []string // sentences about all of it
	Aliases  map[string]string
	Profiles map[string]config.SamplerProfile
	Pools    []Pool
	Left     []Left
}

// ErrNothing says that there is no model for a pool.
var ErrNothing = errors.New("there is no model to serve")

// ErrExists says that a file is in the way.
var ErrExists = errors.New("the file is there already")

// Check holds a configuration's text to what `orchestratord check` asks for, on this machine. Path is where it will be.
func Check(path string, text []byte, env func(string) string) error {
	c, err := config.Parse(path, text, env)
	if err != nil {
		return err
	}
	return c.Check()
}

const fileMode = 0o644 // it holds no secret

// Write checks a configuration and writes it to path. A file that is there stays as it is, unless over is set; then an ErrExists is returned.
func Write(path string, text []byte, over bool, env func(string) string) error {
	if err := Check(path, text, env); err != nil {
		return fmt.Errorf("what would be written does not pass the check, so nothing is written: %w", err)
	}
	if over {
		return atomicfile.Write(path, text, fileMode)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s: %w", path, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// slug makes a pool's id of a name.
func slug(name string) string {
	id := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
	const most = 60 // room for a number behind it, of the 63 that an id may have
	id = strings.Trim(id[:min(len(id), most)], "-._")
	if id == "" {
		return "model"
	}
	return id
}

// modelID makes a name by which requests ask for a model.
func modelID(name string) string {
	id := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("._:/-", r):
			return r
		}
		return '-'
	}, name)
	const most = 120
	if id = strings.Trim(id[:min(len(id), most)], "-._:/"); id == "" {
		return "model"
	}
	return id
}

// unique gives a name that is taken a number.
func unique(name string, taken map[string]bool) string {
	one := name
	for n := 2; taken[one]; n++ {
		one = fmt.Sprintf("%s-%d", name, n)
	}
	taken[one] = true
	return one
}

// size says bytes to a person.
func size(bytes int64) string {
	const kibi = 1 << 10
	value, unit := float64(bytes), ""
	for _, unit = range []string{"bytes", "KiB", "MiB", "GiB", "TiB"} {
		if value < kibi || unit == "TiB" {
			break
		}
		value /= kibi
	}
	if unit == "bytes" {
		return fmt.Sprintf("%d bytes", bytes)
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}
