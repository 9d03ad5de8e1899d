// SPDX-License-Identifier: GPL-3.0-or-later

package setup

import (
	"cmp"
	"fmt"
	"maps"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/engine/hub"
	"github.com/llama-orch/llama-orch/service/task"
)

// launch is the command of a model on its way to a pool.
type launch struct {
	*swapping
	name    string
	pool    config.Pool
	sample  *config.SamplerProfile
	whys    []string
	total   int               // the context of all slots together, as llama-server is told it
	volumes map[string]string // of a container: its folders, and where they are here
}

// variable takes along an environment variable of a command.
func (l *launch) variable(v string) {
	key, value, _ := strings.Cut(v, "=")
	switch {
	case key != "CUDA_VISIBLE_DEVICES":
		l.leave(l.name+": env "+key, "a worker inherits no variables")
	case l.cards(value):
	default:
		l.leave(l.name+": env "+v, "cards go by their indices here")
	}
}

// cards sets a pool's cards by a list of indices.
func (l *launch) cards(list string) bool {
	for index := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(index))
		if err != nil || n < 0 {
			return false
		}
	}
	l.pool.Device = config.Device(strings.ReplaceAll(list, " ", ""))
	return true
}

// command turns a command into what the pool is, or says why it cannot.
func (l *launch) command(words []string) (why string) {
	program := filepath.Base(words[0])
	switch {
	case program == "docker" || program == "podman":
		return l.container(program, words[1:])
	case strings.HasPrefix(program, "llama-server"), program == "server":
		l.pool.Provisioning = config.Provisioning{Mode: config.ModeBinary, Path: words[0]}
		return cmp.Or(l.there(words[0]), l.server(words[1:]), l.finish())
	case program == vllmProgram && len(words) > 1 && words[1] == "serve":
		l.pool.Engine, l.pool.Provisioning = task.VLLM, config.Provisioning{Mode: config.ModeBinary, Path: words[0]}
		return cmp.Or(l.there(words[0]), l.vllm(words[2:]), l.finish())
	}
	return fmt.Sprintf("its program, %s, is no llama-server, no `vllm serve`, and no container of one: start it yourself as a pool of provisioning.mode external, or as one of engine command with its routes", program)
}

func (l *launch) there(program string) string {
	if strings.Contains(program, "/") && !filepath.IsAbs(program) {
		program = filepath.Join(l.folder, program)
		l.pool.Provisioning.Path = program
	}
	if !strings.Contains(program, "/") {
		for _, e := range l.Engines {
			if e.Name == program {
				return ""
			}
		}
	}
	if _, err := exec.LookPath(program); err != nil {
		return "its program, " + program + ", is not here"
	}
	return ""
}

// valued are the flags of docker run that take a value.
var valued = []string{
	"-v", "--volume", "-p", "--publish", "--name", "-e", "--env", "--gpus", "--device", "--ipc", "--shm-size", "--network", "--net", "-u", "--user", "--mount",
	"--runtime", "-w", "--workdir", "--memory", "-m", "--cpus", "--label", "-l", "--hostname", "-h", "--pull", "--restart", "--ulimit", "--cap-add", "--security-opt", "--add-host", "--group-add", "--entrypoint", "--env-file",
}

// container reads the command line of docker or podman.
func (l *launch) container(runtime string, words []string) string {
	if len(words) == 0 || words[0] != "run" {
		return "of " + runtime + " only run is understood"
	}
	l.volumes = map[string]string{}
	for words = words[1:]; len(words) > 0 && strings.HasPrefix(words[0], "-"); words = words[1:] {
		flag, value, joined := strings.Cut(words[0], "=")
		if !joined && slices.Contains(valued, flag) {
			if len(words) == 1 {
				return "its flag " + flag + " has no value"
			}
			value, words = words[1], words[1:]
		}
		switch flag {
		case "-v", "--volume":
			if here, there, is := strings.Cut(value, ":"); is {
				there, _, _ = strings.Cut(there, ":")
				l.volumes[path.Clean(there)] = here
			}
		case "-e", "--env":
			l.variable(value)
		case "--entrypoint":
			return "its container has another entry point than its image"
		case "--init", "--rm", "-p", "--publish", "--name", "--gpus", "-d", "-i", "-t", "-it", "--network", "--net", "--ipc", "--shm-size", "--runtime", "--pull":
		default:
			l.leave(l.name+": "+runtime+" "+flag, "how containers run is decided here")
		}
	}
	if len(words) == 0 {
		return "its cmd names no image"
	}
	l.pool.Provisioning = config.Provisioning{Mode: config.ModeContainer, Image: words[0], Runtime: runtime}
	switch image := strings.ToLower(words[0]); {
	case strings.Contains(image, "llama.cpp"), strings.Contains(image, "llama-server"):
		return cmp.Or(l.server(words[1:]), l.finish())
	case strings.Contains(image, "vllm"):
		l.pool.Engine = task.VLLM
		return cmp.Or(l.vllm(words[1:]), l.finish())
	}
	return "its image, " + words[0] + ", is none of llama-server or vllm, as far as its name tells"
}

