// SPDX-License-Identifier: GPL-3.0-or-later

// Package command is the kind of engines of which nothing is known but how to start them and where to ask whether they are well (LO-466): servers for
// speech, for images, for whatever else takes requests over HTTP. Their requests are passed to them as they are.
package command

import (
	"context"
	"errors"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/task"
)

// Name is the kind's name in configs, labels and errors.
const Name = task.Command

// Kind is any server that a command starts, or that others run.
func Kind() engine.Kind {
	return engine.Kind{
		Name:     Name,
		New:      func(at engine.Endpoint) engine.Engine { return New(at) },
		Features: func(engine.Worker) []task.Feature { return nil },
		Own:      func(string, string) bool { return false },
		Start: &engine.Start{
			Program: "program of the pool's command", Install: "install it, and correct `provisioning.path`",
			Repair: "install what its last words name", Check: check, Command: command,
			Libraries: func(string, bool) (string, error) { return "", nil },
			ToldCtx:   func([]string) bool { return true }, // it has no context that could be fitted
			Size:      func(w engine.Worker, bytes int64) (engine.Sizer, error) { return sizer{w, bytes}, nil },
			Deaths:    deaths,
		},
	}
}

func check(w engine.Worker) error {
	if w.BuiltIn {
		return errors.New("an engine of kind command has a program of its own: use provisioning mode `binary`, `container` or `external`")
	}
	return nil
}

// The placeholders in a command's arguments. Which cards the worker gets is known last, so the pool fills in the mask.
const (
	portHere  = "{port}"
	hostHere  = "{host}"
	modelHere = "{model}"
	maskHere  = "{mask}"
)

func command(w engine.Worker) engine.Command {
	fill := strings.NewReplacer(portHere, w.Port, hostHere, w.Host, modelHere, w.Model, maskHere, engine.MaskHere)
	args := make([]string, len(w.Args))
	for i, arg := range w.Args {
		args[i] = fill.Replace(arg)
	}
	return engine.Command{Args: args, Sized: func(engine.Room) []string { return nil }, Flags: w.Args}
}

const (
	mebi = 1 << 20
	// guessFixed and guessShare make a guess of the size of a model's file. The first load shows what it really takes.
	guessFixed = 128 * mebi
	guessShare = 1.2
)

// sizer knows what the configuration says, or guesses.
type sizer struct {
	w     engine.Worker
	bytes int64 // of the model's file
}

// OwnCtx implements engine.Sizer.
func (sizer) OwnCtx() int { return 0 }

// At implements engine.Sizer.
func (s sizer) At(int) (engine.Estimate, error) {
	bytes := s.w.Memory
	if bytes == 0 {
		bytes = int64(float64(s.bytes)*guessShare) + guessFixed
	}
	if s.w.Cards == 0 {
		return engine.Estimate{Host: bytes}, nil
	}
	var e engine.Estimate
	for _, part := range vram.Parts(s.w.Split, s.w.Cards) {
		e.Cards = append(e.Cards, int64(float64(bytes)*part))
	}
	return e, nil
}

// deaths are the texts of the dynamic linker, of CUDA, and of the C, C++, Python and Go libraries.
var deaths = engine.Deaths{Signs: []engine.Sign{
	{Cause: engine.MissingLibrary, Texts: []string{
		"error while loading shared libraries", "cannot open shared object file", "undefined symbol:", "symbol lookup error", "modulenotfounderror",
	}},
	{Cause: engine.DriverReset, Texts: []string{"cuda error: an illegal memory access", "cuda error: unspecified launch failure", "gpu is lost", "fallen off the bus"}},
	{Cause: engine.OutOfVRAM, Texts: []string{"cudamalloc failed", "cuda error: out of memory", "cuda out of memory", "cublas_status_alloc_failed", "cuda_error_out_of_memory"}},
	{Cause: engine.OutOfHost, Texts: []string{"std::bad_alloc", "cannot allocate memory", "runtime: out of memory", "\nmemoryerror"}},
	{Cause: engine.OutOfMemory, Texts: []string{"out of memory", "failed to allocate", "unable to allocate"}},
	{Cause: engine.PortTaken, Texts: []string{"address already in use", "couldn't bind", "could not bind"}},
}}

// Engine is one replica.
type Engine struct {
	c      *httpsse.Client
	health string // the path to ask
}

// New makes an adapter. Close it to drop its idle connections.
func New(at engine.Endpoint) *Engine {
	c := httpsse.New(httpsse.Options{BaseURL: at.URL, APIKey: at.Key, Engine: Name, Product: "server of the pool's command", Network: at.Network})
	return &Engine{c: c, health: at.Health}
}

// Close drops idle connections.
func (e *Engine) Close() { e.c.Close() }

// Health implements engine.Engine.
func (e *Engine) Health(ctx context.Context) error { return e.c.Alive(ctx, e.health) }

// Props implements engine.Engine. The server says nothing of itself.
func (e *Engine) Props(context.Context) (engine.Props, error) { return engine.Props{}, nil }

// Generate implements engine.Engine.
func (e *Engine) Generate(context.Context, engine.Job, func(task.Piece) error) (engine.Result, error) {
	return engine.Result{}, task.Errorf(task.InvalidParams, "an engine of kind %s takes no tasks: send its pool's requests to the paths under `routes`", Name)
}
