// SPDX-License-Identifier: GPL-3.0-or-later

package setup_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/nvmlstub"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/task"
	"github.com/llama-orch/llama-orch/setup"
)

var update = flag.Bool("update", false, "write the golden files anew")

// nvml is the path of the stand-in for the driver's library.
var nvml string

func TestMain(m *testing.M) { nvmlstub.Main(m, &nvml) }

const (
	gib   = 1 << 30
	haiku = "../models/haiku/haiku.gguf"
)

// box is a made-up machine: a folder with programs and files that begin as models do.
type box struct {
	t   *testing.T
	dir string
}

func newBox(t *testing.T, programs ...string) box {
	b := box{t, t.TempDir()}
	for _, name := range programs {
		b.file("bin/"+name, "#!/bin/sh\nexit 1\n", 0o755)
	}
	return b
}

func (b box) file(name, text string, mode os.FileMode) string {
	path := filepath.Join(b.dir, name)
	require.NoError(b.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(b.t, os.WriteFile(path, []byte(text), mode))
	return path
}

// model is one whose memory is a line: so much for its weights, and so many KiB a token.
func (b box) model(name string, weights float64, kib int, own int) setup.Model {
	bytes := int64(weights * gib)
	return setup.Model{
		Name: name, Path: b.file("models/"+name+".gguf", "GGUF", 0o644), From: "~/models", Workload: task.Completion, Architecture: "qwen3", Quantisation: "Q4_K_M",
		Bytes: bytes, Ctx: own, Template: true,
		OnCard: setup.Need{Fixed: bytes + 500<<20, Token: int64(kib) << 10}, OnHost: setup.Need{Fixed: bytes + 100<<20, Token: int64(kib) << 10},
	}
}

func (b box) engine(name string, devices int) setup.Engine {
	return setup.Engine{Name: name, Path: filepath.Join(b.dir, "bin", name), Devices: devices}
}

func (b box) env(key string) string {
	return map[string]string{"HOME": filepath.Join(b.dir, "home"), "PATH": filepath.Join(b.dir, "bin")}[key]
}

// daemon is orchestratord, built once.
var daemon = sync.OnceValues(func() (string, error) {
	exe := filepath.Join(filepath.Dir(nvml), "orchestratord") // in the folder that goes when all tests have ended
	out, err := exec.Command("go", "build", "-o", exe, "../cmd/orchestratord").CombinedOutput()
	if err != nil {
		return string(out), err
	}
	return exe, nil
})

// checked writes a configuration the way init does, runs `orchestratord check` on it, and compares it with the golden file.
func (b box) checked(golden string, p setup.Proposal) string {
	b.t.Helper()
	path := filepath.Join(b.dir, "llama-orch.yaml")
	text := p.YAML()
	require.NoError(b.t, setup.Write(path, text, false, b.env), "%s", text)
	exe, err := daemon()
	require.NoError(b.t, err, exe)
	b.t.Cleanup(func() { require.NoError(b.t, os.RemoveAll(path)) })
	cmd := exec.Command(exe, "check", "--config", path)
	cmd.Env = process.Env(filepath.Join(b.dir, "home"), nil)
	out, err := cmd.CombinedOutput()
	require.NoError(b.t, err, "%s\n%s", out, text)
	shown := string(b.anywhere(p).YAML())
	file := filepath.Join("testdata", golden+".yaml")
	if *update {
		require.NoError(b.t, os.WriteFile(file, []byte(shown), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(b.t, err)
	require.Equal(b.t, string(want), shown)
	return string(out)
}

// anywhere is a proposal as it would be if the machine's folder were /box, since lines are broken by their length.
func (b box) anywhere(p setup.Proposal) setup.Proposal {
	out := p
	all := func(texts []string) (other []string) {
		for _, text := range texts {
			other = append(other, strings.ReplaceAll(text, b.dir, "/box"))
		}
		return other
	}
	out.Head, out.Left, out.Pools = all(p.Head), nil, nil
	for _, l := range p.Left {
		texts := all([]string{l.What, l.Why})
		out.Left = append(out.Left, setup.Left{What: texts[0], Why: texts[1]})
	}
	for _, pool := range p.Pools {
		texts := all([]string{pool.Model.Ref, pool.Provisioning.Path})
		pool.Whys, pool.Model.Ref, pool.Provisioning.Path, pool.Provisioning.Args = all(pool.Whys), texts[0], texts[1], all(pool.Provisioning.Args)
		out.Pools = append(out.Pools, pool)
	}
	return out
}

var (
	large = setup.Card{Index: 0, Name: "RTX 3090", Total: 24 * gib, Free: 24*gib - 300<<20}
	small = setup.Card{Index: 1, Name: "RTX 3060", Total: 12 * gib, Free: 12*gib - 200<<20}
)

// LO-930: what is proposed for a machine, why, and that the daemon takes it.
func TestProposals(t *testing.T) {
	for name, seen := range map[string]func(b box) setup.Seen{
		"two-cards-swap": func(b box) setup.Seen { // the coder and the reviewer share the large card, the chat has the small one
			embedder := b.model("nomic-embed", 0.3, 4, 2048)
			embedder.Workload = task.Embedding
			return setup.Seen{
				Cards: []setup.Card{large, small}, Memory: 64 * gib, Engines: []setup.Engine{b.engine("llama-server", 2), b.engine("ollama", -1)},
				Models: []setup.Model{b.model("coder-32b", 18.5, 256, 131072), b.model("reviewer-14b", 8.4, 192, 131072), b.model("chat-8b", 7.9, 128, 131072), embedder},
			}
		},
		"two-cards-pinned": func(b box) setup.Seen {
			return setup.Seen{
				Cards: []setup.Card{large, small}, Memory: 64 * gib, Engines: []setup.Engine{b.engine("llama-server", 2)},
				Models: []setup.Model{b.model("coder-14b", 8.4, 192, 40960), b.model("chat-8b", 4.6, 128, 8192)},
			}
		},
		"split": func(b box) setup.Seen {
			return setup.Seen{
				Cards: []setup.Card{large, small}, Memory: 64 * gib, Engines: []setup.Engine{b.engine("llama-server", 2)},
				Models: []setup.Model{b.model("llama-70b-q3", 29, 320, 131072), b.model("chat-8b", 4.6, 128, 131072), b.model("grok", 200, 320, 131072)},
			}
		},
		"busy-card": func(b box) setup.Seen {
			card := large
			card.Free = 10 * gib
			projected := b.model("seeing-4b", 2.5, 128, 32768)
			projected.Args = []string{"--mmproj", b.file("models/mmproj.gguf", "GGUF", 0o644)}
			return setup.Seen{
				Cards: []setup.Card{card}, Memory: 32 * gib, Engines: []setup.Engine{b.engine("llama-server", -1)},
				Models: []setup.Model{b.model("coder-32b", 18.5, 256, 131072), projected},
			}
		},
		"no-gpu": func(b box) setup.Seen {
			ranker := b.model("ranker", 0.6, 4, 512)
			ranker.Workload = task.Rerank
			plain := b.model("Old Model", 12, 128, 2048)
			plain.Template, plain.Architecture = false, ""
			return setup.Seen{
				NoCards: "the NVIDIA driver is not installed", Memory: 32 * gib, Models: []setup.Model{b.model("chat-8b", 4.6, 128, 131072), plain, b.model("huge", 90, 1, 4096), ranker, b.model("second", 13, 128, 4096)},
			}
		},
		"vllm": func(b box) setup.Seen {
			hub := b.model("Qwen3-8B", 15, 144, 40960)
			hub.Hub, hub.Path, hub.Architecture, hub.Quantisation = true, filepath.Dir(b.file("hub/config.json", "{}", 0o644)), "", "safetensors"
			second := hub
			second.Name, second.Bytes = "too-large", 80*gib
			second.OnCard.Fixed = 80 * gib
			return setup.Seen{Cards: []setup.Card{large, small}, Memory: 64 * gib, Engines: []setup.Engine{b.engine("vllm", -1)}, Models: []setup.Model{hub, second, b.model("chat-8b", 4.6, 128, 131072)}}
		},
		"blind-server": func(b box) setup.Seen {
			bundled := b.model("haiku", 0.002, 1, 256)
			bundled.Bundled = true
			return setup.Seen{Cards: []setup.Card{large}, Memory: 16 * gib, Engines: []setup.Engine{b.engine("llama-server", 0)}, Models: []setup.Model{b.model("chat-8b", 4.6, 128, 131072), bundled}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "llama-server", "vllm")
			p, err := setup.Propose(seen(b))
			require.NoError(t, err)
			out := b.checked(name, p)
			for _, pool := range p.Pools {
				require.Contains(t, out, "Pool '"+pool.ID+"'")
				require.NotEmpty(t, pool.Whys)
			}
		})
	}
}

// LO-930: no card is given more than it has, whatever the models.
func TestProposalsFit(t *testing.T) {
	b := newBox(t, "llama-server")
	var all []setup.Model
	for i, weights := range []float64{0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 19, 21, 23, 28, 33} {
		all = append(all, b.model("m"+string(rune('a'+i)), weights, 16*(1+i%8), 1024<<(i%8)))
	}
	for from := range all {
		for to := from + 1; to <= len(all); to++ {
			p, err := setup.Propose(setup.Seen{Cards: []setup.Card{large, small}, Memory: 64 * gib, Engines: []setup.Engine{b.engine("llama-server", 2)}, Models: all[from:to]})
			if err != nil {
				require.ErrorIs(t, err, setup.ErrNothing)
				continue
			}
			require.Len(t, all[from:to], len(p.Pools)+len(p.Left))
			pinned, one := map[string]int64{}, map[string]int64{"0": large.Free, "1": small.Free, "0,1": large.Free + small.Free}
			for _, pool := range p.Pools {
				for _, m := range all[from:to] {
					if pool.Model.ID != m.Name {
						continue
					}
					need := m.OnCard.At(pool.Ctx)
					require.LessOrEqual(t, need, one[string(pool.Device)], "%s on %s", m.Name, pool.Device)
					require.LessOrEqual(t, pool.Ctx, m.Ctx)
					if pool.Lifecycle != config.LifecycleOnDemand {
						pinned[string(pool.Device)] += need
					}
				}
			}
			for device, bytes := range pinned {
				require.LessOrEqual(t, bytes, one[device])
			}
		}
	}
}

// LO-930: what is there stays as it is, and what the daemon would refuse is not written.
func TestNothingIsOverwritten(t *testing.T) {
	b := newBox(t, "llama-server")
	p, err := setup.Propose(setup.Seen{Memory: 32 * gib, Models: []setup.Model{b.model("chat", 4, 128, 4096)}})
	require.NoError(t, err)
	path := b.file("c.yaml", "mine", 0o600)
	require.ErrorIs(t, setup.Write(path, p.YAML(), false, b.env), setup.ErrExists)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "mine", string(text))
	require.NoError(t, setup.Write(path, p.YAML(), true, b.env))
	text, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(p.YAML()), string(text))

	p.Pools[0].Device = "7,7,7" // without tensor_split
	other := filepath.Join(b.dir, "other.yaml")
	require.ErrorContains(t, setup.Write(other, p.YAML(), false, b.env), "does not pass the check")
	require.NoFileExists(t, other)

	_, err = setup.Propose(setup.Seen{Memory: gib, Looked: []string{"/a", "/b"}})
	require.ErrorIs(t, err, setup.ErrNothing)
	require.ErrorContains(t, err, "looked in /a, /b; put a .gguf file into one of them")
}

// LO-930: names and reasons from outside cannot become settings.
func TestNamesFromOutsideStayText(t *testing.T) {
	b := newBox(t)
	m := b.model("x", 1, 1, 4096)
	m.Name, m.From, m.Whys = "Ünï \"x\": {y}\n- id: z", "a\npools: []\nfolder", []string{"one\r\n    ctx: 5\n"}
	m.Aliases = []string{"a: b\n", "true", "*"}
	p, err := setup.Propose(setup.Seen{Memory: 32 * gib, Models: []setup.Model{m}, Left: []setup.Left{{What: "x\ny: 1", Why: "z\x1b[31m"}}})
	require.NoError(t, err)
	c, err := config.Parse(filepath.Join(b.dir, "c.yaml"), p.YAML(), b.env)
	require.NoError(t, err, "%s", p.YAML())
	require.Len(t, c.Pools, 1)
	require.Equal(t, 4096, c.Pools[0].Ctx)
	require.Regexp(t, "^[a-z0-9._-]+$", c.Pools[0].ID)
	require.NotContains(t, string(p.YAML()), "\x1b")
}