// here is the path of a file on this machine, that a command names.
func (l *launch) here(file string) string {
	for there, folder := range l.volumes {
		if rest, below := strings.CutPrefix(file, there+"/"); below {
			return filepath.Join(folder, rest)
		}
	}
	if !filepath.IsAbs(file) {
		return filepath.Join(l.folder, file)
	}
	return file
}

// Flags of llama-server: those that say nothing that is not decided here, and those without a value, which pass as they are.
var (
	decided      = []string{"--host", "--port", "-a", "--alias", "--api-key", "--api-key-file", "--slot-save-path", "--timeout", "-to", "--threads-http", "--log-file", "--path", "--cache-ram", "-cram", "--fit-target", "--fit", "-fit"}
	decidedAlone = []string{"--metrics", "--no-webui", "--webui", "--slots", "--props", "--no-slots", "--verbose", "-v", "--log-disable", "--log-timestamps", "--log-prefix", "--offline", "--jinja", "--no-warmup", "--cont-batching", "-cb"}
	alone        = []string{"--no-mmap", "--mlock", "--no-kv-offload", "-nkvo", "--swa-full", "--no-context-shift", "--context-shift", "--no-jinja", "--no-mmproj", "--no-mmproj-offload", "--no-op-offload", "--cpu-moe", "-cmoe", "--kv-unified", "-kvu", "--no-repack", "--check-tensors", "--special", "--spm-infill", "--ignore-eos"}
)

// server reads the command line of a llama-server.
func (l *launch) server(words []string) (why string) {
	for ; len(words) > 0; words = words[1:] {
		flag, value, joined := strings.Cut(words[0], "=")
		if !strings.HasPrefix(flag, "-") {
			return "its cmd has " + words[0] + ", which is no flag of llama-server"
		}
		if done := l.switched(flag); done {
			continue
		}
		if !joined {
			if len(words) == 1 || isFlag(words[1]) {
				l.pool.Provisioning.Args = append(l.pool.Provisioning.Args, words[0]) // it takes no value
				continue
			}
			value, words = words[1], words[1:]
		}
		if slices.Contains(decided, flag) {
			continue
		}
		if why := l.flag(flag, value); why != "" {
			return why
		}
	}
	return ""
}

// isFlag reports whether a word begins with a dash and is no number.
func isFlag(word string) bool {
	_, err := strconv.ParseFloat(word, 64)
	return strings.HasPrefix(word, "-") && err != nil
}

// switched takes a flag that has no value.
func (l *launch) switched(flag string) bool {
	switch {
	case flag == "--embedding" || flag == "--embeddings":
		if l.pool.Workload == "" {
			l.pool.Workload = task.Embedding
		}
	case flag == "--rerank" || flag == "--reranking":
		l.pool.Workload = task.Rerank
	case slices.Contains(decidedAlone, flag):
	case slices.Contains(alone, flag):
		l.pool.Provisioning.Args = append(l.pool.Provisioning.Args, flag)
	default:
		return false
	}
	return true
}

// flag takes a flag with its value.
func (l *launch) flag(flag, value string) (why string) {
	switch flag {
	case "-m", "--model":
		l.pool.Model.Ref = "file:" + l.here(value)
	case "-hf", "-hfr", "--hf-repo":
		repo, quantisation, tagged := strings.Cut(value, ":")
		l.pool.Model.Ref = "hf:" + repo
		if tagged {
			l.leave(l.name+": "+flag+" "+value, "which file of the repository it is, "+quantisation+", is to be written as hf:"+repo+"/FILE")
		}
	case "-mu", "--model-url":
		l.pool.Model.Ref = value
	case "-c", "--ctx-size":
		return l.whole(flag, value, &l.total)
	case "-np", "--parallel":
		return l.whole(flag, value, &l.pool.Slots)
	case "-t", "--threads":
		return l.whole(flag, value, &l.pool.Threads)
	case "-ngl", "--gpu-layers", "--n-gpu-layers":
		l.layers(flag, value)
	case "-dev", "--device":
		l.devices(flag, value)
	case "-ts", "--tensor-split":
		l.pool.TensorSplit = nil
		for part := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' || r == '/' }) {
			n, err := strconv.ParseFloat(part, 64)
			if err != nil || n < 0 {
				return "its " + flag + " is " + value + ", which is no list of parts"
			}
			l.pool.TensorSplit = append(l.pool.TensorSplit, n)
		}
	case "--pooling":
		if value == "rank" {
			l.pool.Workload = task.Rerank
			return ""
		}
		l.pool.Provisioning.Args = append(l.pool.Provisioning.Args, flag, value)
	default:
		if l.sampling(flag, value) {
			return ""
		}
		if strings.HasSuffix(value, ".gguf") || strings.HasSuffix(value, ".jinja") {
			value = l.here(value)
		}
		l.pool.Provisioning.Args = append(l.pool.Provisioning.Args, flag, value)
	}
	return ""
}

