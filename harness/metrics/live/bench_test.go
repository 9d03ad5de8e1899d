// SPDX-License-Identifier: GPL-3.0-or-later

package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	conformance "github.com/llama-orch/llama-orch/harness/conformance/openai"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/metrics"
	"github.com/llama-orch/llama-orch/harness/nvmlstub"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/scripted"
	"github.com/llama-orch/llama-orch/harness/standin"
	"github.com/llama-orch/llama-orch/harness/watch"
)

const root = "../../.."

// bench is a daemon with six small pools, and two on-demand pools on a stand-in for a card that holds only one of them.
type bench struct {
	contract metrics.Contract
	// configured has the values of labels without a closed list.
	configured map[string][]string
	text       string // of the configuration
	state      *nvmlstub.State

	*daemon.Lab
	daemon *daemon.Daemon
	// The engines of the pools held, drop and short.
	held, drop, short *fakeengine.Engine
	// elsewhere is where the engine of the pool served is, which waits where it is asked to.
	elsewhere string
}

// config has two built-in workers, three pools in front of fake engines, one of a vLLM, one whose engine is nowhere, and two pools of
// stand-ins for a CUDA llama-server that don't fit on a card together.
const config = `
bind_addr: 127.0.0.1:0
data_dir: data
auth: {optional_on_loopback: true}
budgets: {token: {tokens: 100000000}}
artifacts: {max_bytes: 1048576, retain_bytes: 1048576}
sampler_profiles: {v1: {temperature: 0.8, top_p: 0.95, top_k: 40}}
pools:
  - {id: haiku, model: {id: haiku, ref: "file:$MODEL"}, device: cpu, replicas: 2, ctx: 256, sampler_profile: v1, provisioning: {mode: builtin}}
  - {id: gone, model: {id: haiku, ref: label}, sampler_profile: v1, provisioning: {mode: external, urls: ["$GONE"]}}
  - {id: held, model: {id: held, ref: label}, sampler_profile: v1, provisioning: {mode: external, urls: ["$HELD"]}, queue: {capacity: 1, full_policy: reject}, timeouts: {wall: 10m, idle: 10m}}
  - {id: drop, model: {id: drop, ref: label}, sampler_profile: v1, provisioning: {mode: external, urls: ["$DROP"]}, queue: {capacity: 1, full_policy: drop-lru}, timeouts: {wall: 10m, idle: 10m}}
  - {id: short, model: {id: short, ref: label}, sampler_profile: v1, provisioning: {mode: external, urls: ["$SHORT"]}, timeouts: {wall: 400ms, idle: 300ms}}
  - {id: served, engine: vllm, model: {id: served, ref: label}, sampler_profile: v1, provisioning: {mode: external, urls: ["$SERVED"]}}
  - {id: day, model: {id: day, ref: "file:day.gguf"}, device: [0], ctx: 256, lifecycle: on_demand, sampler_profile: v1, provisioning: $STANDIN}
  - {id: night, model: {id: night, ref: "file:night.gguf"}, device: [0], ctx: 256, lifecycle: on_demand, sampler_profile: v1, provisioning: $STANDIN}
`

// How much of a card the models of the two on-demand pools take, and what the card shows.
const (
	modelBytes  = 14 << 30
	utilization = 37 // per cent
	degrees     = 41
	joules      = 5000 // the other card has no counter
)

func newBench(t *testing.T) *bench {
	t.Helper()
	lab, err := daemon.NewLab(t.Context(), t.TempDir(), root, "./harness/standin/cmd/standin")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	b := &bench{Lab: lab}
	b.contract, err = metrics.ReadLint(filepath.Join(root, metrics.LintPath))
	require.NoError(t, err)
	b.configured = map[string][]string{
		"pool_id": {"haiku", "gone", "held", "drop", "short", "served", "day", "night"}, "model_id": {"haiku", "held", "drop", "short", "served", "day", "night"},
		"replica_id":     {"", "haiku-0", "haiku-1", "gone-0", "held-0", "drop-0", "short-0", "served-0", "day-0", "night-0"},
		"device":         {"0", "1"},
		"client":         {"localhost"},
		"engine_version": {"", "fake-1", "vllm 0.11.0", "llama.cpp v0.5.0 built-in"},
	}
	engine := func(e **fakeengine.Engine) string {
		*e = fakeengine.New(fakeengine.Options{})
		s := httptest.NewServer(*e)
		t.Cleanup(s.Close)
		return s.URL
	}
	b.elsewhere = served(t)
	b.text = strings.NewReplacer("$SERVED", b.elsewhere, "$MODEL", b.Model, "$GONE", nowhere(t), "$HELD", engine(&b.held), "$DROP", engine(&b.drop), "$SHORT", engine(&b.short),
		"$STANDIN", b.cards(t)).Replace(config)
	path := filepath.Join(b.Dir, "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte(b.text), 0o600))

	b.daemon, err = b.Serve(t.Context(), daemon.Options{Config: path, Options: process.Options{
		Args: []string{"--no-self-test"},
		Env:  b.Env(b.Dir, map[string]string{"LD_LIBRARY_PATH": b.Dir, nvmlstub.Env: filepath.Join(b.Dir, "cards")}),
	}})
	require.NoError(t, err)
	t.Cleanup(func() {
		b.daemon.Kill()
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", b.daemon.Output())
		}
	})
	return b
}

