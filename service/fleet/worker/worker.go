// SPDX-License-Identifier: GPL-3.0-or-later

// Package worker is the built-in engine. It runs llama.cpp in this process, through its shared libraries and without cgo, and serves the
// part of llama-server's native HTTP API that the llama.cpp adapter uses. It has one slot. A job uses nothing that another left,
// unless it asks for that with `cache_prompt`, or as much of it as changes no byte with `cache_exact`. So a prompt, its parameters and its seed
// always give the same bytes.
//
// It runs under the race detector: `go test -race`, which turns checkptr on, passes with it (.docs/engine.md).
package worker

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/service/port"
	"github.com/llama-orch/llama-orch/service/task"
)

// Options of one worker.
type Options struct {
	Model    string        // GGUF file
	Libs     string        // folder with libllama.so and libggml.so
	Ctx      int           // context in tokens; 0: what the model was trained with
	Threads  int           // 0: one, which is fastest for small models
	Ubatch   int           // tokens of a prompt that are decoded at once; 0: 512. Embeddings decode each text at once
	Pace     float64       // at most this many tokens a second; 0: as fast as it can
	Workload task.Workload // Completion (the default) or Embedding
	APIKey   string        // asked of every request but /health; empty: none
	Verbose  bool          // llama.cpp's informational lines too, not only its warnings and errors
	Address  string        // to listen on; empty: a free port of the loopback

	Stdin  io.Reader // at its end the worker stops; nil: never
	Stdout io.Writer // gets the line with the address
	Stderr io.Writer // gets llama.cpp's lines
}

// MaxUbatch is the largest Options.Ubatch.
const MaxUbatch = 1 << 16

// The exit codes of Main.
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitUsage   = 2
	ExitModel   = 3 // the model is missing or broken, or doesn't fit
	ExitLibrary = 4 // the libraries are missing or broken
)

// Error says why a worker could not run.
type Error struct {
	Exit    int    // exit code
	Message string // what is wrong and what to do
	Err     error
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Err }

func fail(exit int, err error, format string, args ...any) *Error {
	return &Error{Exit: exit, Message: fmt.Sprintf(format, args...), Err: err}
}

// ends are the signals that ask a program to end.
var ends = []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP}

// Main runs a worker until its standard input ends, and returns the exit code for the process. Signals that ask it to end are ignored: a
// service manager sends them to the daemon's workers too, and it is the daemon that decides when they end (LO-837). Without a standard
// input they end the worker. If the worker cannot run, one line of JSON on o.Stderr says why.
func Main(ctx context.Context, o Options) int {
	renders := os.Getenv(envRenders) != ""
	if renders || o.Stdin != nil {
		signal.Ignore(ends...)
	} else {
		var stop func()
		ctx, stop = signal.NotifyContext(ctx, ends...)
		defer stop()
	}
	if renders {
		return serveTemplates(os.Stdin, os.Stdout)
	}
	err := Run(ctx, o)
	if err == nil {
		return ExitOK
	}
	exit := ExitFailure
	if e, ok := errors.AsType[*Error](err); ok {
		exit = e.Exit
	}
	line, _ := json.Marshal(map[string]any{"level": "error", "msg": "worker failed", "error": err.Error(), "exit_code": exit})
	fmt.Fprintf(o.Stderr, "%s\n", line)
	return exit
}

// worker is a running worker.
type worker struct {
	o       Options
	model   atomic.Pointer[model] // nil while loading
	jobs    chan *job             // unbuffered: senders wait in arrival order
	stopped <-chan struct{}       // closed when the worker stops
	busy    atomic.Bool           // a job is in the slot
	waiting atomic.Int64          // jobs that wait for the slot
	job     atomic.Int64          // number of the last job in the slot
	kvBytes atomic.Int64          // what the context takes since that job
	stats   stats

	templates *templates
}