func (l *launch) whole(flag, value string, into *int) string {
	n, err := strconv.Atoi(value)
	if err != nil {
		return "its " + flag + " is " + value + ", which is no whole number"
	}
	*into = max(n, 0)
	return ""
}

// layers says what becomes of a number of layers.
func (l *launch) layers(flag, value string) {
	switch n, err := strconv.Atoi(value); {
	case value == "0":
		l.pool.Device = config.CPU
	case err == nil && n < 99:
		l.leave(l.name+": "+flag+" "+value, "a model is on GPUs with all its layers here, or on the CPU")
	}
}

func (l *launch) devices(flag, value string) {
	if value == "none" {
		l.pool.Device = config.CPU
		return
	}
	if !l.cards(strings.ReplaceAll(value, "CUDA", "")) {
		l.leave(l.name+": "+flag+" "+value, "cards are NVIDIA's here, and go by their indices")
	}
}

// sampling takes what llama-server is told to sample with.
func (l *launch) sampling(flag, value string) bool {
	name, is := map[string]string{
		"--temp": "temperature", "--temperature": "temperature", "--top-p": "top_p", "--top-k": "top_k", "--min-p": "min_p", "--repeat-penalty": "repeat_penalty",
	}[flag]
	if !is {
		return false
	}
	n, err := strconv.ParseFloat(value, 64)
	why := "it is no number"
	if err == nil {
		if l.sample == nil { // llama-server's own
			l.sample = &config.SamplerProfile{Temperature: 0.8, TopP: 0.95, TopK: 40, MinP: 0.05, RepeatPenalty: 1}
		}
		m := Model{Sample: l.sample}
		why = m.sample(name, n)
		l.sample = m.Sample
	}
	if why != "" {
		l.leave(l.name+": "+flag+" "+value, why)
	}
	return true
}

// vllm reads the command line of `vllm serve`.
func (l *launch) vllm(words []string) (why string) {
	l.pool.Slots = 0
	for ; len(words) > 0; words = words[1:] {
		flag, value, joined := strings.Cut(words[0], "=")
		if !strings.HasPrefix(flag, "-") {
			l.pool.Model.Ref = "file:" + l.here(words[0])
			continue
		}
		if !joined && len(words) > 1 && !isFlag(words[1]) {
			value, words = words[1], words[1:]
		}
		switch flag {
		case "--host", "--port", "--served-model-name", "--api-key":
		case "--model":
			l.pool.Model.Ref = "file:" + l.here(value)
		case "--max-model-len":
			if why := l.whole(flag, value, &l.pool.Ctx); why != "" {
				return why
			}
		case "--max-num-seqs":
			if why := l.whole(flag, value, &l.pool.Slots); why != "" {
				return why
			}
		case "--tensor-parallel-size", "-tp", "--gpu-memory-utilization":
			l.leave(l.name+": "+flag, "it follows from the cards of device")
		default:
			l.pool.Provisioning.Args = append(l.pool.Provisioning.Args, flag)
			if value != "" {
				l.pool.Provisioning.Args = append(l.pool.Provisioning.Args, value)
			}
		}
	}
	return ""
}

