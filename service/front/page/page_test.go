// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// evil is a text that must never become HTML.
const evil = `<script>alert("1")</script>`

// box is a server that a page shows.
type box struct {
	mu     sync.Mutex
	looks  int
	live   []task.Live
	recent []task.Status
	ends   uint64
	reads  int // of recent
	lists  int // of models
	models []api.CatalogModel
	log    *observe.Tail
}

// tailed has the lines of a tail, as the app shows them.
type tailed struct{ *observe.Tail }

func (l tailed) Read() api.LogReader { return reader{l.Tail.Read(5000)} }

type reader struct{ *observe.Reader }

func (r reader) Past() (api.LogLine, bool) {
	line, ok := r.Reader.Past()
	return api.LogLine{Level: line.Level, Lost: line.Lost, JSON: line.JSON}, ok
}

func (r reader) Next(ctx context.Context) (api.LogLine, error) {
	line, err := r.Reader.Next(ctx)
	return api.LogLine{Level: line.Level, Lost: line.Lost, JSON: line.JSON}, err
}

func (b *box) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

func (b *box) Pools() []api.HealthView {
	b.set(func() { b.looks++ })
	return []api.HealthView{{
		Pool: api.PoolView{
			ID: "p" + evil, State: task.PoolLoading, Progress: 0.4, Engine: evil, LastError: evil, Model: api.ModelView{ID: evil, Ref: evil}, Lifecycle: "on_demand",
			Queue: api.QueueView{Interactive: 21, Batch: 4, Capacity: 64}, Replicas: 1,
		},
		Replicas: []api.ReplicaView{{
			ID: "r0", State: "ready", Slots: 2, Active: 1, Device: "gpu", Cards: []int{0}, ObservedBytes: 5 << 30, LastError: evil,
			Hosts: []api.HostView{{Host: "box-b" + evil, Used: 1 << 30, FreeBytes: 2 << 30}},
		}},
	}}
}

func (b *box) GPUs() api.GPUsView {
	return api.GPUsView{GPUs: []api.GPUView{{
		Name: evil, Healthy: true, LastError: evil, VRAMTotal: 24 << 30, VRAMUsed: 9 << 30, VRAMOther: 3 << 30, VRAMPromised: 2 << 30, VRAMFree: 13 << 30, TemperatureC: 41, PowerW: 32, EnergyJ: 9_000_000,
		Holders: []api.HolderView{{ReplicaID: "r0", Used: 6 << 30}, {PID: 7, Used: 3 << 30}},
	}}}
}

func (b *box) Live(int, int) []task.Live {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.live
}

func (b *box) Ends() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ends
}

func (b *box) Recent(context.Context, int) ([]task.Status, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reads++; b.reads == 1 {
		return nil, errors.New("the disk is slow")
	}
	return b.recent, nil
}

func (*box) Outlook() task.Outlook {
	return task.Outlook{Starts: 4, Near: 3, Off: time.Minute, Chances: [5]task.Chance{2: {Tasks: 2, Told: 1, Kept: 1}}}
}

func (*box) Swaps() []task.Swap { return []task.Swap{{PoolID: evil, In: true, Why: evil}} }

func (*box) Sessions(int) []task.SessionStatus {
	return []task.SessionStatus{{Session: task.Session{ID: "s1", PoolID: evil, Turns: 2, MaxTurns: 8}, TTLLeft: time.Minute, Rests: task.Budgets{Tokens: task.Rest[int64]{Left: 70, Bounded: true}}}}
}

func (*box) Budget() task.Budgets {
	return task.Budgets{Cost: task.Rest[float64]{Left: 1.5, Bounded: true}, TimeMS: task.Rest[int64]{Left: 90_000, Bounded: true}}
}

func (*box) Host() Host { return Host{MemoryFree: 12 << 30, DiskFree: 345 << 30} }

func (b *box) Models() []api.CatalogModel {
	if b.lists++; b.models != nil {
		return b.models
	}
	return []api.CatalogModel{{ID: "m1", Ref: evil, State: "Fetching", Progress: &api.FetchProgress{Done: 1 << 20, Total: 4 << 20}, Problem: task.Errorf(task.Internal, "%s", evil)}}
}

func running(id string, tokens int) task.Live {
	return task.Live{Status: task.Status{ID: id, State: task.Running, ModelRef: evil, TokensOut: tokens}, Phase: task.PhaseDecode, Tail: evil}
}

