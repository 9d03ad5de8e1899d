// SPDX-License-Identifier: GPL-3.0-or-later

package setup

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	// margin is left free on each card, as estimates are not exact. Pools leave as much when they fit a context.
	margin = 1.05
	// hostShare is the part of the host's memory that models may take.
	hostShare = 0.75
	// cardContext is what each further card of a model takes beside its part: CUDA's context, its kernels.
	cardContext = 300 << 20
	// unknownCtx is the context of a model that does not tell its own.
	unknownCtx = 4096
	// mostPools is how many pools a configuration has.
	mostPools = 32
	// host stands for the host's memory among the cards.
	host = -1
)

// The contexts that are proposed. A chat with a file or two fits 8192 tokens; who wants more than the last writes it.
var (
	leastCtx = []int{8192, 4096, 2048}
	moreCtx  = []int{12288, 16384, 24576, 32768}
)

// spot is a model, and where it goes.
type spot struct {
	m      Model
	engine string // a task kind
	cards  []int  // host alone: on the CPU
	split  []float64
	ctx    int
	shared bool // with others that do not fit beside it
	why    string
}

// planner deals models out over the memory there is.
type planner struct {
	s    Seen
	room map[int]int64 // of each card, and of the host, if nothing of ours is there
	free map[int]int64 // what is left of it
	all  []*spot
	left []Left

	server, vllm *Engine
	blind        bool // there are cards, and the llama-server sees none
}

// Propose proposes a pool for each model that this machine can run.
func Propose(s Seen) (Proposal, error) {
	p := &planner{s: s, room: map[int]int64{host: int64(float64(s.Memory) * hostShare)}, free: map[int]int64{}, left: slices.Clone(s.Left)}
	for i := range s.Engines {
		switch s.Engines[i].Name {
		case llamaServer:
			p.server = &s.Engines[i]
		case vllmProgram:
			p.vllm = &s.Engines[i]
		}
	}
	p.blind = len(s.Cards) > 0 && p.server != nil && p.server.Devices == 0
	for _, c := range s.Cards {
		p.room[c.Index] = int64(float64(c.Free) / margin)
	}
	maps.Copy(p.free, p.room)
	models := slices.Clone(s.Models)
	slices.SortStableFunc(models, func(a, b Model) int { return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name)) })
	for _, m := range models {
		if why := p.place(m); why != "" {
			p.left = append(p.left, Left{m.Path, why})
		}
	}
	p.share()
	p.grow()
	if len(p.all) == 0 {
		return Proposal{Left: p.left}, fmt.Errorf("%w: looked in %s; put a .gguf file into one of them, or name its folder with --models FOLDER",
			ErrNothing, strings.Join(s.Looked, ", "))
	}
	return p.proposal(), nil
}

// place finds a place for a model, or says why there is none.
func (p *planner) place(m Model) (why string) {
	if len(p.all) == mostPools {
		return fmt.Sprintf("a configuration has at most %d pools", mostPools)
	}
	at := &spot{m: m, engine: task.LlamaCpp}
	switch {
	case m.Hub && p.vllm == nil:
		return "its files are for vllm, which is not in PATH; a GGUF file of it would run here"
	case m.Hub && len(p.s.Cards) == 0:
		return "vllm needs a GPU, and there is none that can be used"
	case m.Hub:
		at.engine = task.VLLM
	case p.server == nil && m.Workload == task.Rerank:
		return "to rerank needs a llama-server, which is not in PATH"
	case p.server == nil && len(m.Args) > 0:
		return "it needs a llama-server, which is not in PATH, for " + strings.Join(m.Args, " ")
	}
	if at.engine == task.LlamaCpp && (len(p.s.Cards) == 0 || p.blind || m.Bundled) {
		return p.onHost(at)
	}
	return p.onCards(at)
}

func (p *planner) onHost(at *spot) string {
	need := at.m.OnHost
	for _, at.ctx = range at.m.least() {
		bytes := need.At(at.ctx)
		if bytes > p.room[host] {
			continue
		}
		at.cards = []int{host}
		if at.shared = bytes > p.free[host]; !at.shared {
			p.free[host] -= bytes
		}
		p.all = append(p.all, at)
		return ""
	}
	return fmt.Sprintf("it takes %s with a context of %d tokens, and models may take %s of this machine's memory", size(need.At(at.ctx)), at.ctx, size(p.room[host]))
}

// onCards takes the smallest card that has the room, so that large ones stay free for large models; then the smallest that would have it if it
// were empty; then all of them together.
func (p *planner) onCards(at *spot) string {
	byRoom := p.cards()
	for _, at.ctx = range at.m.least() {
		need := at.m.OnCard.At(at.ctx)
		for _, has := range []map[int]int64{p.free, p.room} {
			for _, c := range byRoom {
				if has[c] < need {
					continue
				}
				at.cards = []int{c}
				if at.shared = p.free[c] < need; !at.shared {
					p.free[c] -= need
				}
				p.all = append(p.all, at)
				return ""
			}
		}
	}
	largest := byRoom[len(byRoom)-1]
	lacks := fmt.Sprintf("it takes %s with a context of %d tokens, and the largest card, %s, has %s", size(at.m.OnCard.At(at.ctx)), at.ctx, p.card(largest), size(p.room[largest]))
	if len(byRoom) == 1 {
		return lacks + ": on the CPU it would be slow, so no pool is written for it; `device: cpu` has it there"
	}
	if at.engine == task.LlamaCpp && p.server == nil {
		return lacks + ": only a llama-server, which is not in PATH, splits a model over several cards"
	}
	return p.onAll(at, byRoom, lacks)
}

