// SPDX-License-Identifier: GPL-3.0-or-later

package worker_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/service/fleet/worker"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

const (
	envWorker = "LLORCH_TEST_WORKER" // set: this process is a worker with these options, as JSON
	haiku     = "../../../models/haiku/haiku.gguf"
	key       = "secret"
)

var libs string

// TestMain makes this binary a worker when a test runs it as one.
func TestMain(m *testing.M) {
	if os.Getenv("LLORCH_WORKER_RENDERS") != "" {
		os.Exit(worker.Main(context.Background(), worker.Options{}))
	}
	if raw := os.Getenv(envWorker); raw != "" {
		var o worker.Options
		if err := json.Unmarshal([]byte(raw), &o); err != nil {
			panic(err)
		}
		o.Stdin, o.Stdout, o.Stderr, o.APIKey = os.Stdin, os.Stdout, os.Stderr, os.Getenv("LLAMA_API_KEY")
		os.Exit(worker.Main(context.Background(), o))
	}
	var err error
	libs, err = provision.EngineLibs(context.Background(), provision.Options{Progress: func(s string) { fmt.Fprintln(os.Stderr, s) }})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// process is a worker process.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	url    string
	stderr *buffer
	client *http.Client
}

// options are the ones that cross to the process.
type options struct {
	Model    string
	Libs     string
	Ctx      int
	Threads  int
	Ubatch   int
	Pace     float64
	Workload string
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func spawn(t testing.TB, o options) *process {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	raw, err := json.Marshal(o)
	require.NoError(t, err)
	p := &process{cmd: exec.Command(exe), stderr: &buffer{}, client: &http.Client{Transport: &http.Transport{}}}
	p.cmd.Env = append(os.Environ(), envWorker+"="+string(raw), "LLAMA_API_KEY="+key)
	p.cmd.Stderr = p.stderr
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		p.client.CloseIdleConnections()
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return p // it ended at once; the test looks at how
	}
	var hello struct{ Listening string }
	require.NoError(t, json.Unmarshal([]byte(line), &hello), line)
	require.True(t, strings.HasPrefix(hello.Listening, "127.0.0.1:"), line)
	p.url = "http://" + hello.Listening
	return p
}

// start spawns a worker on the bundled model and waits until it is ready.
func start(t testing.TB, change func(*options)) *process {
	t.Helper()
	model, err := filepath.Abs(haiku)
	require.NoError(t, err)
	o := options{Model: model, Libs: libs, Ctx: 256, Threads: 1, Workload: "completion"}
	if change != nil {
		change(&o)
	}
	p := spawn(t, o)
	require.NotEmpty(t, p.url, p.stderr)
	for {
		status, _ := p.get(t, "/health")
		if status == http.StatusOK {
			return p
		}
		require.Equal(t, http.StatusServiceUnavailable, status)
	}
}

func (p *process) request(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var data io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		data = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, data)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	return p.client.Do(req)
}

func (p *process) do(t testing.TB, method, path string, body any) (int, []byte) {
	t.Helper()
	resp, err := p.request(t.Context(), method, path, body)
	require.NoError(t, err, p.stderr)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, data
}

func (p *process) get(t testing.TB, path string) (int, []byte) {
	t.Helper()
	return p.do(t, http.MethodGet, path, nil)
}

func (p *process) post(t testing.TB, path string, body any) (int, []byte) {
	t.Helper()
	return p.do(t, http.MethodPost, path, body)
}

// answer is a completion without stream.
type answer struct {
	Content   string `json:"content"`
	StopType  string `json:"stop_type"`
	StopWord  string `json:"stopping_word"`
	Predicted int    `json:"tokens_predicted"`
	Evaluated int    `json:"tokens_evaluated"`
	Truncated bool   `json:"truncated"`
}

func (p *process) complete(t testing.TB, body map[string]any) answer {
	t.Helper()
	status, data := p.post(t, "/completion", body)
	require.Equal(t, http.StatusOK, status, string(data))
	var a answer
	require.NoError(t, json.Unmarshal(data, &a))
	return a
}

const prompt = "Write a haiku about GPUs containing \"forty-two\".\n\n"

func ask(more map[string]any) map[string]any {
	body := map[string]any{"prompt": prompt, "temperature": 0.8, "seed": 1, "n_predict": 64}
	maps.Copy(body, more)
	return body
}
