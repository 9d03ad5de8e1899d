// SPDX-License-Identifier: GPL-3.0-or-later

package enginetest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/conformance/fault"
	"github.com/llama-orch/llama-orch/harness/watch"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// FaultOptions say what is tested of an engine whose server misbehaves.
type FaultOptions struct {
	// Serve makes the server. It streams at least four pieces to Job, among them a rune of several bytes and an emoji of several runes.
	Serve func(t testing.TB) http.Handler
	// Connect makes the adapter for a server, and closes it at the end of the test.
	Connect func(t testing.TB, url string) engine.Engine
	Shape   fault.Shape
	Job     engine.Job
	// Retries: the adapter tries again where nothing of an answer has come.
	Retries bool
	// Unmarked: nothing marks the end of an answer but the end of its body.
	Unmarked bool
}

// Seen is what a client saw of a fault.
type Seen struct{ Fault, Saw string }

// errHeld ends a call that waits.
var errHeld = errors.New("the caller has waited long enough")

// RunFaults holds an adapter to what it has to do where its server misbehaves (LO-458): the same answer, or a typed error. Nothing is emitted twice, or
// behind the end. Nothing hangs longer than its caller wants, and then the connection is closed. It returns what a client saw of each fault.
func RunFaults(t *testing.T, o FaultOptions) (table []Seen) {
	well := httptest.NewServer(o.Serve(t))
	t.Cleanup(well.Close)
	want, r, err := answer(t.Context(), o.Connect(t, well.URL), o.Job, nil)
	require.NoError(t, err)
	require.Greater(t, len(want), 3, "there is too little to break")
	for _, f := range fault.All() {
		t.Run(f.Name, func(t *testing.T) {
			s := &faulty{FaultOptions: o, t: t, fault: f, want: want, whole: r}
			table = append(table, Seen{f.Name, s.run()})
		})
	}
	for _, row := range table {
		t.Logf("| %s | %s |", row.Fault, row.Saw)
	}
	return table
}

// faulty is one fault under test.
type faulty struct {
	FaultOptions
	t     *testing.T
	fault fault.Fault
	want  []task.Piece // of a server that is well
	whole engine.Result
}

// answer runs a job, and returns its pieces. Came is called with how many there are.
func answer(ctx context.Context, e engine.Engine, j engine.Job, came func(n int)) (all []task.Piece, r engine.Result, err error) {
	r, err = e.Generate(ctx, j, func(p task.Piece) error {
		all = append(all, p)
		if came != nil {
			came(len(all))
		}
		return nil
	})
	return all, r, err
}

func (s *faulty) run() (saw string) {
	server := fault.New(s.Serve(s.t), s.fault, s.Shape)
	at := httptest.NewServer(server)
	s.t.Cleanup(at.Close)
	e := s.Connect(s.t, at.URL)
	_, err := e.Props(s.t.Context())
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancelCause(s.t.Context())
	defer cancel(nil)
	bounded, stop := context.WithTimeoutCause(ctx, watch.Patience, errors.New("it hangs"))
	defer stop()
	enough := len(s.want) / 2
	if s.fault.Want == fault.Held {
		if s.fault.Nothing {
			go func() {
				if server.Until(bounded, func() bool { return server.Asks() > 0 }) == nil {
					cancel(errHeld)
				}
			}()
		} else {
			enough = 2
		}
	}
	all, r, err := answer(bounded, e, s.Job, func(n int) {
		if s.fault.Want == fault.Held && n == enough {
			cancel(errHeld)
		}
	})
	saw = s.judge(all, r, err)
	patient, done := context.WithTimeout(context.Background(), watch.Patience)
	defer done()
	require.NoError(s.t, server.Until(patient, server.Over), "the connection is still open")
	return saw
}

// judge compares what came with what has to.
func (s *faulty) judge(all []task.Piece, r engine.Result, err error) string {
	wanted := s.fault.Want
	if s.Unmarked && s.fault.Name == fault.NoFinal {
		wanted = fault.Same
	}
	if wanted == fault.Retried && !s.Retries {
		wanted = fault.Broken
	}
	switch wanted {
	case fault.Same, fault.Retried:
		require.NoError(s.t, err)
		require.Equal(s.t, text(s.want), text(all))
		require.Equal(s.t, s.whole.Finish, r.Finish)
		require.Equal(s.t, s.whole.TokensIn, r.TokensIn)
		require.Equal(s.t, s.whole.TokensOut, r.TokensOut)
		return string(wanted)
	case fault.Held:
		require.ErrorIs(s.t, err, errHeld)
	case fault.Broken:
		require.True(s.t, task.HasCode(err, task.WorkerReset), "%v", err)
		require.True(s.t, task.AsError(err).Retriable, "%v", err)
		if strings.Contains(s.fault.Name, "Retry-After") {
			require.Equal(s.t, 20*time.Millisecond, task.AsError(err).RetryAfter)
		}
	}
	if s.fault.Nothing {
		require.Empty(s.t, all)
	} else {
		require.NotEmpty(s.t, all)
		if s.fault.Name != "endless stream" { // its tokens are all the same
			require.True(s.t, strings.HasPrefix(text(s.want), text(all)), "%q does not begin %q", text(all), text(s.want))
		}
	}
	if wanted == fault.Held {
		return "CANCELED by the caller, and the connection is closed"
	}
	typed := task.AsError(err)
	why := typed.Message
	if typed.Err != nil {
		why = typed.Err.Error()
	}
	return string(typed.Code) + ", to be retried: " + task.Clip(strings.Join(strings.Fields(why), " "), 120)
}

func text(all []task.Piece) string {
	var b strings.Builder
	for _, p := range all {
		b.WriteString(p.Text)
	}
	return b.String()
}
