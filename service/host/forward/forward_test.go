// SPDX-License-Identifier: GPL-3.0-or-later

package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// here is a front that says that it has answered, and with what it was asked.
type here struct{}

func (here) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, _ = w.Write(append([]byte("here "), body...))
}
func (here) Route(*http.Request) gate.Route { return gate.Route{} }
func (here) Refuse(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), gate.Refuse(err).Status)
}

type rig struct {
	hosts  []task.Host
	over   bool // the lease
	holder string
	fail   error
}

func (r *rig) Hosts() []task.Host  { return r.hosts }
func (r *rig) MaySend(string) bool { return !r.over }
func (r *rig) Refusal(pool string) error {
	if pool == "mine" {
		return nil
	}
	return errors.New("it is another's")
}

// setup is a forwarder of host a, which holds mine and stands by for both, beside b, which holds both and theirs.
func setup(t *testing.T) (*rig, http.Handler, *[]*http.Request) {
	t.Helper()
	came := &[]*http.Request{}
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		*came = append(*came, r)
		w.Header().Set("Access-Control-Allow-Origin", "*")
		_, _ = w.Write(append([]byte("there "), body...))
	}))
	t.Cleanup(there.Close)
	r := &rig{hosts: []task.Host{
		{ID: "a", Up: true, Pools: []task.HostPool{{ID: "mine", Model: "m", Holds: true}, {ID: "both", Model: "shared"}}},
		{ID: "b", Name: "cellar", Up: true, Address: there.URL, Pools: []task.HostPool{{ID: "both", Model: "shared", Holds: true}, {ID: "theirs", Model: "far", Ref: "file:far", Holds: true}}},
	}}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	f := New(Options{
		Self: "a", Name: "attic", Hosts: r, PoolOf: func(id string) (string, bool) { return "mine", id == "mine" },
		Holder: func(context.Context, string) (string, error) { return r.holder, r.fail },
		Serving: func(model string) []string {
			return map[string][]string{"m": {"mine"}, "alias": {"mine"}, "shared": {"both"}}[model]
		},
		Token: "the-token", Transport: transport, Within: time.Minute, Log: zap.NewNop(),
	})
	return r, f.Before(here{}), came
}

