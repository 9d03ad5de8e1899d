// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/process"
)

// limitCases make, for each limit of /v1/capabilities, a request that has n of what it bounds, and say how one is refused that has more.
var limitCases = map[string]struct {
	request func(n int64) string
	status  int
	code    string
}{
	"max_body_bytes": {func(n int64) string {
		return withField(`"prompt":"x"`) + strings.Repeat(" ", int(n)-len(withField(`"prompt":"x"`)))
	}, http.StatusRequestEntityTooLarge, "TOO_LARGE"},
	"max_prompt_bytes": {func(n int64) string { return withField(`"prompt":"` + text(n) + `"`) }, http.StatusRequestEntityTooLarge, "TOO_LARGE"},
	"max_messages": {func(n int64) string {
		return withField(`"messages":[` + repeated(`{"role":"user","content":"x"}`, n) + `]`)
	}, http.StatusRequestEntityTooLarge, "TOO_LARGE"},
	"max_inputs": {func(n int64) string {
		return fmt.Sprintf(`{"model_ref":"e","workload":"embedding","inputs":[%s]}`, repeated(`"x"`, n))
	}, http.StatusRequestEntityTooLarge, "TOO_LARGE"},
	"max_stop": {func(n int64) string {
		return withField(`"prompt":"x","params":{"stop":[` + repeated(`"y"`, n) + `]}`)
	}, http.StatusBadRequest, "INVALID_PARAMS"},
	"max_seed":        {func(n int64) string { return withField(fmt.Sprintf(`"prompt":"x","seed":%d`, n)) }, http.StatusBadRequest, "INVALID_PARAMS"},
	"max_deadline_ms": {func(n int64) string { return withField(fmt.Sprintf(`"prompt":"x","deadline_ms":%d`, n)) }, http.StatusBadRequest, "INVALID_PARAMS"},
}

func withField(fields string) string { return `{"model_ref":"m","max_tokens":1,` + fields + `}` }

// text is n bytes of UTF-8, and about half as many characters. The fake engine takes it for one token.
func text(n int64) string { return strings.Repeat("é", int(n/2)) + strings.Repeat("x", int(n%2)) }

func repeated(item string, n int64) string {
	return strings.Join(slices.Repeat([]string{item}, int(n)), ",")
}

// What is sent: as much as a limit of /v1/capabilities says, then one more. What comes back: an acceptance, then the typed refusal. This holds
// with the defaults, below them, and above: what the contract bounds by itself holds up no setting.
// LO-848, LO-413
func TestTheLimitsThatAreShownAreInForce(t *testing.T) {
	exe := built(t)
	for name, settings := range map[string]string{
		"the defaults": "",
		"lower":        "limits: {body_bytes: 4096, prompt_bytes: 1001, inputs: 3}",
		"higher":       "limits: {body_bytes: 16777216, prompt_bytes: 10485760, inputs: 20000}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			engine := func() string {
				s := httptest.NewServer(fakeengine.New(fakeengine.Options{Ctx: 100_000}))
				t.Cleanup(s.Close)
				return s.URL
			}
			config := filepath.Join(dir, "config.yaml")
			require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
%s
pools:
  - {id: text, model: {id: m, ref: x}, queue: {capacity: 1000}, provisioning: {mode: external, urls: [%q]}}
  - {id: numbers, model: {id: e, ref: y}, workload: embedding, provisioning: {mode: external, urls: [%q]}}
`, settings, engine(), engine()), 0o600))
			l := process.NewLauncher()
			t.Cleanup(l.Close)
			d, err := daemon.Start(t.Context(), l, daemon.Options{
				Config: config, Options: process.Options{Exe: exe, Args: []string{"--no-self-test"}, Env: process.Env(dir, nil)},
			})
			require.NoError(t, err)
			t.Cleanup(d.Kill)
			for _, pool := range []string{"text", "numbers"} {
				_, err = d.Idle(t.Context(), pool)
				require.NoError(t, err)
			}
			answer, err := d.Client.Get(t.Context(), "/v1/capabilities")
			require.NoError(t, err)
			var capabilities struct {
				Limits map[string]int64 `json:"limits"`
			}
			require.NoError(t, json.Unmarshal(answer, &capabilities))
			require.ElementsMatch(t, slices.Collect(maps.Keys(limitCases)), slices.Collect(maps.Keys(capabilities.Limits)), "each limit has a case")
			for limit, n := range capabilities.Limits {
				c := limitCases[limit]
				_, err := d.Client.Submit(t.Context(), []byte(c.request(n)))
				require.NoError(t, err, "%s: %d is accepted", limit, n)
				_, err = d.Client.Submit(t.Context(), []byte(c.request(n+1)))
				refused, ok := errors.AsType[*client.RefusedError](err)
				require.True(t, ok, "%s: %d is refused: %v", limit, n+1, err)
				require.Equal(t, c.status, refused.Status, "%s: %s", limit, refused.Message)
				require.Equal(t, c.code, refused.Code, limit)
			}
		})
	}
}
