// SPDX-License-Identifier: GPL-3.0-or-later

// Package hubengine poses as the programs of engines that take models in the form of the Hugging Face hub: `vllm serve` and TGI's launcher. It takes the command line and
// the environment that the daemon gives them, writes both down, says what such a program says while it loads, and serves the conformance server of that
// engine. Files in the model's folder change what it does, and nothing of the model's own is one of them:
//
//	.lines   what it says on standard error; lines that are added later are said when they come
//	.hold    keeps it loading while the file is there
//	.dies    says what is in the file, and exits with 1
//	.slow    pauses 20 ms between two tokens
//	.calls   its command lines and environments, one JSON object a line: it writes them
//
// It computes nothing, and takes no memory of a card.
package hubengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/harness/conformance/openai"
	"github.com/llama-orch/llama-orch/harness/conformance/tgi"
	"github.com/llama-orch/llama-orch/harness/process"
)

// Build compiles the program.
func Build(ctx context.Context, root, exe string) error {
	return process.Build(ctx, root, exe, "./harness/hubengine/cmd/hubengine")
}

// lookEvery is the time between two looks at the files.
const lookEvery = 5 * time.Millisecond

// Call is how the program was called.
type Call struct {
	Args []string `json:"args"`
	Env  []string `json:"env"`
}

// Calls are those that it has written down for a model, the oldest first.
func Calls(model string) (calls []Call, err error) {
	data, err := os.ReadFile(filepath.Join(model, ".calls"))
	if err != nil {
		return nil, fmt.Errorf("read how the program was called: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		var c Call
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			return nil, fmt.Errorf("read how the program was called: %w", err)
		}
		calls = append(calls, c)
	}
	return calls, nil
}

// Main plays the program until it is killed, and returns the exit code.
func Main(ctx context.Context, args []string, stderr io.Writer) int {
	if slices.Contains(args, "--version") {
		fmt.Fprintln(os.Stdout, "3.3.6")
		return 0
	}
	if err := run(ctx, args, stderr); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

// engine is what of a command line matters.
type engine struct {
	model, host, port string
	handler           func(interval time.Duration) http.Handler
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	e := &engine{}
	if err := e.parse(args); err != nil {
		return err
	}
	if err := note(e.model, args); err != nil {
		return err
	}
	if err := e.load(ctx, stderr); err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(e.host, e.port))
	if err != nil {
		return fmt.Errorf("OSError: [Errno 98] error while attempting to bind on address: %w", err)
	}
	interval := time.Duration(0)
	if there(filepath.Join(e.model, ".slow")) {
		interval = 20 * time.Millisecond
	}
	return http.Serve(listener, e.handler(interval))
}

// parse reads a command line. That of TGI's launcher names its model; that of vLLM begins with it, in a container without `serve`.
func (e *engine) parse(args []string) error {
	e.model, e.port = value(args, "--model-id"), value(args, "--port")
	if e.model == "" {
		return e.vllm(args)
	}
	e.host = value(args, "--hostname")
	total, _ := strconv.Atoi(value(args, "--max-total-tokens")) // left out, it is 0
	stops, _ := strconv.Atoi(value(args, "--max-stop-sequences"))
	e.handler = func(interval time.Duration) http.Handler {
		return tgi.New(tgi.Options{Model: e.model, Total: total, Stops: stops, Key: os.Getenv("API_KEY"), Interval: interval})
	}
	return nil
}

func (e *engine) vllm(args []string) error {
	if len(args) > 0 && args[0] == "serve" {
		args = args[1:]
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return errors.New("error: the following arguments are required: model_tag")
	}
	e.model, e.host = args[0], value(args, "--host")
	length, _ := strconv.Atoi(value(args, "--max-model-len")) // left out, it is 0
	server := func(interval time.Duration) (*openai.Server, error) {
		return openai.New(openai.Options{
			As: "vllm", Models: []string{value(args, "--served-model-name")}, Ctx: length, Key: os.Getenv("VLLM_API_KEY"), Pace: interval,
		})
	}
	if _, err := server(0); err != nil {
		return err
	}
	e.handler = func(interval time.Duration) http.Handler {
		s, _ := server(interval) // the same went well above
		return s
	}
	return nil
}

func value(args []string, name string) string {
	if at := slices.Index(args, name); at >= 0 && at+1 < len(args) {
		return args[at+1]
	}
	return ""
}

func note(model string, args []string) error {
	line, err := json.Marshal(Call{args, os.Environ()})
	if err != nil {
		return fmt.Errorf("write the call: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(model, ".calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("FileNotFoundError: %w", err)
	}
	_, err = file.Write(append(line, '\n'))
	return errors.Join(err, file.Close())
}

// load says what there is to say, and returns when the load may end.
func (e *engine) load(ctx context.Context, stderr io.Writer) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for said := 0; ; {
		hold := there(filepath.Join(e.model, ".hold")) // before the lines: what was written before it went is said
		lines, _ := os.ReadFile(filepath.Join(e.model, ".lines"))
		_, _ = stderr.Write(lines[said:])
		said = len(lines)
		if words, err := os.ReadFile(filepath.Join(e.model, ".dies")); err == nil {
			return errors.New(strings.TrimSpace(string(words)))
		}
		if !hold {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// WriteModel makes a model's folder, whose workers take about so many bytes for its weights. The file of weights has a hole, so it takes nothing.
func WriteModel(folder string, weights int64) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("make the model's folder: %w", err)
	}
	settings := `{"architectures":["LlamaForCausalLM"],"num_hidden_layers":32,"hidden_size":4096,"num_attention_heads":32,"num_key_value_heads":8,` +
		`"max_position_embeddings":8192,"torch_dtype":"bfloat16"}`
	for name, text := range map[string]string{"config.json": settings, "tokenizer.json": "{}", "model-00001-of-00002.safetensors": "weights"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write the model: %w", err)
		}
	}
	second := filepath.Join(folder, "model-00002-of-00002.safetensors")
	if err := os.WriteFile(second, []byte("more"), 0o600); err != nil {
		return fmt.Errorf("write the model: %w", err)
	}
	if err := os.Truncate(second, max(weights, 4)); err != nil {
		return fmt.Errorf("write the model: %w", err)
	}
	return nil
}
