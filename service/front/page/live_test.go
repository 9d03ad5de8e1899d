// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/task"
)

// client keeps what a page would show.
type client map[string][]row

// apply does what live.js does.
func (c client) apply(changes map[string]change) {
	for name, ch := range changes {
		have := map[string]string{}
		for _, r := range c[name] {
			have[r.key] = r.html
		}
		maps.Copy(have, ch.Rows)
		order := ch.Order
		if order == nil && !ch.Gone {
			for _, r := range c[name] {
				order = append(order, r.key)
			}
		}
		rows := []row{}
		for _, k := range order {
			rows = append(rows, row{k, have[k]})
		}
		c[name] = rows
	}
}

// LO-606: whatever changes, the differences make one drawing of the other; and where nothing changes there are none.
func TestPropertyDifferencesMakeTheNextDrawing(t *testing.T) {
	keys := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), 0, 5, rapid.ID)
	draw := func(t *rapid.T) []group {
		var all []group
		for _, name := range []string{"running", "waiting"} {
			g := group{name: name}
			for _, k := range keys.Draw(t, "keys") {
				g.rows = append(g.rows, row{k, fmt.Sprint(k, rapid.IntRange(0, 2).Draw(t, "html"))})
			}
			all = append(all, g)
		}
		return all
	}
	rapid.Check(t, func(t *rapid.T) {
		shown, was := client{}, []group(nil)
		for range rapid.IntRange(1, 6).Draw(t, "looks") {
			is := draw(t)
			changes := differences(was, is)
			var sent map[string]change
			require.NoError(t, json.Unmarshal(encode(changes), &sent))
			shown.apply(sent)
			for _, g := range is {
				require.True(t, slices.Equal(g.rows, shown[g.name]), "%v is %v", g.rows, shown[g.name])
			}
			for name, c := range changes {
				for k, html := range c.Rows {
					require.False(t, was != nil && slices.Contains(was[index(was, name)].rows, row{k, html}), "it was sent before")
				}
			}
			require.Empty(t, differences(is, is))
			was = is
		}
	})
}

func index(groups []group, name string) int {
	return slices.IndexFunc(groups, func(g group) bool { return g.name == name })
}

// LO-606: a page that comes back gets what it has missed; one that was away for too long, or followed another run, gets everything.
func TestAPageResumes(t *testing.T) {
	b := &box{}
	p := newPublisher(b, zap.NewNop())
	for i := range 3 {
		b.set(func() { b.live = []task.Live{running("a", i)} })
		p.look(t.Context())
	}
	require.Equal(t, 3, p.seq)
	missed, known := p.since(p.id(1))
	require.True(t, known)
	require.Len(t, missed, 2)
	require.Equal(t, 2, missed[0].seq)
	missed, known = p.since(p.id(3))
	require.True(t, known)
	require.Empty(t, missed)
	p.look(t.Context())
	require.Equal(t, 3, p.seq, "nothing changed, so there is no patch")
	for _, id := range []string{"", "x", "other-2", p.id(4), p.id(-1), p.run, p.run + "-"} {
		_, known := p.since(id)
		require.False(t, known, id)
	}
	for i := range keptMost {
		b.set(func() { b.live = []task.Live{running("a", 10+i)} })
		p.look(t.Context())
	}
	require.Len(t, p.kept, keptMost)
	_, known = p.since(p.id(1))
	require.False(t, known, "it is not kept any more")
	require.Equal(t, p.seq, p.all().seq)
}

// LO-606: a page that is gone before it is drawn leaves no half drawing to the others.
func TestAPageThatIsGoneLeavesNoHalfDrawing(t *testing.T) {
	b := &box{live: []task.Live{running("empty", 1)}}
	p := newPublisher(b, zap.NewNop())
	gone, stop := context.WithCancel(t.Context())
	stop()
	require.True(t, p.look(gone), "a task may have any name")
	require.Equal(t, "empty", p.now(gone).named("running")[0].key)
	require.Equal(t, emptyKey, p.now(gone).named("recent")[0].key)
}

// LO-606: what is kept for those who come back is bounded in bytes, too.
func TestWhatIsKeptIsBounded(t *testing.T) {
	b := &box{}
	p := newPublisher(b, zap.NewNop())
	for i := range 12 {
		b.set(func() {
			b.live = []task.Live{running(fmt.Sprint(i), i)}
			b.live[0].Tail = strings.Repeat("x", keptBytes/5)
		})
		p.look(t.Context())
	}
	size := 0
	for _, k := range p.kept {
		size += len(k.data)
	}
	require.Less(t, size, keptBytes)
	require.NotEmpty(t, p.kept)
}

// LO-606: the server is looked at while a page is open, more often while tasks run, and not at all otherwise.
func TestNothingRunsWithoutAPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &box{}
		p := newPublisher(b, zap.NewNop())
		require.NoError(t, p.Start(t.Context()))
		looks := func(d time.Duration) int {
			var before, after int
			b.set(func() { before = b.looks })
			time.Sleep(d)
			synctest.Wait()
			b.set(func() { after = b.looks })
			return after - before
		}
		require.Zero(t, looks(time.Minute))
		sign, leave, err := p.follow()
		require.NoError(t, err)
		_, leaveToo, err := p.follow()
		require.NoError(t, err)
		synctest.Wait()
		<-sign
		require.Equal(t, 10, looks(10*time.Second), "two pages cost no more than one")
		b.set(func() { b.live = []task.Live{running("a", 1)} })
		looks(time.Second)
		require.Equal(t, 20, looks(10*time.Second))
		<-sign
		leave()
		leaveToo()
		looks(time.Second)
		require.Zero(t, looks(time.Minute))
		_, leave, err = p.follow()
		require.NoError(t, err)
		require.Positive(t, looks(2*time.Second), "it begins anew")
		leave()
		for range maxPages {
			_, _, err := p.follow()
			require.NoError(t, err)
		}
		_, _, err = p.follow()
		require.True(t, task.HasCode(err, task.AdmissionReject), "%v", err)
		require.NoError(t, p.Stop(t.Context()))
		_, _, err = p.follow()
		require.True(t, task.HasCode(err, task.ShuttingDown), "%v", err)
		<-p.over
		require.NoError(t, p.Stop(t.Context()))
	})
}

