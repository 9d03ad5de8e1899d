// SPDX-License-Identifier: GPL-3.0-or-later

package fronts_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// Two servers of two slots each, of which one is loaded on demand.
const riotous = `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
pools:
  - id: speech
    engine: command
    model: {id: voice, ref: the voice}
    device: cpu
    slots: 2
    memory: 64MiB
    health: /well
    routes: ["/v1/audio/*"]
    queue: {capacity: 6}
    provisioning: {mode: binary, path: %[1]q, args: ["--host", "{host}", "--port", "{port}", "--folder", %[2]q]}
  - id: drawing
    engine: command
    model: {id: pencil, ref: a pencil}
    device: cpu
    slots: 2
    lifecycle: on_demand
    memory: 64MiB
    health: /well
    routes: ["/v1/images/*"]
    queue: {capacity: 6}
    provisioning: {mode: binary, path: %[1]q, args: ["--host", "{host}", "--port", "{port}", "--folder", %[2]q]}
`

// fate is what becomes of a request, as its client saw it.
type fate struct {
	pool   string
	queued bool // it has a task's id
	whole  bool // the answer
	wrong  string
}

// A crowd sends requests to servers that are killed in the middle of their answers, before them, and while they load, that are unloaded, and whose clients go away.
// Each request ends with a whole answer, with one that breaks off, or with a typed error, and the daemon's counters say the same.
//
// LO-467
func TestRequestsAmongServersThatDie(t *testing.T) {
	lab, err := daemon.NewLab(t.Context(), t.TempDir(), "../..", "./harness/studio/cmd/studio")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	a := atelier{folder: t.TempDir()}
	file := filepath.Join(lab.Dir, "c.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, riotous, lab.Program("studio"), a.folder), 0o600))
	d, err := lab.Serve(t.Context(), daemon.Options{Config: file, Options: process.Options{Args: []string{"--no-self-test"}, Env: lab.Env(lab.Dir, nil)}})
	require.NoError(t, err)
	a.box = box{t, d}
	_, err = d.Idle(t.Context(), "speech")
	require.NoError(t, err)

	const clients, each = 8, 7
	var crowd, riot sync.WaitGroup
	var mu sync.Mutex
	var fates []fate
	over, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	for client := range clients {
		crowd.Go(func() {
			seed := rand.New(rand.NewPCG(uint64(client), 1)) // a plan that can be repeated
			for n := 0; ; n++ {
				mu.Lock()
				enough := n >= each && len(endings(fates)) == 4 || over.Err() != nil
				mu.Unlock()
				if enough {
					return
				}
				f := a.risk(seed.IntN(100))
				mu.Lock()
				fates = append(fates, f)
				mu.Unlock()
			}
		})
	}
	riot.Go(func() { a.riot(over, lab.Program("studio")) })
	crowd.Wait()
	stop()
	riot.Wait()

	for _, f := range fates {
		require.Empty(t, f.wrong)
	}
	sums := endings(fates)
	a.comes(0)
	metrics, err := d.Client.Get(t.Context(), "/metrics")
	require.NoError(t, err)
	for _, pool := range []string{"speech", "drawing"} {
		require.Positive(t, sums[pool+" completed"], pool)
		require.Positive(t, sums[pool+" broken"], pool)
		counted := finished(string(metrics), pool)
		require.Equal(t, sums[pool+" completed"], counted["completed"], "%s: %v", pool, counted)
		require.Equal(t, sums[pool+" broken"], counted["failed"]+counted["canceled"], "%s: %v", pool, counted)
	}
	require.Equal(t, "RIFFrain"+strings.Repeat("~", 64), a.afterwards())
	code, err := d.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code)
}

// endings counts the requests that had a task, by pool and by whether the answer came whole.
func endings(fates []fate) map[string]int {
	sums := map[string]int{}
	for _, f := range fates {
		switch {
		case f.whole:
			sums[f.pool+" completed"]++
		case f.queued:
			sums[f.pool+" broken"]++
		}
	}
	return sums
}

// risk sends one request, and says what became of it.
func (a atelier) risk(dice int) (f fate) {
	ctx, leave := context.WithTimeout(a.Context(), time.Minute)
	defer leave()
	path, body, begin := "/v1/audio/speech", `{"input":"rain"}`, "RIFFrain"
	f.pool = "speech"
	if dice%2 == 1 {
		f.pool, path, body, begin = "drawing", "/v1/images/generations", `{"prompt":"rain"}`, "\x89PNGrain"
	}
	leaves := dice < 15
	switch {
	case leaves:
		path += "?wait=half"
	case dice < 22:
		path += "?die=half"
	case dice < 28:
		path += "?die=begin"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.d.URL+path, strings.NewReader(body))
	if err != nil {
		f.wrong = err.Error()
		return f
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		f.wrong = "no answer came: " + err.Error()
		return f
	}
	defer res.Body.Close()
	f.queued = res.Header.Get("X-Task-Id") != ""
	if leaves && res.StatusCode == http.StatusOK {
		return f
	}
	text, err := io.ReadAll(res.Body)
	switch {
	case res.StatusCode == http.StatusOK && err == nil:
		f.whole = true
		if !f.queued || !strings.HasPrefix(string(text), begin) || len(text) < 72 {
			f.wrong = fmt.Sprintf("an answer of %d bytes is taken for a whole one: %.40q", len(text), text)
		}
	case res.StatusCode == http.StatusOK: // it broke off, and shows that it did
	default:
		var in struct {
			Error struct{ Message, Type string } `json:"error"`
		}
		if err != nil || json.Unmarshal(text, &in) != nil || in.Error.Message == "" || res.StatusCode != http.StatusServiceUnavailable && res.StatusCode != http.StatusTooManyRequests {
			f.wrong = fmt.Sprintf("an error of no type: %s: %.200q", res.Status, text)
		}
	}
	return f
}

// riot kills workers, and has the pool that is loaded on demand unloaded, until ctx ends.
func (a atelier) riot(ctx context.Context, studio string) {
	for i := 0; ctx.Err() == nil; i++ {
		if i%3 == 2 {
			_, _ = a.d.Client.Post(ctx, "/v1/pools/drawing/unload", nil, http.StatusAccepted) // the end of the test ends it too
		} else if running := daemon.Running(studio); len(running) > 0 {
			running[i%len(running)].Kill()
		}
		select {
		case <-time.After(700 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

var finishedLine = regexp.MustCompile(`llorch_tasks_finished_total\{outcome="(\w+)",pool_id="(\w+)"\} (\d+)`)

// finished are the pool's tasks that have ended, by their outcomes.
func finished(metrics, pool string) map[string]int {
	counted := map[string]int{}
	for _, m := range finishedLine.FindAllStringSubmatch(metrics, -1) {
		if m[2] == pool {
			n := 0
			_, _ = fmt.Sscan(m[3], &n) // digits
			counted[m[1]] += n
		}
	}
	return counted
}

// afterwards is what the server of speech says once it is well again.
func (a atelier) afterwards() (said string) {
	a.Helper()
	require.NoError(a, watch.Poll(a.Context(), "an answer after all", func() error {
		res := a.speech("", "rain")
		if said = a.body(res); res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", res.Status, said)
		}
		return nil
	}))
	return said
}
