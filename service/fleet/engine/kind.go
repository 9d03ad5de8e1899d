// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/task"
)

// Kind is one kind of engine. It says how engines of the kind are reached and, if we start their workers ourselves, how that is done. Pools
// know kinds, and never a particular engine.
type Kind struct {
	Name string // one of task.EngineKinds
	// New makes an Engine for an endpoint. It sends nothing. If the Engine is a Closer, whoever made it closes it at the end.
	New func(Endpoint) Engine
	// Features are what such a worker can have of what only some engines have. It tells itself what it really has, once it is there. The zero
	// Worker is one that others run.
	Features func(Worker) []task.Feature
	// Own reports whether a request to such an engine, by its method and clean path, does what is ours alone, so that nobody else may send it: it
	// changes the model, its adapters or the KV, about which receipts and plans would then be wrong, or has the engine reach other machines.
	Own func(method, path string) bool
	// Start is how our own workers are started. Nil: others run the engines of this kind, and a pool has their URLs.
	Start *Start
}

// Endpoint is where one replica's engine is reached.
type Endpoint struct {
	URL     string           // its base, such as http://127.0.0.1:9700
	Key     string           // that it asks for; empty: none
	Model   string           // the name by which it knows the model, where it serves models by name
	ModelID string           // the name by which clients know the model
	Health  string           // the path that tells whether it is well, where the kind does not know it
	Network *httpsse.Network // nil: the client's own
	// Piece is in how many tokens at once the worker computes a prompt, where a job may reuse whole pieces and get the bytes of a cold
	// start; 0: nobody has shown that it may (LO-206).
	Piece int
}

// Start is how workers of a kind are started on this machine.
type Start struct {
	Program string // what the kind's own program is called
	Install string // what to do if that program is missing, as the end of a sentence
	Repair  string // what to do if a worker's program or libraries are damaged, in the same form
	KeyEnv  string // the environment variable that tells a worker which key to ask for
	// Check refuses a worker that the kind cannot be.
	Check func(Worker) error
	// Libraries says what the folder of the built-in worker's libraries lacks, and what to do; empty: nothing.
	Libraries func(dir string, gpu bool) (missing string, err error)
	// Command is what a worker is told.
	Command func(Worker) Command
	// ToldCtx reports whether the operator's own arguments name a context.
	ToldCtx func(args []string) bool
	// Size reads from the model's file what the memory of its workers depends on. If it fails, the Sizer that it returns guesses from
	// the size of the file.
	Size func(w Worker, fileBytes int64) (Sizer, error)
	// Files are the files of the model at a path, in order. Nil: it is a GGUF file, or the first of several parts.
	Files func(path string) ([]string, error)
	// Even says that a model is split evenly over the cards of a mask, so that a pool has no shares.
	Even bool
	// Env are further variables of a worker's environment, each NAME=VALUE. None is a secret.
	Env []string
	// Deaths are the texts by which a worker's last words tell what it died of.
	Deaths Deaths
	// Progress reads from a line of a worker's output how far it is with its load; empty: the line does not tell. Nil: none does.
	Progress func(line string) string
	// Shares reads from what a worker has said while it loaded what it takes of each of its hosts. Nil: its kind has none.
	Shares func(lines []string) []Share
}

// Worker is a worker that is about to be started, as its kind has to know it.
type Worker struct {
	BuiltIn  bool // it is this program again; else it is the kind's own program
	Inside   bool // it runs in a container, whose entry point is that program
	Workload task.Workload
	Model    string // the model's file or folder, by the path at which the worker finds it
	Name     string // by which clients know the model
	Libs     string // folder of the built-in worker's libraries
	Cards    int    // that it gets; 0: it computes on the CPU
	Split    []float64
	Hosts    []string // that compute a part of the model, as HOST:PORT (LO-470)
	Slots    int
	Threads  int
	Ctx      int      // that a slot's context is configured to have; 0: the model's own, or as much as fits
	Prefixes Prefixes // what is wished of strict tasks
	Memory   int64    // that it is configured to take, in bytes; 0: nobody has said
	Pace     float64  // of the built-in worker: at most this many tokens a second; 0: no bound
	Args     []string // the operator's own
	// Host and Port are where the program has to listen. The built-in worker chooses a port itself, and says which.
	Host, Port string
	Scratch    string // a folder that the worker may write to
	Saves      string // the folder to which it saves slots; empty: it saves none
}

// Prefixes says whether strict tasks may take the beginning of their prompt from KV, and how (LO-441).
type Prefixes struct {
	Reuse Reusing
	Piece int // in how many tokens at once prompts are computed; 0: the kind chooses
}

// Reusing is when strict tasks may reuse KV.
type Reusing string

// The times. The zero Reusing is never.
const (
	ReusingWhereProven Reusing = "auto" // where the determinism suite shows that it changes no byte
	ReusingAlways      Reusing = "on"   // also where it does not, such as on GPUs
)

// MaskHere stands in a Command's arguments for the worker's cards, as indices with commas in between; without cards, for nothing.
const MaskHere = "\x00mask\x00"

// Command is what a worker is told, and what of it can change bytes.
type Command struct {
	Args  []string
	Sized func(Room) []string // further arguments, once it is decided what the worker gets
	Batch int                 // for the fingerprint; 0: the engine's own
	Piece int                 // as in Endpoint
	Flags []string            // for the fingerprint: whatever else can change bytes, in order
}

// Room is what a worker gets, as it is decided just before it starts.
type Room struct {
	Ctx int // that a slot's context holds; 0: the engine's own default
	// Share is the part of the whole memory of each of its cards that it may take; 0: nobody counts their memory.
	Share float64
}

// Share is what a worker takes of another host, as it says itself.
type Share struct {
	Host             string
	FreeBytes, Bytes int64 // what was free when it loaded, and what it took; 0: it did not say
}

// Sizer estimates the memory of workers of one model.
type Sizer interface {
	// At estimates a worker whose slots have such a context; 0: the engine's own default. With an error it guesses.
	At(ctx int) (Estimate, error)
	// OwnCtx is the model's own context, in tokens; 0: not known.
	OwnCtx() int
}

// Estimate is the memory that a worker is expected to take, in bytes.
type Estimate struct {
	Cards []int64 // on each of its cards, in the order of the split; empty on the CPU
	Host  int64
}