// onAll splits a model over all cards, a part for each by its room. vLLM splits evenly.
func (p *planner) onAll(at *spot, byRoom []int, lacks string) string {
	slices.Sort(byRoom)
	var sum int64
	least := int64(math.MaxInt64)
	for _, c := range byRoom {
		sum += p.room[c]
		least = min(least, p.room[c])
	}
	if at.engine == task.VLLM {
		sum = least * int64(len(byRoom))
	}
	for _, at.ctx = range at.m.least() {
		if at.m.OnCard.At(at.ctx)+cardContext*int64(len(byRoom)-1) > sum {
			continue
		}
		at.cards, at.shared = byRoom, true
		if at.engine == task.LlamaCpp {
			for _, c := range byRoom {
				at.split = append(at.split, math.Round(float64(p.room[c])/(1<<30)*10)/10)
			}
		}
		at.why = fmt.Sprintf("No card holds it alone, so it is split over %s.", p.named(byRoom))
		p.all = append(p.all, at)
		return ""
	}
	return lacks + fmt.Sprintf("; all together have %s", size(sum))
}

// least are the contexts that are tried, the best first, up to the model's own.
func (m Model) least() []int {
	own := cmp.Or(m.Ctx, unknownCtx)
	if m.Asked > 0 {
		return []int{min(m.Asked, own)}
	}
	if own < leastCtx[len(leastCtx)-1] {
		return []int{own}
	}
	var all []int
	for _, ctx := range leastCtx {
		all = append(all, min(ctx, own))
	}
	return slices.Compact(all)
}

// share marks everything that is where something is that does not fit beside it: they all come and go as tasks need them.
func (p *planner) share() {
	for changed := true; changed; {
		changed = false
		for _, a := range p.all {
			for _, b := range p.all {
				if a.shared && !b.shared && slices.ContainsFunc(a.cards, func(c int) bool { return slices.Contains(b.cards, c) }) {
					b.shared, changed = true, true
				}
			}
		}
	}
}

// grow gives models more context where there is room. A model that comes and goes has its cards to itself.
func (p *planner) grow() {
	for _, want := range moreCtx {
		for _, at := range p.all {
			if own := cmp.Or(at.m.Ctx, unknownCtx); at.m.Asked > 0 || at.ctx < leastCtx[0] || at.m.Workload != task.Completion || want > own || want <= at.ctx {
				continue
			}
			need, place := at.m.OnCard, at.cards[0]
			if place == host {
				need = at.m.OnHost
			}
			switch more := need.At(want) - need.At(at.ctx); {
			case len(at.cards) > 1 && need.At(want)+cardContext*int64(len(at.cards)-1) > p.sum(at),
				len(at.cards) == 1 && at.shared && need.At(want) > p.room[place],
				len(at.cards) == 1 && !at.shared && more > p.free[place]:
			default:
				if !at.shared {
					p.free[place] -= more
				}
				at.ctx = want
			}
		}
	}
}

// sum is the room of a model's cards together.
func (p *planner) sum(at *spot) (sum int64) {
	least := int64(math.MaxInt64)
	for _, c := range at.cards {
		sum += p.room[c]
		least = min(least, p.room[c])
	}
	if len(at.split) == 0 {
		return least * int64(len(at.cards))
	}
	return sum
}

// cards are the cards' indices, those with the least room first.
func (p *planner) cards() []int {
	var all []int
	for _, c := range p.s.Cards {
		all = append(all, c.Index)
	}
	slices.SortStableFunc(all, func(a, b int) int { return cmp.Or(cmp.Compare(p.room[a], p.room[b]), cmp.Compare(a, b)) })
	return all
}

func (p *planner) card(index int) string {
	for _, c := range p.s.Cards {
		if c.Index == index {
			return fmt.Sprintf("GPU %d (%s)", index, c.Name)
		}
	}
	return "the CPU"
}

func (p *planner) named(cards []int) string {
	var names []string
	for _, c := range cards {
		names = append(names, p.card(c))
	}
	return strings.Join(names, " and ")
}

