// SPDX-License-Identifier: GPL-3.0-or-later

package standin

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	gguf "github.com/gpustack/gguf-parser-go"

	"github.com/llama-orch/llama-orch/harness/nvmlstub"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/service/fleet/worker"
	"github.com/llama-orch/llama-orch/service/task"
)

// CardContext is the bytes that a worker takes on each card in addition to the model.
const CardContext = 280 << 20

// holdEvery is the time between two checks whether the load may go on.
const holdEvery = 20 * time.Millisecond

// Build compiles the program.
func Build(ctx context.Context, root, exe string) error {
	return process.Build(ctx, root, exe, "./harness/standin/cmd/standin")
}

// Args returns the arguments that a pool gives the stand-in in addition to llama-server's: the state of the stand-in for NVML, the model that it really
// loads, and the folder of the engine's libraries.
func Args(state, model, libs string) []string {
	return []string{"--gpu-state", state, "--load", model, "--libs", libs}
}

// options has llama-server's options that the daemon uses, and the stand-in's own.
type options struct {
	model, host, port, split, layers, device, fit string
	ctx, slots, threads                           int
	embedding                                     bool
	pace                                          float64
	state, load, libs                             string
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("standin", flag.ContinueOnError)
	f.StringVar(&o.model, "m", "", "model")
	f.IntVar(&o.ctx, "c", 0, "context")
	f.IntVar(&o.slots, "parallel", 1, "slots")
	f.IntVar(&o.threads, "t", 1, "threads")
	f.StringVar(&o.host, "host", "127.0.0.1", "address")
	f.StringVar(&o.port, "port", "8080", "port")
	f.StringVar(&o.layers, "ngl", "auto", "layers on the cards")
	f.StringVar(&o.device, "device", "", "none: no card")
	f.StringVar(&o.fit, "fit", "on", "fit what does not")
	f.StringVar(&o.split, "tensor-split", "", "parts of the cards")
	f.BoolVar(&o.embedding, "embedding", false, "embeddings")
	for _, name := range []string{"b", "ub", "cache-ram", "log-colors", "slot-save-path"} {
		f.String(name, "", "taken, and left at that")
	}
	for _, name := range []string{"no-webui", "metrics", "offline"} {
		f.Bool(name, false, "taken, and left at that")
	}
	f.StringVar(&o.state, "gpu-state", "", "the state of the stand-in for NVML")
	f.Float64Var(&o.pace, "pace", 0, "at most so many tokens a second")
	f.StringVar(&o.libs, "libs", "", "folder of the engine's libraries")
	f.StringVar(&o.load, "load", "", "the model to serve instead")
	if err := f.Parse(args); err != nil {
		return o, fmt.Errorf("read the arguments: %w", err)
	}
	switch {
	case o.model == "" || o.load == "" || o.state == "":
		return o, errors.New("-m, --load and --gpu-state are needed")
	case o.slots != 1:
		return o, errors.New("the stand-in has one slot: --parallel 1")
	case o.device != "none" && (o.layers != "all" || o.fit != "off"):
		return o, errors.New("on a card it is all layers or none: -ngl all --fit off")
	}
	return o, nil
}

// Main runs the stand-in until its standard input ends, and returns the exit code.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o, err := parse(args)
	fmt.Fprintf(stdout, "a stand-in for llama-server: model %s, cards %q\n", o.model, os.Getenv("CUDA_VISIBLE_DEVICES"))
	if err == nil {
		err = o.take()
	}
	if err == nil {
		err = o.mayLoad(ctx)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return worker.ExitFailure
	}
	workload := task.Completion
	if o.embedding {
		workload = task.Embedding
	}
	return worker.Main(ctx, worker.Options{
		Model: o.load, Libs: o.libs, Ctx: o.ctx, Threads: o.threads, Pace: o.pace, Workload: workload, APIKey: os.Getenv("LLAMA_API_KEY"),
		Address: net.JoinHostPort(o.host, o.port), Stdin: stdin, Stdout: stdout, Stderr: stderr,
	})
}

