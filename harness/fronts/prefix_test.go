// SPDX-License-Identifier: GPL-3.0-or-later

package fronts_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
)

// pair is a pool of two replicas, at a pace at which one can be kept busy.
const pair = `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
pools:
  - {id: pair, model: {id: haiku, ref: "file:%[1]s"}, device: cpu, replicas: 2, pace: 60}
`

// A conversation on a front has no session, and yet its next turn goes to the replica that holds the beginning of its prompt, though another is free and
// would be the first one to be taken. What it finds there is whole pieces, and a turn that starts cold has the same bytes.
// LO-442, LO-443, LO-206
func TestAConversationFindsItsReplica(t *testing.T) {
	lab, err := daemon.NewLab(t.Context(), t.TempDir(), "../..")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	file := filepath.Join(lab.Dir, "c.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, pair, lab.Model), 0o600))
	d, err := lab.Serve(t.Context(), daemon.Options{Config: file, Options: process.Options{Args: []string{"--no-self-test"}, Env: lab.Env(lab.Dir, nil)}})
	require.NoError(t, err)
	b := box{t, d}
	replicas, err := d.Idle(t.Context(), "pair")
	require.NoError(t, err)

	const question = `Write a haiku about rain containing \"ten past two\". Let it be a quiet one, of a roof, and of somebody who listens.`
	const first = `{"role":"user","content":"` + question + `"}`
	say := func(more string) string {
		return `{"model":"haiku","messages":[` + more + `],"seed":7,"max_completion_tokens":24}`
	}
	// busy keeps the replica busy that gets these messages, until it is let go.
	busy := func(messages string) (let func()) {
		res := b.ask(t.Context(), "/v1/chat/completions", `{"model":"haiku","messages":[`+messages+`],"stream":true,"temperature":5,"top_p":1,"max_completion_tokens":150}`)
		lines := bufio.NewScanner(res.Body)
		for lines.Scan() && !strings.Contains(lines.Text(), `"content":"`) {
		}
		return func() { require.NoError(t, res.Body.Close()) }
	}
	turn := func(messages string) (text string, receipt struct {
		Replica     string `json:"replica_id"`
		Determinism string
		Cached      int    `json:"tokens_cached"`
		SHA         string `json:"transcript_sha256"`
	},
	) {
		var a struct {
			ID string
			answer
		}
		b.whole("/v1/chat/completions", say(messages), &a)
		require.Len(t, a.Choices, 1, "%+v", a)
		var task struct {
			End struct{ Receipt json.RawMessage }
		}
		b.get("/v1/tasks/"+strings.TrimPrefix(a.ID, "chatcmpl-"), &task)
		require.NoError(t, json.Unmarshal(task.End.Receipt, &receipt))
		require.Equal(t, "strict", receipt.Determinism)
		return a.Choices[0].Message.Content, receipt
	}
	let := busy(`{"role":"user","content":"Tell me of frogs."}`)
	said, r := turn(first)
	let()
	require.Equal(t, replicas[1].ID, r.Replica)
	require.Zero(t, r.Cached)
	_, err = d.Idle(t.Context(), "pair")
	require.NoError(t, err)

	answered, err := json.Marshal(said)
	require.NoError(t, err)
	second := first + `,{"role":"assistant","content":` + string(answered) + `},{"role":"user","content":"` + question + ` And another one, about snow."}` // the bundled model's template takes the last one alone
	_, r = turn(second)
	require.Equal(t, replicas[1].ID, r.Replica, "the first one is free, and would be taken")
	require.Positive(t, r.Cached)
	require.Zero(t, r.Cached%16)

	let = busy(second) // it is where that is the beginning of
	defer let()
	_, elsewhere := turn(second)
	require.Equal(t, replicas[0].ID, elsewhere.Replica, "it does not wait for its replica while another is free")
	require.Zero(t, elsewhere.Cached)
	require.Equal(t, r.SHA, elsewhere.SHA)
}