func waiting(id string, at time.Time) task.Live {
	return task.Live{Status: task.Status{ID: id, State: task.Queued, ModelRef: evil, PoolID: evil}, StartsAt: at, Deadline: time.Hour, OnTime: 0.25}
}

// other answers where the page does not.
type other struct{}

func (other) Route(*http.Request) gate.Route {
	return gate.Route{Operation: "other", Access: gate.Anybody}
}

func (other) Refuse(w http.ResponseWriter, _ *http.Request, err error) {
	refusal := gate.Refuse(err)
	w.WriteHeader(refusal.Status)
	_, _ = io.WriteString(w, string(refusal.Envelope.Code))
}

func (other) ServeHTTP(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "other") }

func open(t *testing.T, b *box, token string) (*Front, http.Handler) {
	auth, err := gate.NewAuth(gate.AuthOptions{Token: token, OptionalOnLoopback: token == ""})
	require.NoError(t, err)
	f, err := New(Options{Views: b, Logs: tailed{b.log}, Door: auth, Else: other{}, Native: other{}, Version: "v" + evil})
	require.NoError(t, err)
	g, err := gate.New(gate.Options{Auth: auth, Fronts: map[string]gate.Front{"/": other{}, Prefix: f}, Exact: map[string]gate.Front{Root: f}})
	require.NoError(t, err)
	return f, g
}