// proposal writes down what was decided, with the reasons.
func (p *planner) proposal() Proposal {
	out := Proposal{Head: p.head(), Aliases: map[string]string{}, Profiles: map[string]config.SamplerProfile{}, Left: p.left}
	ids, models := map[string]bool{}, map[string]bool{}
	for _, at := range p.all {
		pool := config.Pool{
			ID: unique(slug(at.m.Name), ids), Engine: at.engine, Workload: at.m.Workload, TensorSplit: at.split, Ctx: at.ctx, Params: at.m.Params,
			Model: config.Model{ID: unique(modelID(at.m.Name), models), Ref: "file:" + at.m.Path},
		}
		for _, alias := range at.m.Aliases {
			if alias = modelID(alias); !models[alias] {
				models[alias], out.Aliases[alias] = true, pool.Model.ID
			}
		}
		p.device(&pool, at)
		p.program(&pool, at)
		if at.m.Sample != nil {
			pool.SamplerProfile = pool.ID
			out.Profiles[pool.ID] = *at.m.Sample
		}
		out.Pools = append(out.Pools, Pool{pool, append(p.whys(at), at.m.Whys...)})
	}
	return out
}

func (p *planner) device(pool *config.Pool, at *spot) {
	var cards []string
	for _, c := range at.cards {
		cards = append(cards, strconv.Itoa(c))
	}
	pool.Device = config.Device(strings.Join(cards, ","))
	if at.cards[0] == host {
		pool.Device = config.CPU
	}
	if at.shared {
		pool.Lifecycle = config.LifecycleOnDemand
	}
}

func (p *planner) program(pool *config.Pool, at *spot) {
	switch {
	case at.engine == task.VLLM:
		pool.Provisioning = config.Provisioning{Mode: config.ModeBinary, Path: p.vllm.Path}
	case p.server != nil && !at.m.Bundled:
		pool.Provisioning = config.Provisioning{Mode: config.ModeBinary, Path: p.server.Path, Args: at.m.Args}
	default:
		pool.Provisioning = config.Provisioning{Mode: config.ModeBuiltin}
	}
}

func (p *planner) head() []string {
	what := []string{size(p.s.Memory) + " of memory"}
	for _, c := range p.s.Cards {
		what = append(what, fmt.Sprintf("GPU %d, %s, has %s of %s free", c.Index, c.Name, size(c.Free), size(c.Total)))
	}
	for _, e := range p.s.Engines {
		what = append(what, e.Name+" is "+e.Path)
	}
	head := []string{"What is here: " + strings.Join(what, "; ") + "."}
	switch {
	case len(p.s.Cards) == 0 && p.s.NoCards != "":
		head = append(head, "No GPU can be used, so everything is on the CPU: "+p.s.NoCards+".")
	case p.blind:
		head = append(head, "The llama-server sees no GPU, so everything is on the CPU: build one with CUDA, and run init again.")
	case p.server == nil && slices.ContainsFunc(p.all, func(at *spot) bool { return at.cards[0] != host && at.engine == task.LlamaCpp }):
		head = append(head, "No llama-server is in PATH, so the built-in worker computes on the GPUs: it needs libraries with CUDA (orchestratord libs --cuda).")
	}
	for _, c := range p.s.Cards {
		if held := c.Total - c.Free; held > c.Total/8 {
			head = append(head, fmt.Sprintf("Other programs hold %s of %s, and these pools count with what is free now: end them and run init again to use it all.", size(held), p.card(c.Index)))
		}
	}
	return head
}

// whys are the reasons for a pool, as sentences.
func (p *planner) whys(at *spot) (whys []string) {
	need := at.m.OnCard.At(at.ctx)
	if at.cards[0] == host {
		need = at.m.OnHost.At(at.ctx)
	}
	kind := at.m.Architecture
	if at.m.Quantisation != "" {
		kind = strings.TrimSpace(kind + " " + at.m.Quantisation)
	}
	whys = append(whys, fmt.Sprintf("%s, from %s: %s, %s of files; about %s with a context of %d tokens.", at.m.Name, at.m.From, cmp.Or(kind, "of unknown kind"), size(at.m.Bytes), size(need), at.ctx))
	switch {
	case at.why != "":
		whys = append(whys, at.why)
	case at.cards[0] == host:
		whys = append(whys, fmt.Sprintf("It runs on the CPU, where models may take %s.", size(p.room[host])))
	case len(p.s.Cards) > 1:
		whys = append(whys, fmt.Sprintf("%s is the smallest card with room for it.", p.card(at.cards[0])))
	default:
		whys = append(whys, p.card(at.cards[0])+" has room for it.")
	}
	if at.shared {
		var others []string
		for _, b := range p.all {
			if b != at && slices.ContainsFunc(b.cards, func(c int) bool { return slices.Contains(at.cards, c) }) {
				others = append(others, b.m.Name)
			}
		}
		if len(others) > 0 {
			whys = append(whys, "There is not room for all of it beside "+strings.Join(others, ", ")+", so each is loaded when a task needs it.")
		} else {
			whys = append(whys, "It is loaded when a task needs it.")
		}
	}
	if own := cmp.Or(at.m.Ctx, unknownCtx); own > at.ctx && at.m.Asked == 0 {
		whys = append(whys, fmt.Sprintf("The model itself could have %d tokens; a smaller context leaves room.", own))
	}
	if at.engine == task.LlamaCpp && at.m.Workload == task.Completion && !at.m.Template {
		whys = append(whys, "Its file has no template for chats, so llama-server takes a common one: use it for plain completions.")
	}
	return whys
}