// finish fills in what follows from several flags, and looks at the model.
func (l *launch) finish() (why string) {
	p := &l.pool
	if p.Model.Ref == "" {
		return "its cmd names no model"
	}
	if p.Slots > 1 {
		l.total /= p.Slots // llama-server divides its context among its slots
	}
	if l.total > 0 {
		p.Ctx = l.total
	}
	l.spread()
	if p.Workload == "" {
		p.Workload = task.Completion
	}
	file, local := strings.CutPrefix(p.Model.Ref, "file:")
	switch {
	case !local:
		l.whys = append(l.whys, "Its model is fetched when it is first needed, if policy lets it.")
		return ""
	case p.Engine == task.VLLM:
		if _, err := hub.Files(file); err != nil {
			return "its model, " + file + ", cannot be used: " + err.Error()
		}
		return ""
	}
	m, kind, err := read(file)
	switch {
	case err != nil:
		return "its model, " + file + ", cannot be used: " + err.Error()
	case kind != kindModel:
		return "its model, " + file + ", is a file of another kind: " + kind
	case m.Workload != task.Completion && p.Workload == task.Completion:
		l.whys = append(l.whys, fmt.Sprintf("Its file says that it is for %ss, so it is.", m.Workload))
		p.Workload = m.Workload
	}
	l.room(m)
	return ""
}

// spread makes the cards and the parts of a model agree.
func (l *launch) spread() {
	p := &l.pool
	if p.Device == config.CPU || p.Engine == task.VLLM {
		p.TensorSplit = nil
		return
	}
	cards := strings.Split(string(p.Device), ",")
	if p.Device == config.Auto && len(p.TensorSplit) > 1 {
		cards = nil
		for i := range p.TensorSplit {
			cards = append(cards, strconv.Itoa(i))
		}
	}
	for len(p.TensorSplit) < len(cards) && len(cards) > 1 { // evenly, as nothing else is said
		p.TensorSplit = append(p.TensorSplit, 1)
	}
	var used []string
	var parts []float64
	for i, card := range cards {
		if i < len(p.TensorSplit) && p.TensorSplit[i] == 0 {
			continue // it holds nothing
		}
		used = append(used, card)
		if i < len(p.TensorSplit) {
			parts = append(parts, p.TensorSplit[i])
		}
	}
	p.Device, p.TensorSplit = config.Device(strings.Join(used, ",")), parts
	if len(used) < 2 {
		p.TensorSplit = nil
	}
}

// room says where a model does not fit.
func (l *launch) room(m Model) {
	ctx := cmp.Or(l.pool.Ctx*max(l.pool.Slots, 1), m.Ctx)
	need := m.OnCard.At(ctx)
	if l.pool.Device != config.Auto {
		return
	}
	largest := slices.MaxFunc(l.Cards, func(a, b Card) int { return cmp.Compare(a.Total, b.Total) })
	if l.pool.Ctx > 0 && need > largest.Total {
		l.whys = append(l.whys, fmt.Sprintf("It takes about %s, and the largest card has %s: it will not load before ctx or the model is smaller, or device names several cards.", size(need), size(largest.Total)))
	}
}

// filters takes along what llama-swap changes in requests.
func (l *launch) filters(m swapModel) {
	known := []string{"temperature", "top_p", "top_k", "min_p", "repeat_penalty", "max_tokens", "seed", "stop"}
	for name := range strings.SplitSeq(m.Filters.Strip, ",") {
		switch name = strings.TrimSpace(name); {
		case name == "":
		case slices.Contains(known, name):
			l.pool.Params.Strip = append(l.pool.Params.Strip, name)
		default:
			l.leave(l.name+": filters.stripParams "+name, "requests have no such parameter here")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Filters.Set)) {
		if why := override(&l.pool.Params.Override, name, m.Filters.Set[name]); why != "" {
			l.leave(l.name+": filters.setParams "+name, why)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.Filters.SetByID)) {
		l.leave(l.name+": filters.setParamsByID "+id, "an alias has params of its own: write it under aliases")
	}
}

// override sets one parameter of requests.
func override(s *config.Settings, name string, value any) (why string) {
	n, err := strconv.ParseFloat(fmt.Sprint(value), 64)
	if err != nil {
		return "only numbers are taken along"
	}
	exact, whole := &n, new(int(n))
	switch {
	case name == "temperature" && n >= 0 && n <= 5:
		s.Temperature = exact
	case name == "top_p" && n >= 0 && n <= 1:
		s.TopP = exact
	case name == "min_p" && n >= 0 && n <= 1:
		s.MinP = exact
	case name == "repeat_penalty" && n >= 0.1 && n <= 5:
		s.RepeatPenalty = exact
	case name == "top_k" && n >= 0 && n <= 1e6:
		s.TopK = whole
	case name == "max_tokens" && n >= 1 && n <= 1<<24:
		s.MaxTokens = whole
	case name == "seed" && n >= 0 && n <= 1<<32-2:
		s.Seed = whole
	default:
		return "there is no such parameter here, or its value is out of range"
	}
	return ""
}