// take claims the cards' memory. If there is not enough, it fails as llama.cpp does.
func (o options) take() error {
	cards, err := o.cards()
	if err != nil || len(cards) == 0 {
		return err
	}
	bytes, err := o.needs()
	if err != nil {
		return err
	}
	parts, err := o.parts(len(cards))
	if err != nil {
		return err
	}
	free, err := freeMemory(o.state, cards)
	if err != nil {
		return err
	}
	claim := map[int]int64{}
	for i, card := range cards {
		claim[card] = int64(float64(bytes)*parts[i]) + CardContext
		if claim[card] > free[i] {
			return fmt.Errorf("ggml_backend_cuda_buffer_type_alloc_buffer: allocating %.2f MiB on device %d: cudaMalloc failed: out of memory\n"+
				"llama_model_load: error loading model: unable to allocate CUDA%d buffer", float64(claim[card])/(1<<20), i, i)
		}
	}
	return nvmlstub.Claim(o.state, os.Getpid(), claim)
}

// cards returns the cards of the mask, or none on the CPU. They are NVML's numbers, which the daemon has to ask for.
func (o options) cards() (cards []int, err error) {
	if o.device == "none" {
		return nil, nil
	}
	mask := os.Getenv("CUDA_VISIBLE_DEVICES")
	if order := os.Getenv("CUDA_DEVICE_ORDER"); order != "PCI_BUS_ID" || mask == "" {
		return nil, fmt.Errorf("ggml_cuda_init: no CUDA-capable device is detected (order %q, mask %q)", order, mask)
	}
	for text := range strings.SplitSeq(mask, ",") {
		card, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("CUDA_VISIBLE_DEVICES is %q: %w", mask, err)
		}
		cards = append(cards, card)
	}
	return cards, nil
}

// needs returns what the model takes on all cards together: the figure in the file beside it, or otherwise its KV cache, if WriteModel made it.
func (o options) needs() (bytes int64, err error) {
	text, err := os.ReadFile(o.model + ".vram")
	if err == nil {
		bytes, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		return bytes - CardContext, err
	}
	file, err := gguf.ParseGGUFFile(o.model)
	if err != nil {
		return 0, fmt.Errorf("gguf_init_from_file: invalid magic, or worse: %w", err)
	}
	if head, ok := file.Header.MetadataKV.Get(keyLength); ok {
		bytes = kvBytes(int64(o.ctx), gguf.ValueNumeric[int64](head)*element)
	}
	return bytes, nil
}

// parts returns the cards' shares of the model, which sum to 1.
func (o options) parts(cards int) ([]float64, error) {
	parts, sum := make([]float64, cards), 0.0
	if o.split == "" {
		parts[0] = 1
		return parts, nil
	}
	given := strings.Split(o.split, ",")
	if len(given) != cards {
		return nil, fmt.Errorf("--tensor-split %s is for another number of cards than the %d there are", o.split, cards)
	}
	for i, text := range given {
		part, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("read --tensor-split: %w", err)
		}
		parts[i] = part
		sum += part
	}
	for i := range parts {
		parts[i] /= sum
	}
	return parts, nil
}

// freeMemory asks NVML for the free memory, which a driver would know.
func freeMemory(state string, cards []int) (free []int64, err error) {
	if err := os.Setenv(nvmlstub.Env, state); err != nil {
		return nil, fmt.Errorf("name the cards' state: %w", err)
	}
	lib := nvml.New()
	if ret := lib.Init(); ret != nvml.SUCCESS {
		return nil, fmt.Errorf("ggml_cuda_init: no driver (%s)", lib.ErrorString(ret))
	}
	defer func() { _ = lib.Shutdown() }()
	for _, card := range cards {
		device, ret := lib.DeviceGetHandleByIndex(card)
		var memory nvml.Memory
		if ret == nvml.SUCCESS {
			memory, ret = device.GetMemoryInfo()
		}
		if ret != nvml.SUCCESS {
			return nil, fmt.Errorf("CUDA error: card %d cannot be used: %s", card, lib.ErrorString(ret))
		}
		free = append(free, int64(memory.Free))
	}
	return free, nil
}

// mayLoad returns when the load may go on.
func (o options) mayLoad(ctx context.Context) error {
	if words, err := os.ReadFile(o.model + ".dies"); err == nil {
		return errors.New(strings.TrimSpace(string(words)))
	}
	tick := time.NewTicker(holdEvery)
	defer tick.Stop()
	for {
		if _, err := os.Stat(o.model + ".hold"); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
