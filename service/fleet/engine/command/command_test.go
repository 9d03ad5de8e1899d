// SPDX-License-Identifier: GPL-3.0-or-later

package command

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// LO-466: the placeholders are filled in, and what can change the answers is in the fingerprint as it is configured.
func TestACommandIsFilledIn(t *testing.T) {
	args := []string{"--listen={host}:{port}", "-m", "{model}", "--cards", "{mask}", "{other}"}
	c := Kind().Start.Command(engine.Worker{Host: "127.0.0.1", Port: "9700", Model: "/m/a b.bin", Args: args})
	require.Equal(t, []string{"--listen=127.0.0.1:9700", "-m", "/m/a b.bin", "--cards", engine.MaskHere, "{other}"}, c.Args)
	require.Equal(t, args, c.Flags)
	require.Empty(t, c.Sized(engine.Room{Ctx: 512}))
	require.Error(t, Kind().Start.Check(engine.Worker{BuiltIn: true}))
}

// LO-466: what the configuration says counts; else the file's size gives a guess. It is divided over the cards.
func TestTheMemoryOfACommand(t *testing.T) {
	at := func(w engine.Worker, bytes int64) engine.Estimate {
		s, err := Kind().Start.Size(w, bytes)
		require.NoError(t, err)
		require.Zero(t, s.OwnCtx())
		e, err := s.At(0)
		require.NoError(t, err)
		return e
	}
	require.Equal(t, engine.Estimate{Host: 2 << 30}, at(engine.Worker{Memory: 2 << 30}, 1))
	require.Equal(t, engine.Estimate{Host: 128<<20 + 1200}, at(engine.Worker{}, 1000))
	require.Equal(t, engine.Estimate{Cards: []int64{3 << 28, 1 << 28}}, at(engine.Worker{Memory: 1 << 30, Cards: 2, Split: []float64{3, 1}}, 1))
	require.True(t, Kind().Start.ToldCtx(nil), "nothing is fitted")
}

// LO-466
func TestACommandIsWellWhereItsPathIsAnswered(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/well" || r.Header.Get("Authorization") != "" {
			status = http.StatusNotFound
		}
		w.WriteHeader(status)
	}))
	defer server.Close()
	e := New(engine.Endpoint{URL: server.URL, Health: "/well"})
	defer e.Close()
	for at, well := range map[int]bool{200: true, 204: true, 302: true, 404: false, 500: false, 503: false} {
		status = at
		require.Equal(t, well, e.Health(t.Context()) == nil, at)
	}
	_, err := e.Generate(t.Context(), engine.Job{}, nil)
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.Equal(t, engine.Faces{}, Kind().Faces())
	require.Equal(t, []engine.Cause{engine.OutOfVRAM, engine.OutOfMemory}, deaths.Told([]string{"torch.cuda.OutOfMemoryError: CUDA out of memory."}))
	require.Equal(t, []engine.Cause{engine.MissingLibrary}, deaths.Told([]string{"ModuleNotFoundError: No module named 'kokoro'"}))
}