// served is the address of a vLLM.
func served(t *testing.T) string {
	t.Helper()
	script, err := scripted.Parse([]byte(`{"rules": [{"match": "wait", "play": [{"text": "a"}, {"wait": true}]}]}`))
	require.NoError(t, err)
	v, err := conformance.New(conformance.Options{As: "vllm", Script: script})
	require.NoError(t, err)
	s := httptest.NewServer(v)
	t.Cleanup(s.Close)
	return s.URL
}

// cards puts the stand-ins for NVML and llama-server in place, with two models, and returns the pools' provisioning.
func (b *bench) cards(t *testing.T) string {
	_, err := nvmlstub.Build(b.Dir)
	require.NoError(t, err)
	b.state = nvmlstub.Reference()
	b.state.Cards[0].Util, b.state.Cards[0].Temp, b.state.Cards[0].Energy = utilization, degrees, joules*1000
	b.write(t)
	for _, name := range []string{"day", "night"} {
		require.NoError(t, standin.WriteModel(filepath.Join(b.Dir, name+".gguf"), name, modelBytes))
	}
	args, err := json.Marshal(standin.Args(filepath.Join(b.Dir, "cards"), b.Model, b.Libs))
	require.NoError(t, err)
	return fmt.Sprintf("{mode: binary, path: %q, args: %s}", b.Program("standin"), args)
}

// write has NVML show the bench's cards.
func (b *bench) write(t *testing.T) {
	t.Helper()
	require.NoError(t, b.state.Write(filepath.Join(b.Dir, "cards")))
}

// nowhere is an address that nobody listens on.
func nowhere(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return "http://" + l.Addr().String()
}

// reload has the daemon read a configuration file anew.
func (b *bench) reload(t *testing.T, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(b.Dir, "config.yaml"), []byte(text), 0o600))
	require.NoError(t, b.daemon.Signal(syscall.SIGHUP))
}

// eventually asks until try finds nothing wrong.
func eventually(t *testing.T, try func() []string) {
	t.Helper()
	require.NoError(t, watch.Poll(t.Context(), "what is promised", func() error {
		if wrong := try(); len(wrong) > 0 {
			return errors.New(strings.Join(wrong, "\n"))
		}
		return nil
	}))
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), watch.Patience)
	t.Cleanup(cancel)
	return ctx
}

// exposition is what /metrics answers.
func (b *bench) exposition(t *testing.T) []byte {
	t.Helper()
	text, err := b.daemon.Client.Get(bounded(t), "/metrics")
	require.NoError(t, err)
	return text
}

// keep writes the answer of /metrics after an action to the folder that LLORCH_PROOF_DIR names, if it is set.
func keep(t *testing.T, number int, action string, text []byte) {
	t.Helper()
	dir := os.Getenv("LLORCH_PROOF_DIR")
	if dir == "" {
		return
	}
	dir = filepath.Join(dir, "metrics")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	text = append([]byte("# After: "+action+"\n"), text...)
	require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d.prom", number)), text, 0o600))
}

// scrape reads /metrics, which must keep the contract at any time.
func (b *bench) scrape(t *testing.T) metrics.Scrape {
	t.Helper()
	s, err := metrics.Parse(b.exposition(t))
	require.NoError(t, err)
	require.Empty(t, b.contract.Lint(s, b.configured))
	return s
}

// request is a task's body.
type request map[string]any

const prompt = "Write a haiku about rain containing \"seven\".\n\n"