func ask(h http.Handler, method, target, body string, header ...string) *http.Response {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.RemoteAddr, r.Host = "127.0.0.1:5000", "127.0.0.1:8080"
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func text(t *testing.T, r *http.Response) string {
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(b)
}

// LO-603
func TestWhoAcceptsHTML(t *testing.T) {
	for accept, html := range map[string]bool{
		"text/html": true, "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": true, "application/json, TEXT/HTML;q=0.2": true, "text/html; q=1.0": true,
		"": false, "*/*": false, "text/*": false, "text/html;q=0": false, "text/html;q=0.000, */*": false, "application/json": false, "text/plain": false, ";;,,": false, "text/htmlx": false,
	} {
		require.Equal(t, html, acceptsHTML([]string{accept}), accept)
	}
	_, h := open(t, &box{}, "")
	require.Equal(t, "other", text(t, ask(h, http.MethodGet, "/", "", "Accept", "*/*")))
	require.Equal(t, "other", text(t, ask(h, http.MethodPost, "/", "", "Accept", "text/html")))
	require.Contains(t, text(t, ask(h, http.MethodGet, "/", "", "Accept", "text/html")), "<!doctype html>")
	require.Equal(t, http.StatusOK, ask(h, http.MethodHead, "/", "", "Accept", "text/html").StatusCode)
}

// LO-605, LO-607: everything from outside is text, and nothing in the page needs what its policy forbids.
func TestWhatComesFromOutsideIsText(t *testing.T) {
	now := time.Now()
	b := &box{ends: 1, live: []task.Live{running("a"+evil, 3), waiting("b"+evil, now)}, recent: []task.Status{{ID: "c" + evil, State: task.Failed, ModelRef: evil, Err: task.Errorf(task.Internal, "x")}}}
	f, h := open(t, b, "")
	f.live.look(t.Context())
	res := ask(h, http.MethodGet, "/", "", "Accept", "text/html")
	require.Equal(t, policy, res.Header.Get("Content-Security-Policy"))
	require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	page := text(t, res)
	require.NotContains(t, page, evil)
	require.Equal(t, 1, strings.Count(page, "<script"), "its own module")
	for _, never := range []string{"style=", "onclick", "javascript:", "http://", "https://"} {
		require.NotContains(t, page, never)
	}
	for _, shown := range []string{
		"25 of 64 wait", "Host memory free", "12.0", "345.0", "4 of them batch", "40 %", "1 of 2 busy", "GPU 0", "box-b", "41 °C", "32 W", "2.5 kWh", "other programs", "promised", "75 %", "off, on average", "told 50 %",
		"50 %", "70 tokens", "cost 1.5", "1 m 30 s", "1 MiB of 4 MiB", "25 %", "and 5 more in the queue of", "decode", "INTERNAL",
	} {
		require.Contains(t, page, shown)
	}
	var patch map[string]change
	require.NoError(t, json.Unmarshal(f.live.all().data, &patch))
	for name, c := range patch {
		for key, html := range c.Rows {
			require.NotContains(t, html, "<script>", "nor in a patch: %s %s", name, key)
		}
	}
	require.Contains(t, patch["running"].Rows["a"+evil], "&lt;script&gt;")
}

// LO-604: who has no token gets the field for it, and nothing of the server.
func TestTheFieldForTheToken(t *testing.T) {
	b := &box{}
	_, h := open(t, b, "a token of the lab")
	own := []string{"Origin", "http://127.0.0.1:8080", "Content-Type", "application/x-www-form-urlencoded"}
	res := ask(h, http.MethodGet, "/", "", "Accept", "text/html")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Contains(t, text(t, res), `type="password"`)
	require.Equal(t, http.StatusUnauthorized, ask(h, http.MethodGet, eventsPath, "").StatusCode)
	require.Zero(t, b.looks)
	wrong := ask(h, http.MethodPost, loginPath, "token=wrong", own...)
	require.Equal(t, http.StatusUnauthorized, wrong.StatusCode)
	require.Contains(t, text(t, wrong), "the token is not this server")
	require.Empty(t, wrong.Cookies())
	require.Equal(t, http.StatusBadRequest, ask(h, http.MethodPost, loginPath, strings.Repeat("x", maxForm+1), own...).StatusCode)
	res = ask(h, http.MethodPost, loginPath, "token=a+token+of+the+lab", own...)
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	require.Equal(t, Root, res.Header.Get("Location"))
	cookie := res.Cookies()[0].Name + "=" + res.Cookies()[0].Value
	page := text(t, ask(h, http.MethodGet, "/", "", "Accept", "text/html", "Cookie", cookie))
	require.Contains(t, page, "Log out")
	require.Equal(t, http.StatusSeeOther, ask(h, http.MethodPost, logoutPath, "", append(own, "Cookie", cookie)...).StatusCode)
	require.Contains(t, text(t, ask(h, http.MethodGet, "/", "", "Accept", "text/html", "Cookie", cookie)), `type="password"`)
}

// LO-603, LO-604: who follows a link of another site is led to the page, and asks for it as a page of this server.
func TestALinkOfAnotherSite(t *testing.T) {
	for _, token := range []string{"", "a token of the lab"} {
		b := &box{}
		_, h := open(t, b, token)
		for _, site := range []string{"cross-site", "same-site"} {
			res := ask(h, http.MethodGet, "/", "", "Accept", "text/html", "Sec-Fetch-Site", site, "Sec-Fetch-Mode", "navigate")
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
			page := text(t, res)
			require.Contains(t, page, `<meta http-equiv="refresh" content="0; url=/"`)
			require.Contains(t, page, `<a href="/">`)
			require.NotContains(t, page, "<form")
		}
		require.Zero(t, b.looks, "it has nothing of the server")
		own := text(t, ask(h, http.MethodGet, "/", "", "Accept", "text/html", "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "navigate"))
		require.NotContains(t, own, "refresh")
		require.Equal(t, token != "", strings.Contains(own, `type="password"`))
		require.Contains(t, text(t, ask(h, http.MethodGet, "/", "", "Accept", "text/html", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors")), `type="password"`, "a script gets no page")
	}
}

// LO-608: everything that the page loads, with queues that are full, is small.
func TestThePageIsSmall(t *testing.T) {
	b := &box{ends: 1}
	for i := range 10 * firstWaiting {
		b.live = append(b.live, running(fmt.Sprint("running", i), i), waiting(fmt.Sprint("waiting", i), time.Now()))
	}
	_, h := open(t, b, "")
	all := 0
	load := func(target string) {
		res := ask(h, http.MethodGet, target, "", "Accept", "text/html", "Accept-Encoding", "gzip")
		require.Equal(t, http.StatusOK, res.StatusCode, target)
		require.Equal(t, "gzip", res.Header.Get("Content-Encoding"))
		all += len(text(t, res))
	}
	load("/")
	list, err := files.ReadDir("assets")
	require.NoError(t, err)
	for _, e := range list {
		load(path.Join(Prefix, e.Name()))
		require.NotEmpty(t, ask(h, http.MethodGet, path.Join(Prefix, e.Name()), "").Header.Get("Content-Type"))
	}
	require.Less(t, all, 100_000)
	require.Greater(t, all, 5_000, "it has something in it")
	require.Equal(t, http.StatusNotFound, ask(h, http.MethodGet, Prefix+"/page_test.go", "").StatusCode)
	require.Equal(t, http.StatusNotFound, ask(h, http.MethodGet, Prefix+"/../../etc/passwd", "").StatusCode)
}
