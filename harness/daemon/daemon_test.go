// SPDX-License-Identifier: GPL-3.0-or-later

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a script in the daemon's place, which finds the daemon's arguments in "$@".
func start(t *testing.T, ctx context.Context, script string) (*Daemon, error) {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "orchestratord")
	require.NoError(t, os.WriteFile(exe, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	l := process.NewLauncher()
	t.Cleanup(l.Close)
	d, err := Start(ctx, l, Options{Config: "config.yaml", Token: "secret", Options: process.Options{Exe: exe, Args: []string{"--no-self-test"}}})
	if err == nil {
		t.Cleanup(d.Kill)
	}
	return d, err
}

// serving is a script that says that it serves where a server does.
func serving(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return fmt.Sprintf(`echo "$@"; echo '{"level":"info","msg":"serving","addr":%q}'; read -r _`, strings.TrimPrefix(s.URL, "http://"))
}

func TestADaemonIsStartedAndAsked(t *testing.T) {
	var asked atomic.Int64
	d, err := start(t, t.Context(), serving(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch r.URL.Path {
		case "/readyz":
			if asked.Add(1) < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		case "/v1/pools/one/health":
			states := []string{"loading", "ready"}
			_, _ = fmt.Fprintf(w, `{"replicas":[{"id":"one-0","state":%q,"cards":[1]}]}`, states[min(asked.Add(1)-4, 1)])
		case "/v1/pools/two/health":
			_, _ = fmt.Fprint(w, `{"replicas":[{"id":"two-0","state":"failed","last_error":"no such file"}]}`)
		}
	}))
	require.NoError(t, err)
	require.Equal(t, "serve --config config.yaml --no-self-test", d.Lines()[0])
	require.NoError(t, d.Answers(t.Context(), "/readyz"))
	require.EqualValues(t, 3, asked.Load())

	replicas, err := d.Idle(t.Context(), "one")
	require.NoError(t, err)
	require.Equal(t, []Replica{{ID: "one-0", State: "ready", Cards: []int{1}}}, replicas)
	require.EqualValues(t, 5, asked.Load())
	require.Contains(t, string(d.LastHealth("one")), `"ready"`)
	_, err = d.Idle(t.Context(), "two")
	require.ErrorContains(t, err, "replica two-0 has failed: no such file")

	code, err := d.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Equal(t, -1, code)
	require.ErrorContains(t, d.Answers(t.Context(), "/readyz"), "orchestratord ended with exit code -1 before it answered /readyz")
}

func TestADaemonThatEndsBeforeItServesSaysWhy(t *testing.T) {
	_, err := start(t, t.Context(), `echo "the configuration is wrong"; exit 2`)
	require.ErrorContains(t, err, "orchestratord ended with exit code 2 before it gave its address")
	require.ErrorContains(t, err, "the configuration is wrong")
}

func TestAnInterruptedStartLeavesNothing(t *testing.T) {
	ctx, stop := context.WithCancelCause(t.Context())
	pid := filepath.Join(t.TempDir(), "pid")
	require.NoError(t, syscall.Mkfifo(pid, 0o600))
	go func() { // the start returns only behind it
		text, _ := os.ReadFile(pid) // opens once the script does
		stop(errors.New("interrupted as " + strings.TrimSpace(string(text))))
	}()
	_, err := start(t, ctx, "echo $$ >"+pid+"; read -r _")
	require.ErrorContains(t, err, "interrupted as ")
	_, number, _ := strings.Cut(context.Cause(ctx).Error(), " as ")
	require.NoDirExists(t, "/proc/"+number)
}

// A worker is known by its program, its parent and when it began; a daemon's other children are none.
func TestWorkersAreFound(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	exe := filepath.Join(dir, "program")
	l := process.NewLauncher()
	defer l.Close()
	shell, err := os.ReadFile("/bin/sh")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(exe, shell, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "worker"), []byte("read -r _\n"), 0o600))
	parent, err := l.Start(process.Options{
		Name: "the parent", Exe: "/bin/sh",
		Args: []string{"-c", fmt.Sprintf("cd %q; mkfifo open; exec 3<>open; ./program worker <&3 & ./program -c 'read -r _' <&3 & echo begun; wait", dir)},
	})
	require.NoError(t, err)
	defer parent.Kill()
	d := &Daemon{Process: parent, exe: exe}
	require.NoError(t, watch.Poll(t.Context(), "the worker", func() error {
		if n := len(d.Workers()); n != 1 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	}))
	w := d.Workers()[0]
	require.Equal(t, []Worker{w}, Workers(exe))
	require.True(t, w.Alive())
	w.Kill()
	require.NoError(t, watch.Poll(t.Context(), "its end", func() error {
		if w.Alive() {
			return errors.New("it is alive")
		}
		return nil
	}))
	require.Empty(t, d.Workers())
}

func TestNotesNameTheReplicas(t *testing.T) {
	data := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(data, "run"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(data, "run", "7.json"), []byte(`{"pid":7,"replica_id":"one-0"}`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(data, "run", "8.json"), []byte(`{"pid":`), 0o600))
	require.Equal(t, map[int]string{7: "one-0"}, Noted(data))
}