// submit posts a task for a model and returns its id.
func (b *bench) submit(t *testing.T, model string, more request) string {
	t.Helper()
	a, err := b.daemon.Client.Submit(bounded(t), body(t, model, more))
	require.NoError(t, err)
	return a.TaskID
}

func body(t *testing.T, model string, more request) []byte {
	t.Helper()
	r := request{"model_ref": model, "prompt": prompt}
	maps.Copy(r, more)
	text, err := json.Marshal(r)
	require.NoError(t, err)
	return text
}

// refused posts a task that must be refused with a code.
func (b *bench) refused(t *testing.T, code, model string, more request) {
	t.Helper()
	_, err := b.daemon.Client.Submit(bounded(t), body(t, model, more))
	var r *client.RefusedError
	require.ErrorAs(t, err, &r)
	require.Equal(t, code, r.Code)
}

// post sends a body that must be accepted.
func (b *bench) post(t *testing.T, path string, body request, status int) {
	t.Helper()
	text, err := json.Marshal(body)
	require.NoError(t, err)
	_, err = b.daemon.Client.Post(bounded(t), path, text, status)
	require.NoError(t, err)
}

func (b *bench) cancel(t *testing.T, id string) {
	t.Helper()
	_, err := b.daemon.Client.Cancel(bounded(t), id)
	require.NoError(t, err)
}

func (b *bench) follow(t *testing.T, id string) *client.Stream {
	t.Helper()
	s, err := b.daemon.Client.Open(bounded(t), id)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// read reads events until there are so many tokens.
func read(t *testing.T, s *client.Stream, tokens int) {
	t.Helper()
	for len(s.Tokens) < tokens {
		_, err := s.Next()
		require.NoError(t, err)
	}
}

// fails reads to the end, which must be an error.
func fails(t *testing.T, s *client.Stream, code string) {
	t.Helper()
	require.NoError(t, s.Rest())
	require.NotNil(t, s.Fail)
	require.Equal(t, code, s.Fail.Code)
}

// busy waits until an engine has so many slots in use.
func busy(t *testing.T, e *fakeengine.Engine, slots int) {
	t.Helper()
	_, err := e.Wait(bounded(t), func(s fakeengine.State) bool { return s.Busy == slots && s.Waiting == 0 })
	require.NoError(t, err)
}

// neverRead opens a stream and never reads it.
func (b *bench) neverRead(t *testing.T, id string) (hangUp func() error) {
	t.Helper()
	host := strings.TrimPrefix(b.daemon.URL, "http://")
	c, err := net.Dial("tcp", host)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.(*net.TCPConn).SetReadBuffer(4096))
	_, err = fmt.Fprintf(c, "GET /v1/tasks/%s/stream HTTP/1.1\r\nHost: %s\r\n\r\n", id, host)
	require.NoError(t, err)
	return c.Close
}

// worker returns the pid of a replica's worker, from the daemon's pid files.
func (b *bench) worker(t *testing.T, replica string) int {
	t.Helper()
	noted := daemon.Noted(filepath.Join(b.Dir, "data"))
	for pid, of := range noted {
		if of == replica {
			return pid
		}
	}
	require.Fail(t, "no worker of "+replica, "%v", noted)
	return 0
}

// messageBatch has a request to a model run as a message batch, and deletes that. What is done meanwhile is done before it has ended.
func (b *bench) messageBatch(t *testing.T, model string, meanwhile func()) {
	t.Helper()
	const at = "/v1/messages/batches"
	call := func(method, path, body string) (got struct {
		ID     string `json:"id"`
		Status string `json:"processing_status"`
	},
	) {
		t.Helper()
		r, err := http.NewRequestWithContext(bounded(t), method, b.daemon.URL+path, strings.NewReader(body))
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer func() { require.NoError(t, res.Body.Close()) }()
		require.NoError(t, json.NewDecoder(res.Body).Decode(&got))
		require.Equal(t, http.StatusOK, res.StatusCode)
		return got
	}
	id := call(http.MethodPost, at, `{"requests":[{"custom_id":"a","params":{"model":"`+model+`","max_tokens":4,"messages":[{"role":"user","content":"Frogs"}]}}]}`).ID
	meanwhile()
	eventually(t, func() []string {
		if got := call(http.MethodGet, at+"/"+id, "").Status; got != "ended" {
			return []string{"the batch is " + got}
		}
		return nil
	})
	call(http.MethodDelete, at+"/"+id, "")
	http.DefaultClient.CloseIdleConnections()
}
