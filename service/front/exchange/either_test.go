// SPDX-License-Identifier: GPL-3.0-or-later

package exchange_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// named is a front that says its name.
type named string

func (n named) Route(*http.Request) gate.Route { return gate.Route{Operation: string(n)} }

func (n named) Refuse(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, string(n)+" refuses: "+err.Error(), http.StatusTeapot)
}

func (n named) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("X-Front", string(n))
}

// LO-421: a header that only one dialect's clients send tells whose a path is.
func TestEither(t *testing.T) {
	front := exchange.Either("X-Version", named("with"), named("without"))
	for header, want := range map[string]string{"1": "with", "": "without"} {
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.Header.Set("X-Version", header)
		require.Equal(t, want, front.Route(r).Operation)
		w := httptest.NewRecorder()
		front.ServeHTTP(w, r)
		require.Equal(t, want, w.Header().Get("X-Front"))
		require.Equal(t, "X-Version", w.Header().Get("Vary"))
		w = httptest.NewRecorder()
		front.Refuse(w, r, task.Errorf(task.BadToken, "no"))
		require.Contains(t, w.Body.String(), want+" refuses")
	}
}

// LO-402, LO-404: a refusal has the request's id, and says where trying again does not help.
func TestRefuse(t *testing.T) {
	x := exchange.New("test", exchange.Options{})
	for err, want := range map[*task.Error][2]string{
		task.Errorf(task.AdmissionReject, "full").Retry(time.Second):         {"", "1"},
		task.Errorf(task.BudgetExceeded, "spent").Forever():                  {"false", "1"},
		task.Errorf(task.PoolUnavailable, "broken").Forever():                {"false", "1"},
		task.Errorf(task.Conflict, "taken"):                                  {"false", ""},
		task.Errorf(task.WorkerReset, "gone").Retry(1500 * time.Millisecond): {"", "2"},
	} {
		w := httptest.NewRecorder()
		x.Refuse(w, httptest.NewRequest(http.MethodGet, "/", http.NoBody), err, "body")
		require.Equal(t, want, [2]string{w.Header().Get("X-Should-Retry"), w.Header().Get("Retry-After")}, err)
		require.Contains(t, w.Header(), "Request-Id")
		require.Contains(t, w.Header(), "X-Request-Id")
	}
}

// LO-829: a page of a welcome origin may read all of a receipt's headers.
func TestAPageMayReadTheReceipt(t *testing.T) {
	const page = "http://page.example"
	auth, err := gate.NewAuth(gate.AuthOptions{OptionalOnLoopback: true, Origins: []string{page}})
	require.NoError(t, err)
	g, err := gate.New(gate.Options{Auth: auth, Fronts: map[string]gate.Front{"/": named("any")}})
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1/", http.NoBody)
	r.RemoteAddr = "127.0.0.1:5000"
	r.Header.Set("Origin", page)
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	shown := strings.Split(w.Header().Get("Access-Control-Expose-Headers"), ", ")
	parts := exchange.ReceiptParts(&task.Receipt{
		Seed: 1, Determinism: task.Strict, Fingerprint: "f", RequestDigest: "d", TranscriptSHA256: "t", ModelDigest: "m", ContinuedAt: []int{5, 7},
	})
	require.Len(t, parts, 7)
	require.Equal(t, [2]string{"Continued-At", "5,7"}, parts[6])
	for _, part := range parts {
		require.Contains(t, shown, "X-Receipt-"+part[0])
	}
}
