// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

const sessionID = "3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10"

func text(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(b)
}

// ORCH-3021, ORCH-3099, LO-627
func TestSessionIsBegunShownAndDeleted(t *testing.T) {
	f := setup(t)
	rests := task.Budgets{Tokens: task.Rest[int64]{Left: 90, Bounded: true}, Cost: task.Rest[float64]{Left: 0.25, Bounded: true}, Joules: task.Rest[float64]{Left: 7.5, Bounded: true}}
	f.sessions.session = task.SessionStatus{
		Session: task.Session{ID: sessionID, MaxTurns: 4, CreatedAt: time.UnixMilli(0).UTC()}, TTLLeft: time.Minute, Rests: rests,
	}
	res := f.do("POST", "/v1/sessions", `{"session_id":"3F8A1C9E-54B7-4D5A-9D0B-7A2F6F1C2E10","ttl_ms":60000,"max_turns":4,"budget":{"tokens":100,"time_ms":5,"cost":0.0000015,"joules":90.0001}}`)
	require.Equal(t, http.StatusCreated, res.StatusCode)
	require.Equal(t, "/v1/sessions/"+sessionID, res.Header.Get("Location"))
	require.Equal(t, "90", res.Header.Get("X-Budget-Tokens-Remaining"))
	require.Empty(t, res.Header.Get("X-Budget-Time-Remaining-Ms"))
	require.Equal(t, "0.2500000000", res.Header.Get("X-Budget-Cost-Remaining"))
	require.Equal(t, "7.5000000000", res.Header.Get("X-Budget-Joules-Remaining"))
	require.JSONEq(t, `{"session_id":"3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10","turns":0,"max_turns":4,"ttl_remaining_ms":60000,"kv_warmth":false,
		"budget_tokens_remaining":90,"budget_cost_remaining":0.25,"budget_joules_remaining":7.5,"created_at":"1970-01-01T00:00:00.000Z"}`, text(t, res))
	require.Equal(t, []any{task.SessionRequest{
		ID: sessionID, TTL: time.Minute, MaxTurns: 4, Budget: task.Amount{Tokens: 100, Time: 5 * time.Millisecond, Cost: 2, Energy: 90_001}, Actor: "localhost",
	}}, f.sessions.asked, "the id in its canonical form, a cost never rounded to nothing")

	s := &f.sessions.session
	s.PoolID, s.ReplicaID, s.Turns, s.Warm, s.KVBytes = "default", "default-0", 2, true, 4096
	res = f.do("GET", "/v1/sessions/"+sessionID, "")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "90", res.Header.Get("X-Budget-Tokens-Remaining"))
	body := text(t, res)
	for _, want := range []string{`"pool_id":"default"`, `"replica_id":"default-0"`, `"turns":2`, `"kv_warmth":true`, `"kv_bytes":4096`} {
		require.Contains(t, body, want)
	}
	require.Equal(t, []any{sessionID, "localhost"}, f.sessions.asked)

	require.Equal(t, http.StatusNoContent, f.do("DELETE", "/v1/sessions/"+sessionID, "").StatusCode)
	f.sessions.err = task.Errorf(task.Conflict, "a turn is on")
	require.Equal(t, http.StatusConflict, f.do("DELETE", "/v1/sessions/"+sessionID, "").StatusCode)
}

// The 202 says what is left once the task's part is reserved.
// ORCH-3099
func TestAdmissionSaysWhatIsLeft(t *testing.T) {
	f := setup(t)
	f.sessions.rests = task.Budgets{Tokens: task.Rest[int64]{Bounded: true}, TimeMS: task.Rest[int64]{Left: 7, Bounded: true}}
	res := f.do("POST", "/v1/tasks", `{"model_ref":"haiku","prompt":"x","session_id":"`+sessionID+`"}`)
	require.Equal(t, http.StatusAccepted, res.StatusCode)
	require.Equal(t, "0", res.Header.Get("X-Budget-Tokens-Remaining"))
	require.Equal(t, "7", res.Header.Get("X-Budget-Time-Remaining-Ms"))
	require.Empty(t, res.Header.Get("X-Budget-Cost-Remaining"))
	require.Equal(t, []any{sessionID, "localhost"}, f.sessions.asked)
}

// Negative, overflowing and nonsensical limits, and ids that are no UUIDs, are refused before anything looks at them.
// ORCH-3099, ORCH-3021
func TestBadSessionsAreRefused(t *testing.T) {
	f := setup(t)
	for _, body := range []string{
		`{"budget":{"tokens":-1}}`, `{"budget":{"tokens":0}}`, `{"budget":{"tokens":9007199254740992}}`, `{"budget":{"tokens":1e300}}`,
		`{"budget":{"tokens":9223372036854775808}}`, `{"budget":{"time_ms":-5}}`, `{"budget":{"cost":-0.1}}`, `{"budget":{"cost":1e999}}`,
		`{"budget":{"cost":"1"}}`, `{"budget":{"token":1}}`, `{"budget":{"joules":0}}`, `{"budget":{"joules":-1}}`, `{"ttl_ms":0}`, `{"ttl_ms":86400001}`, `{"max_turns":0}`, `{"session_id":"7"}`, `[]`,
	} {
		res := f.do("POST", "/v1/sessions", body)
		require.Equal(t, http.StatusBadRequest, res.StatusCode, body)
		var e struct{ Code, Message string }
		require.NoError(t, json.NewDecoder(res.Body).Decode(&e), body)
		require.Equal(t, "INVALID_PARAMS", e.Code, body)
	}
	for _, id := range []string{"7", strings.Repeat("3", 36), "..%2f"} {
		require.Equal(t, http.StatusBadRequest, f.do("GET", "/v1/sessions/"+id, "").StatusCode, id)
		require.Equal(t, http.StatusBadRequest, f.do("DELETE", "/v1/sessions/"+id, "").StatusCode, id)
	}
	require.Nil(t, f.sessions.asked)
}
