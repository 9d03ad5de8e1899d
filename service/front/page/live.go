// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/internal/plainjson"
	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	lookEvery = time.Second // at the server, while a page is open
	lookOften = time.Second / 2
	maxPages  = 64
	keptMost  = 64      // patches
	keptBytes = 1 << 20 // of them together
)

// patch is what changed with one look, as its event's data.
type patch struct {
	seq  int
	data []byte
}

// publisher looks at the server for all pages. It runs while a page is open.
type publisher struct {
	drawer

	log  *zap.Logger
	life lifecycle.Life
	run  string        // of the server
	over chan struct{} // closed by Stop

	looks sync.Mutex // held during a look
	mu    sync.Mutex
	drawn []group // as of the last look
	seq   int
	at    time.Time // of the last look
	kept  []patch
	pages map[chan struct{}]struct{} // each gets a sign when there is a patch
	loops bool
	ended bool
}

func newPublisher(v Views, log *zap.Logger) *publisher {
	b := make([]byte, 6)
	_, _ = rand.Read(b) // it never fails
	return &publisher{
		drawer: newDrawer(v, time.Now), log: log, run: hex.EncodeToString(b), over: make(chan struct{}), pages: map[chan struct{}]struct{}{},
	}
}

// Start lets pages follow. It implements lifecycle.Service.
func (p *publisher) Start(context.Context) error {
	p.life.Begin()
	return nil
}

// Stop ends all streams. It implements lifecycle.Service.
func (p *publisher) Stop(ctx context.Context) error {
	p.mu.Lock()
	if !p.ended {
		p.ended = true
		close(p.over)
	}
	p.mu.Unlock()
	return p.life.End(ctx, nil)
}

// snapshot is everything as it was at one look. Its id is that of the look.
type snapshot struct {
	id     string
	groups []group
}

// now is the server now, for a page that is being opened.
func (p *publisher) now(ctx context.Context) snapshot {
	p.mu.Lock()
	fresh := p.loops && time.Since(p.at) < 2*lookEvery
	p.mu.Unlock()
	if !fresh {
		p.look(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return snapshot{p.id(p.seq), p.drawn}
}

func (p *publisher) id(seq int) string { return p.run + "-" + strconv.Itoa(seq) }

// look draws everything anew, and keeps what changed. It reports whether tasks run.
func (p *publisher) look(ctx context.Context) (busy bool) {
	p.looks.Lock()
	defer p.looks.Unlock()
	drawn, busy := p.draw(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = time.Now()
	changes := differences(p.drawn, drawn)
	p.drawn = drawn
	if len(changes) == 0 {
		return busy
	}
	p.seq++
	p.kept = append(p.kept, patch{p.seq, encode(changes)})
	size := 0
	for i, k := range slices.Backward(p.kept) {
		if size += len(k.data); size > keptBytes || len(p.kept)-i > keptMost {
			p.kept = slices.Delete(p.kept, 0, i+1)
			break
		}
	}
	for sign := range p.pages {
		select {
		case sign <- struct{}{}:
		default:
		}
	}
	return busy
}

// follow has the server looked at for a page, until leave is called. It returns what tells the page that there is something new.
func (p *publisher) follow() (sign chan struct{}, leave func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ended:
		return nil, nil, task.Errorf(task.ShuttingDown, "the orchestrator is stopping: the page comes back with it").Retry(lookEvery)
	case len(p.pages) >= maxPages:
		return nil, nil, task.Errorf(task.AdmissionReject, "%d status pages are open, and there can be no more: close one", maxPages).Retry(lookEvery)
	}
	sign = make(chan struct{}, 1)
	p.pages[sign] = struct{}{}
	if !p.loops {
		p.loops = p.life.Go(func(ctx context.Context) {
			contain.Loop(ctx, p.log, "the look at the server for the status page panicked, and is tried again", p.loop)
		})
	}
	return sign, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.pages, sign)
	}, nil
}

// loop looks as long as somebody wants to know.
func (p *publisher) loop(ctx context.Context) {
	for {
		every := lookEvery
		if p.look(ctx) {
			every = lookOften
		}
		if !lifecycle.Pause(ctx, every) {
			return
		}
		p.mu.Lock()
		if len(p.pages) == 0 {
			p.loops = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
	}
}

// since are the patches behind the one with an id. False: it is not known any more, and the page needs everything.
func (p *publisher) since(id string) ([]patch, bool) {
	run, number, _ := strings.Cut(id, "-")
	seq, err := strconv.Atoi(number)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || run != p.run || seq > p.seq {
		return nil, false
	}
	behind := p.seq - seq
	if behind > len(p.kept) {
		return nil, false
	}
	return slices.Clone(p.kept[len(p.kept)-behind:]), true
}

// all is everything as one patch.
func (p *publisher) all() patch {
	p.mu.Lock()
	defer p.mu.Unlock()
	return patch{p.seq, encode(differences(nil, p.drawn))}
}

// row is a part of the page that changes as a whole. Its HTML has the key as data-key.
type row struct{ key, html string }

// group is a list of rows.
type group struct {
	name string
	rows []row
}

// change is what became of a group.
type change struct {
	Order []string          `json:"o,omitempty"` // the keys, where they or their order changed
	Gone  bool              `json:"x,omitempty"` // it has no rows any more
	Rows  map[string]string `json:"r,omitempty"` // the HTML of those that are new or differ
}

// differences are what makes one drawing of the other. Groups are the same in each, and in the same order.
func differences(was, is []group) map[string]change {
	out := map[string]change{}
	for i, g := range is {
		var old []row
		if was != nil {
			old = was[i].rows
		}
		var c change
		before := make(map[string]string, len(old))
		for _, r := range old {
			before[r.key] = r.html
		}
		for _, r := range g.rows {
			if html, known := before[r.key]; !known || html != r.html {
				if c.Rows == nil {
					c.Rows = map[string]string{}
				}
				c.Rows[r.key] = r.html
			}
		}
		if was == nil || !slices.EqualFunc(old, g.rows, func(a, b row) bool { return a.key == b.key }) {
			for _, r := range g.rows {
				c.Order = append(c.Order, r.key)
			}
			c.Gone = len(g.rows) == 0
		}
		if c.Rows != nil || c.Order != nil || c.Gone {
			out[g.name] = c
		}
	}
	return out
}

func encode(changes map[string]change) []byte {
	b, err := plainjson.Encode(changes)
	if err != nil {
		panic("page: " + err.Error()) // texts always encode
	}
	return b
}

// named is a group of a drawing.
func (s snapshot) named(name string) []row {
	if i := slices.IndexFunc(s.groups, func(g group) bool { return g.name == name }); i >= 0 {
		return s.groups[i].rows
	}
	return nil
}

// frame is a patch as an event.
func (p *publisher) frame(c patch) []byte {
	return fmt.Appendf(nil, "id: %s\nevent: patch\ndata: %s\n\n", p.id(c.seq), c.data)
}

// steady keeps the predicted starts that a page shows, so that a prediction that is a little off does not change each row at each look.
type steady map[string]time.Time

// of is what is shown of a task's start: what was shown before, unless it differs by more than a tenth of the wait.
func (s steady) of(id string, at, now time.Time) time.Time {
	was, known := s[id]
	if off := at.Sub(was).Abs(); known && off <= max(2*time.Second, at.Sub(now)/10) {
		return was
	}
	return at
}

// keep forgets all others.
func (s steady) keep(shown steady) {
	clear(s)
	maps.Copy(s, shown)
}
