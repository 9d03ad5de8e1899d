// SPDX-License-Identifier: GPL-3.0-or-later

package observe_test

import (
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

var aJob = observe.Job{
	ID: "0b4e7a52-1c3d-4e5f-8a9b-0c1d2e3f4a5b", SessionID: "5f0c1d2e-aaaa-4bbb-8ccc-0123456789ab", CorrelationID: "c0ffee00-1111-4222-8333-444455556666",
	Actor: "token:a1b2c3", Engine: "llamacpp", EngineVersion: "v0.5.0", PoolID: "default", ReplicaID: "default-0",
	Priority: task.Interactive, Workload: task.Completion, Model: "haiku",
	QueuePosition: 2, PredictedStart: 1500 * time.Millisecond, TokensIn: 17, TokensOut: 1234, DecodeTime: 420 * time.Millisecond,
}

func tellAll(n *observe.Narrator, j observe.Job) {
	n.Admitted(j)
	n.Refused(j, task.Errorf(task.AdmissionReject, "the queue of pool %s is full", j.PoolID))
	n.Placed(j, 2*time.Second, 2)
	n.StreamStarted(j, 2100*time.Millisecond)
	n.StreamEnded(j, "")
	n.StreamEnded(j, task.WorkerReset)
	n.Canceled(j, task.Queued)
	n.Canceled(j, task.Running)
}

// ORCH-3027, ORCH-3300
func TestNarratedLinesCarryTheRequiredFields(t *testing.T) {
	lines, _ := logged(t, observe.Options{}, func(log *zap.Logger) { tellAll(observe.NewNarrator(log), aJob) })
	require.Len(t, lines, 8)
	for _, line := range lines {
		for _, field := range []string{
			"job_id", "session_id", "engine", "engine_version", "pool_id", "replica_id", "queue_position", "predicted_start_ms", "tokens_in",
			"tokens_out", "decode_time_ms", "correlation_id", "actor", "action", "target", "task", "human",
		} {
			require.Contains(t, line, field, line["msg"])
			require.NotEmpty(t, line[field])
		}
		require.Equal(t, aJob.ID, line["job_id"])
		require.EqualValues(t, 1500, line["predicted_start_ms"])
		require.EqualValues(t, 420, line["decode_time_ms"])
		require.Equal(t, "pool:default", line["target"])
	}
}

// ORCH-3300, LO-846
func TestNarrationReadsLikeSentences(t *testing.T) {
	lines, _ := logged(t, observe.Options{}, func(log *zap.Logger) { tellAll(observe.NewNarrator(log), aJob) })
	want := [][2]string{
		{"admission", "Accepted an interactive completion with haiku, sent with the token, for pool 'default'; 2 tasks are ahead of it, and it should start in 1.5 seconds."},
		{"admission", "Refused an interactive completion with haiku, sent with the token, for pool 'default': the queue was full."},
		{"placement", "Gave an interactive completion with haiku, sent with the token, to a replica of pool 'default' after 2.0 seconds in the queue; 2 replicas could have taken it."},
		{"stream_start", "The first output of an interactive completion with haiku, sent with the token, in pool 'default' came 2.1 seconds after it was accepted."},
		{"stream_end", "Finished an interactive completion with haiku, sent with the token, in pool 'default': 17 tokens in, 1,234 tokens out, decoded in 420 milliseconds."},
		{"stream_end", "Ended an interactive completion with haiku, sent with the token, in pool 'default' after 1,234 tokens: the worker it ran on was lost."},
		{"cancel", "Canceled an interactive completion with haiku, sent with the token, in pool 'default' while it was waiting; nothing had been decoded."},
		{"cancel", "Canceled an interactive completion with haiku, sent with the token, in pool 'default' while it was running, after 1,234 tokens."},
	}
	for i, line := range lines {
		got := [2]string{line["msg"].(string), line["human"].(string)}
		require.Equal(t, want[i], got)
	}
}

// One code has several causes. The log names the one that was.
//
// ORCH-3300
func TestARefusalIsToldByItsOwnCause(t *testing.T) {
	lines, _ := logged(t, observe.Options{}, func(log *zap.Logger) {
		n := observe.NewNarrator(log)
		n.Refused(aJob, task.Errorf(task.Conflict, "task_id x is taken"))
		n.Refused(aJob, task.Errorf(task.Conflict, "a turn of session x is on").Narrate("another turn of its session is on"))
	})
	require.Regexp(t, ": another task has that id already\\.$", lines[0]["human"])
	require.Regexp(t, ": another turn of its session is on\\.$", lines[1]["human"])
}

// ORCH-3300
func TestNobodyAskedIsTheOrchestrator(t *testing.T) {
	lines, _ := logged(t, observe.Options{}, func(log *zap.Logger) { observe.NewNarrator(log).StreamEnded(observe.Job{}, task.ShuttingDown) })
	require.Equal(t, "orchestrator", lines[0]["actor"])
	require.Equal(t, "Ended a task in its pool after 0 tokens: the orchestrator was shutting down.", lines[0]["human"])
}

// Two tasks that run at the same time are told apart by their lines, and so are those who sent them.
//
// LO-846
func TestANarratedLineNamesItsTask(t *testing.T) {
	for id, want := range map[string]string{
		aJob.ID:                         "0b4e7a52",
		"rain-1":                        "rain-1",
		"a-task-of-the-night-0001":      "a-task-of-the-night-0001",
		"benchmark-of-the-morning-0001": "benchmar…he-morning-0001",
		"benchmark-of-the-morning-0002": "benchmar…he-morning-0002",
		"":                              "",
	} {
		j := aJob
		j.ID = id
		lines, _ := logged(t, observe.Options{}, func(log *zap.Logger) { tellAll(observe.NewNarrator(log), j) })
		for _, line := range lines {
			require.Equal(t, want, line["task"])
		}
	}
	for actor, want := range map[string]string{
		"localhost":    "Canceled an interactive completion with haiku, sent from this machine, in pool",
		"token:a1b2c3": "Canceled an interactive completion with haiku, sent with the token, in pool",
		"self-test":    "Canceled an interactive completion with haiku, sent by the self-test, in pool",
		"":             "Canceled an interactive completion with haiku in pool",
	} {
		j := aJob
		j.Actor = actor
		lines, _ := logged(t, observe.Options{}, func(log *zap.Logger) { observe.NewNarrator(log).Canceled(j, task.Queued) })
		require.Contains(t, lines[0]["human"], want)
	}
}

// ORCH-3300
func TestEveryCodeHasAReason(t *testing.T) {
	for _, code := range task.Codes() {
		switch code {
		case task.MissingToken, task.BadToken, task.NotFound, task.MethodNotAllowed, task.UnsupportedMedia:
			continue // no task exists yet when these are answered
		}
		lines, _ := logged(t, observe.Options{}, func(log *zap.Logger) { observe.NewNarrator(log).StreamEnded(aJob, code) })
		require.NotContains(t, lines[0]["human"], "it could not be done", code)
	}
}

// Whatever the ids, names and figures are, the sentence holds no UUID and no run of eight hexadecimal digits.
// ORCH-3300
func TestPropertyHumanHoldsNoIdentifiers(t *testing.T) {
	identifier := regexp.MustCompile(`(?i)[0-9a-f]{8}`)
	id := rapid.OneOf(rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`),
		rapid.StringMatching(`(pool|gpu)-[0-9a-f]{1,64}`), rapid.StringMatching(`[a-zA-Z0-9._-]{0,100}`), rapid.Just(""))
	figure := rapid.Int64Range(-10, 1<<62)
	rapid.Check(t, func(t *rapid.T) {
		j := observe.Job{
			ID: id.Draw(t, "id"), SessionID: id.Draw(t, "session"), CorrelationID: id.Draw(t, "correlation"), ReplicaID: id.Draw(t, "replica"),
			PoolID: id.Draw(t, "pool"), Model: id.Draw(t, "model"), EngineVersion: id.Draw(t, "version"),
			Workload:      rapid.SampledFrom([]task.Workload{task.Completion, task.Embedding, task.Rerank, ""}).Draw(t, "workload"),
			Priority:      rapid.SampledFrom([]task.Priority{task.Interactive, task.Batch, ""}).Draw(t, "priority"),
			QueuePosition: int(figure.Draw(t, "position")), TokensIn: int(figure.Draw(t, "in")), TokensOut: int(figure.Draw(t, "out")),
			PredictedStart: time.Duration(figure.Draw(t, "start")), DecodeTime: time.Duration(figure.Draw(t, "decode")),
		}
		var human []string
		log := zap.NewExample(zap.WrapCore(sentences(&human)))
		tellAll(observe.NewNarrator(log), j)
		for _, s := range human {
			if identifier.MatchString(s) {
				t.Fatalf("reads like an identifier: %s", s)
			}
		}
		if len(human) != 8 {
			t.Fatalf("%d sentences, want 8", len(human))
		}
	})
}