// LO-606: the stream, as a browser reads it: the patches it has missed, and then each as it comes. It ends with the server.
func TestTheStream(t *testing.T) {
	b := &box{}
	f, h := open(t, b, "")
	require.NoError(t, f.Start(t.Context()))
	server := httptest.NewServer(h)
	defer server.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+eventsPath+"?after="+f.live.now(ctx).id, nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer res.Body.Close()
	require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	next := func(begin string) string {
		for lines.Scan() {
			if after, ok := strings.CutPrefix(lines.Text(), begin); ok {
				return after
			}
		}
		require.Fail(t, "the stream is over", "%v", lines.Err())
		return ""
	}
	require.Equal(t, "1000", next("retry: "))
	b.set(func() { b.live = []task.Live{running("late", 1)} })
	require.Equal(t, f.live.id(2), next("id: "), "it had the first look already")
	require.Contains(t, next("data: "), `"late"`)
	require.Equal(t, http.StatusOK, ask(h, http.MethodHead, eventsPath, "").StatusCode)
	require.NoError(t, f.Stop(t.Context()))
	for lines.Scan() { // it ends with the server
		require.Empty(t, lines.Text())
	}
}

// LO-604: a logout ends the streams of its session.
func TestALogoutEndsTheStream(t *testing.T) {
	b := &box{}
	f, h := open(t, b, "a token of the lab")
	require.NoError(t, f.Start(t.Context()))
	defer func() { require.NoError(t, f.Stop(t.Context())) }()
	own := []string{"Origin", "http://127.0.0.1:8080", "Content-Type", "application/x-www-form-urlencoded"}
	cookie := ask(h, http.MethodPost, loginPath, "token=a+token+of+the+lab", own...).Cookies()[0]
	server := httptest.NewServer(h)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+eventsPath, nil)
	require.NoError(t, err)
	r.AddCookie(cookie)
	res, err := server.Client().Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "data: ") {
	}
	require.Equal(t, http.StatusSeeOther, ask(h, http.MethodPost, logoutPath, "", append(own, "Cookie", cookie.Name+"="+cookie.Value)...).StatusCode)
	b.set(func() { b.live = []task.Live{running("late", 1)} })
	for lines.Scan() {
		require.NotContains(t, lines.Text(), "late")
	}
	require.NoError(t, lines.Err())
}

// LO-607: a prediction that moves a little does not change the row; one that is far off does.
func TestPredictedStartsAreSteady(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := steady{}
	s.keep(steady{"a": now.Add(time.Minute)})
	require.Equal(t, now.Add(time.Minute), s.of("a", now.Add(64*time.Second), now))
	require.Equal(t, now.Add(70*time.Second), s.of("a", now.Add(70*time.Second), now))
	require.Equal(t, now.Add(time.Second), s.of("b", now.Add(time.Second), now))
	s.keep(steady{"b": now})
	require.NotContains(t, s, "a")
}

// LO-607: what has ended is read again once something has, and not before. A disk that fails costs no more than a look.
func TestEndedTasksAreReadWhenSomethingHasEnded(t *testing.T) {
	b := &box{recent: []task.Status{{ID: "done", State: task.Completed}}}
	d := newDrawer(b, time.Now)
	for range 3 {
		d.draw(t.Context())
	}
	require.Equal(t, 2, b.reads, "the first one failed")
	b.set(func() { b.ends++ })
	d.draw(t.Context())
	d.draw(t.Context())
	require.Equal(t, 3, b.reads)
}

// LO-606: a large catalog is not listed at each look, unless a fetch goes on.
func TestTheCatalogIsListedNowAndThen(t *testing.T) {
	now := time.Now()
	b := &box{models: []api.CatalogModel{{ID: "m1", State: "Active"}}}
	d := newDrawer(b, func() time.Time { return now })
	look := func(after time.Duration) int {
		now = now.Add(after)
		d.draw(t.Context())
		return b.lists
	}
	require.Equal(t, 1, look(0))
	require.Equal(t, 1, look(modelsEvery-1))
	require.Equal(t, 2, look(1))
	b.models = []api.CatalogModel{{ID: "m1", State: "Fetching", Progress: &api.FetchProgress{}}}
	require.Equal(t, 3, look(modelsEvery))
	require.Equal(t, 4, look(time.Second))
	require.Equal(t, 5, look(-time.Hour), "the clock was set back")
}

func BenchmarkLook(b *testing.B) {
	x := &box{ends: 1}
	for i := range 10 {
		x.live = append(x.live, running(fmt.Sprint("r", i), i))
	}
	for i := range 10 * firstWaiting {
		x.live = append(x.live, waiting(fmt.Sprint("w", i), time.Now().Add(time.Duration(i)*time.Second)))
	}
	p := newPublisher(x, zap.NewNop())
	b.ReportAllocs()
	for b.Loop() {
		p.look(b.Context())
	}
}