// Run serves until ctx or o.Stdin ends, and then returns nil. A process may call it only once, because llama.cpp is never unloaded.
func Run(ctx context.Context, o Options) error {
	if o.Workload == "" {
		o.Workload = task.Completion
	}
	if o.Threads == 0 {
		o.Threads = 1
	}
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	if err := o.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Address)
	if err != nil {
		return fail(ExitFailure, err, "cannot listen on %s", o.Address)
	}
	w := &worker{o: o, jobs: make(chan *job), stopped: ctx.Done(), templates: newTemplates()}
	server := &http.Server{Handler: w.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, ConnContext: port.Context}
	bound := port.Bound(listener, port.Options{})
	served := make(chan error, 1)
	go func() { served <- server.Serve(bound) }()
	if _, err := fmt.Fprintf(o.Stdout, "{\"listening\":%q}\n", listener.Addr()); err != nil {
		cancel()
	}
	if o.Stdin != nil {
		// Nobody joins it, because a read of standard input cannot be interrupted. It ends with the process, or when the pipe is closed.
		go func() {
			_, _ = io.Copy(io.Discard, o.Stdin)
			cancel()
		}()
	}
	decoded := make(chan error, 1)
	go func() { decoded <- w.loop(ctx) }()

	select {
	case err = <-decoded: // it could not load, or ctx ended
	case err = <-served:
		err = fail(ExitFailure, err, "the HTTP server stopped")
	case <-ctx.Done():
		_ = server.Close() // ends the requests, and with them the job in the slot
		// A decode that runs ends after its batch. The parent should not wait for a large one.
		select {
		case err = <-decoded:
		case <-time.After(time.Second):
		}
	}
	cancel()
	_ = server.Close()
	bound.Drop()
	return err
}

func (o Options) check() error {
	switch {
	case o.Workload != task.Completion && o.Workload != task.Embedding:
		return fail(ExitUsage, nil, "the built-in worker has no workload %q: use completion or embedding", o.Workload)
	case o.Ctx < 0 || o.Ctx > 1<<30:
		return fail(ExitUsage, nil, "the context must be between 0 and %d tokens", 1<<30)
	case o.Threads < 0 || o.Threads > 512:
		return fail(ExitUsage, nil, "threads must be between 0 and 512")
	case o.Ubatch < 0 || o.Ubatch > MaxUbatch:
		return fail(ExitUsage, nil, "ubatch must be between 0 and %d tokens", MaxUbatch)
	case o.Pace < 0:
		return fail(ExitUsage, nil, "the pace must not be negative")
	}
	if err := checkModelFile(o.Model); err != nil {
		return err
	}
	for _, name := range []string{"libllama.so", "libggml.so", "libggml-base.so"} {
		if _, err := os.Stat(o.Libs + "/" + name); err != nil {
			return fail(ExitLibrary, err, "the folder of the engine libraries lacks %s: run `orchestratord libs`", name)
		}
	}
	return nil
}

// checkModelFile tells apart common mistakes for which llama.cpp has only one message.
func checkModelFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fail(ExitModel, err, "the model cannot be opened: check the path")
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil || string(magic) != "GGUF" {
		return fail(ExitModel, nil, "%s is not a GGUF file: download or convert the model again", path)
	}
	return nil
}

// job is a turn in the slot.
type job struct {
	run  func(m *model)
	done chan struct{}
}

// loop owns the model. It loads it, and runs one job after another, all on one thread, because some back ends keep state for each thread.
func (w *worker) loop(ctx context.Context) error {
	runtime.LockOSThread()
	// A goroutine that ends while locked takes its thread with it, and the libraries' thread-local destructors crash then.
	defer runtime.UnlockOSThread()
	m, err := load(w.o)
	if err != nil {
		return err
	}
	w.model.Store(m)
	for {
		select {
		case <-ctx.Done():
			return nil
		case j := <-w.jobs:
			w.busy.Store(true)
			w.job.Add(1)
			j.run(m)
			w.kvBytes.Store(m.kvBytes())
			w.busy.Store(false)
			close(j.done)
		}
	}
}

// turn runs fn in the slot, once the jobs before it are done. If it returns an error, fn was not run.
func (w *worker) turn(ctx context.Context, fn func(m *model)) error {
	j := &job{run: fn, done: make(chan struct{})}
	w.waiting.Add(1)
	select {
	case w.jobs <- j:
		w.waiting.Add(-1)
	case <-ctx.Done():
		w.waiting.Add(-1)
		return context.Cause(ctx)
	case <-w.stopped:
		w.waiting.Add(-1)
		return errors.New("the worker is stopping")
	}
	<-j.done
	return nil
}

func (w *worker) authorised(r *http.Request) bool {
	if w.o.APIKey == "" {
		return true
	}
	key, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return subtle.ConstantTimeCompare([]byte(key), []byte(w.o.APIKey)) == 1
}