func ask(h http.Handler, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// LO-715: what is for a pool, a model or a task of another daemon goes there, with the token, and the rest stays.
func TestWhatGoesOn(t *testing.T) {
	r, h, came := setup(t)
	for body, where := range map[string]string{
		`{"model_ref":"m"}`: "here", `{"model":"alias"}`: "here", `{"model":"nobody's"}`: "here", `{"no":1}`: "here", `{broken`: "here",
		`{"model_ref":"far"}`: "there", `{"model":"file:far"}`: "there", `{"model":"shared"}`: "there",
		`{"model_ref":"m","placement":{"pool_id":"theirs"}}`: "there", `{"model_ref":"shared","placement":{"pool_id":"mine"}}`: "here",
		`{"model_ref":"far","task_id":"mine"}`: "here",
	} {
		got := ask(h, http.MethodPost, "/v1/tasks", body)
		require.Equal(t, where+" "+body, got.Body.String())
	}
	*came = nil
	r.holder = "b"
	got := ask(h, http.MethodGet, "/v1/tasks/x/stream?after=3", "", "Authorization", "Bearer other", "Cookie", "c=1", "Last-Event-ID", "3-aa")
	require.Equal(t, "there ", got.Body.String())
	require.Empty(t, got.Header().Get("Access-Control-Allow-Origin"), "that is the gate's to say")
	sent := (*came)[0]
	require.Equal(t, "/v1/tasks/x/stream?after=3", sent.URL.RequestURI())
	require.Equal(t, "Bearer the-token", sent.Header.Get("Authorization"))
	require.Equal(t, "attic", sent.Header.Get(Header))
	require.Equal(t, "3-aa", sent.Header.Get("Last-Event-ID"))
	require.Empty(t, sent.Header.Get("Cookie"))
	require.Equal(t, "here ", ask(h, http.MethodGet, "/v1/tasks/mine", "").Body.String())
	require.Equal(t, "there ", ask(h, http.MethodPost, "/v1/pools/theirs/drain", "").Body.String())
	require.Equal(t, "here ", ask(h, http.MethodPost, "/v1/pools/both/drain", "").Body.String(), "the replicas of a pool that stands by are its own")
	require.Equal(t, "here ", ask(h, http.MethodGet, "/v1/pools", "").Body.String())
	r.holder = "a"
	require.Equal(t, "here ", ask(h, http.MethodGet, "/v1/tasks/x", "").Body.String())
	r.holder = ""
	require.Equal(t, "here ", ask(h, http.MethodGet, "/v1/tasks/x", "").Body.String(), "what ended any daemon has")
}

// LO-715: a request goes on once, so that two daemons never pass it to and fro.
func TestOneHop(t *testing.T) {
	_, h, came := setup(t)
	require.Equal(t, `here {"model":"far"}`, ask(h, http.MethodPost, "/v1/tasks", `{"model":"far"}`, Header, "cellar").Body.String())
	require.Empty(t, *came)
}

// LO-715: a daemon that is gone, or that nobody can reach, is named in a refusal.
func TestWhoCannotBeReachedIsNamed(t *testing.T) {
	r, h, _ := setup(t)
	r.holder = "b"
	r.hosts[1].Address = "http://127.0.0.1:1"
	got := ask(h, http.MethodGet, "/v1/tasks/x", "")
	require.Equal(t, http.StatusServiceUnavailable, got.Code)
	require.Contains(t, got.Body.String(), "the host cellar, which does not answer")
	r.hosts[1].Address = ""
	require.Contains(t, ask(h, http.MethodGet, "/v1/tasks/x", "").Body.String(), "has announced no address")
	r.hosts = append(r.hosts, task.Host{ID: "c", Up: true})
	r.hosts[1].Up = false
	got = ask(h, http.MethodGet, "/v1/tasks/x", "")
	require.Equal(t, http.StatusServiceUnavailable, got.Code)
	require.Contains(t, got.Body.String(), "not taken over yet")
	r.fail = errors.New("away")
	require.Contains(t, ask(h, http.MethodGet, "/v1/tasks/x", "").Body.String(), "the database does not say")
}

// LO-714, LO-715.5: a daemon whose lease does not run for sure answers for no task from its memory, since another one may have it by now: it passes on what is another's, and what nobody can
// tell is retriable. That holds for what was passed on to it, too.
func TestADaemonThatLostItsLeaseDoesNotAnswerFromMemory(t *testing.T) {
	r, h, _ := setup(t)
	require.Equal(t, "here ", ask(h, http.MethodGet, "/v1/tasks/mine/stream", "").Body.String())
	r.over, r.holder = true, "b"
	require.Equal(t, "there ", ask(h, http.MethodGet, "/v1/tasks/mine/stream", "").Body.String())
	r.holder = "a"
	require.Equal(t, "here ", ask(h, http.MethodGet, "/v1/tasks/mine", "").Body.String(), "nobody has taken it")
	for _, way := range [][]string{nil, {Header, "cellar"}} {
		r.holder = ""
		got := ask(h, http.MethodGet, "/v1/tasks/mine", "", way...)
		require.Equal(t, http.StatusServiceUnavailable, got.Code)
		require.Contains(t, got.Body.String(), "does not know who has task")
	}
	r.fail = errors.New("away")
	require.Equal(t, http.StatusServiceUnavailable, ask(h, http.MethodDelete, "/v1/tasks/mine", "").Code)
}

// LO-715: where no other daemon is up, nobody is asked anything, and a body is not read.
func TestAloneNothingIsLookedAt(t *testing.T) {
	r, h, _ := setup(t)
	r.hosts, r.fail = r.hosts[:1], errors.New("nobody should ask")
	require.Equal(t, "here ", ask(h, http.MethodGet, "/v1/tasks/x", "").Body.String())
	body := bytes.Repeat([]byte("x"), 1<<20)
	require.Len(t, ask(h, http.MethodPost, "/v1/tasks", string(body)).Body.String(), len("here ")+len(body))
}
