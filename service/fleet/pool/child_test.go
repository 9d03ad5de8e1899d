// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/hubengine"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/fleet/engine/tgi"
	"github.com/llama-orch/llama-orch/service/fleet/engine/vllm"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
)

// asServer is the last argument of a test binary that plays llama-server.
const asServer = "--as-llama-server"

// asHub is an argument of a test binary that plays an engine which takes models of the hub.
const asHub = "--as-hub-engine"

// child is what a worker process of the tests does. It is the content of its "model file", because a worker inherits
// nothing else that a test could choose.
type child struct {
	Crash       string            `json:"crash,omitempty"` // says this on stderr and exits 7, or Code, before it listens
	Code        int               `json:"code,omitempty"`
	Signal      syscall.Signal    `json:"signal,omitempty"`       // dies of it where it would listen
	Trace       string            `json:"trace,omitempty"`        // panics with it, with many goroutines in its trace
	Silent      bool              `json:"silent,omitempty"`       // never listens
	IgnoreStdin bool              `json:"ignore_stdin,omitempty"` // lives on at its end
	IgnoreTerm  bool              `json:"ignore_term,omitempty"`  // ignores SIGTERM, and its stdin's end
	Script      fakeengine.Script `json:"script"`
	Health      fakeengine.Health `json:"health"`
}

// TestMain is also the worker, the llama-server and the daemon that the tests start: the test binary runs itself.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "worker" && argument("--libs") != "":
		os.Exit(runWorker())
	case len(os.Args) > 1 && os.Args[1] == "worker":
		os.Exit(runChild(argument("--model"), "127.0.0.1:0"))
	case slices.Contains(os.Args, asHub):
		os.Exit(hubengine.Main(context.Background(), os.Args[1:], os.Stderr))
	case len(os.Args) > 1 && os.Args[len(os.Args)-1] == asServer:
		os.Exit(runChild(argument("-m"), "127.0.0.1:"+argument("--port")))
	case len(os.Args) > 1 && os.Args[1] == "daemon":
		os.Exit(runDaemon(os.Args[2], os.Args[3]))
	}
	goleak.VerifyTestMain(m)
}

func argument(name string) string {
	if i := slices.Index(os.Args, name); i >= 0 && i+1 < len(os.Args) {
		return os.Args[i+1]
	}
	return ""
}

func runChild(model, address string) int {
	var c child
	data, err := os.ReadFile(model)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if c.Crash != "" {
		fmt.Fprintln(os.Stderr, c.Crash)
		return cmp.Or(c.Code, 7)
	}
	if c.Trace != "" {
		debug.SetTraceback("all")
		for range 40 {
			go func() { select {} }()
		}
		panic(c.Trace)
	}
	if c.Signal != 0 {
		fmt.Fprintln(os.Stderr, "/src/ggml.c:3412: GGML_ASSERT(n > 0) failed")
		for i := range 80 {
			fmt.Fprintln(os.Stderr, "frame", i)
		}
		signal.Reset(c.Signal)
		_ = syscall.Kill(os.Getpid(), c.Signal)
		select {}
	}
	if c.IgnoreTerm {
		signal.Ignore(syscall.SIGTERM)
	}
	if !c.Silent {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		e := fakeengine.New(fakeengine.Options{APIKey: os.Getenv("LLAMA_API_KEY"), Exit: os.Exit})
		e.SetScript(c.Script)
		e.SetHealth(c.Health)
		go func() { _ = (&http.Server{Handler: e}).Serve(listener) }()
		fmt.Println("environment:", os.Environ()) // on one pipe with what follows, so in this order
		fmt.Println("arguments:", os.Args[1:])
		fmt.Printf("{\"listening\":%q}\n", listener.Addr())
	}
	if c.IgnoreStdin || c.IgnoreTerm {
		select {}
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// runDaemon plays an orchestratord: it runs a pool of two workers, one of which ignores its stdin's end, says what
// their pids are once both are ready, and then waits to be killed.
func runDaemon(dir, exe string) int {
	changed := make(chan struct{}, 1)
	specs := []pool.Spec{
		{ID: "a", Engine: llamacpp.Name, Mode: pool.Builtin, ModelPath: dir + "/plain", Ctx: 256},
		{ID: "b", Engine: llamacpp.Name, Mode: pool.Builtin, ModelPath: dir + "/stubborn", Ctx: 256},
	}
	m, err := pool.New(pool.Options{
		Specs: specs, WorkerExe: exe, RunDir: dir + "/run",
		Kinds: kinds,
		OnChange: func(string) {
			select {
			case changed <- struct{}{}:
			default:
			}
		},
	})
	if err == nil {
		err = m.Start(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for range changed {
		var pids []int
		for _, id := range m.Pools() {
			if i := m.Infos(id)[0]; i.State == pool.Ready {
				pids = append(pids, i.PID)
			}
		}
		if len(pids) == len(specs) {
			_ = json.NewEncoder(os.Stdout).Encode(pids)
			break
		}
	}
	select {}
}

// command runs the test binary itself.
func command(args ...string) *exec.Cmd { return exec.Command(os.Args[0], args...) }

// kinds are those that the daemon has, too.
var kinds = []engine.Kind{llamacpp.Kind(), tgi.Kind(), vllm.Kind()}
