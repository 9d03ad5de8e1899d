// SPDX-License-Identifier: GPL-3.0-or-later

package observe

import (
	"fmt"
	"math"
	"regexp"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// Job is what the narrated log lines say of a task: the fields that ORCH-3027 asks of every such line, known or not yet.
type Job struct {
	ID             string // job_id
	SessionID      string
	CorrelationID  string
	Actor          string // who asked: localhost or token:<6 hex>; the orchestrator where nobody did
	Engine         string
	EngineVersion  string
	PoolID         string
	ReplicaID      string
	Priority       task.Priority
	Workload       task.Workload
	Model          string // the name under which the pool serves it
	QueuePosition  int
	PredictedStart time.Duration // from admission
	TokensIn       int
	TokensOut      int
	DecodeTime     time.Duration
}

// Narrator writes one log line for each of the five events of a task's way that have one (ORCH-3300), with a sentence for
// people in `human`. The sentence is composed of facts, never of ids, prompts or secrets.
type Narrator struct{ log *zap.Logger }

// NewNarrator makes a narrator that writes to log.
func NewNarrator(log *zap.Logger) *Narrator { return &Narrator{log: log} }

// Admitted tells that a task was accepted.
func (n *Narrator) Admitted(j Job) {
	start := "it should start in " + span(j.PredictedStart)
	if j.PredictedStart == 0 && j.QueuePosition > 0 {
		start = "nothing was measured yet that would tell its start"
	}
	n.say("admission", "admit", j, fmt.Sprintf("Accepted %s for %s; %s, and %s.", j.kind(), j.pool(), ahead(j.QueuePosition), start))
}

// Refused tells that a task was not accepted, and why in one code.
func (n *Narrator) Refused(j Job, code task.Code) {
	n.say("admission", "refuse", j, fmt.Sprintf("Refused %s for %s: %s.", j.kind(), j.pool(), because(code)),
		zap.String("code", string(code)))
}

// Placed tells that a task got a replica. Waited is the time since its admission; candidates, how many replicas of the pool
// could have taken it.
func (n *Narrator) Placed(j Job, waited time.Duration, candidates int) {
	n.say("placement", "place", j, fmt.Sprintf("Gave %s to a replica of %s after %s in the queue; %s could have taken it.",
		j.kind(), j.pool(), span(waited), count(candidates, "replica")), zap.Int("candidates", candidates))
}

// StreamStarted tells that the first token (or, where none are sent, the result) is there. Waited is the time since
// admission.
func (n *Narrator) StreamStarted(j Job, waited time.Duration) {
	n.say("stream_start", "start", j, fmt.Sprintf("The first output of %s in %s came %s after it was accepted.",
		j.kind(), j.pool(), span(waited)))
}

// StreamEnded tells how a task that ran ended; code is empty when it completed.
func (n *Narrator) StreamEnded(j Job, code task.Code) {
	if code == "" {
		n.say("stream_end", "complete", j, fmt.Sprintf("Finished %s in %s: %s in, %s out, decoded in %s.",
			j.kind(), j.pool(), count(j.TokensIn, "token"), count(j.TokensOut, "token"), span(j.DecodeTime)))
		return
	}
	n.say("stream_end", "fail", j, fmt.Sprintf("Ended %s in %s after %s: %s.",
		j.kind(), j.pool(), count(j.TokensOut, "token"), because(code)), zap.String("code", string(code)))
}

// Canceled tells that a client took a task back. While is the state it was in.
func (n *Narrator) Canceled(j Job, while task.State) {
	human := fmt.Sprintf("Cancelled %s in %s while it was waiting; nothing had been decoded.", j.kind(), j.pool())
	if while == task.Running {
		human = fmt.Sprintf("Cancelled %s in %s while it was running, after %s.", j.kind(), j.pool(), count(j.TokensOut, "token"))
	}
	n.say("cancel", "cancel", j, human, zap.String("while", string(while)))
}

func (n *Narrator) say(event, action string, j Job, human string, more ...zap.Field) {
	actor := j.Actor
	if actor == "" {
		actor = "orchestrator"
	}
	told := append([]zap.Field{
		zap.String("actor", actor),
		zap.String("action", action),
		zap.String("target", "pool:"+j.PoolID),
		zap.String("human", human),
	}, j.Fields()...)
	n.log.Info(event, append(told, more...)...)
}

// Fields are those of every log line about a task, narrated or not (ORCH-3027).
func (j Job) Fields() []zap.Field {
	return []zap.Field{
		zap.String("job_id", j.ID),
		zap.String("session_id", j.SessionID),
		zap.String("correlation_id", j.CorrelationID),
		zap.String("engine", j.Engine),
		zap.String("engine_version", j.EngineVersion),
		zap.String("pool_id", j.PoolID),
		zap.String("replica_id", j.ReplicaID),
		zap.Int("queue_position", j.QueuePosition),
		zap.Int64("predicted_start_ms", j.PredictedStart.Milliseconds()),
		zap.Int("tokens_in", j.TokensIn),
		zap.Int("tokens_out", j.TokensOut),
		zap.Int64("decode_time_ms", j.DecodeTime.Milliseconds()),
	}
}

// opaque finds what is no name: a UUID, or a run of digits and letters a to f as hashes have.
var opaque = regexp.MustCompile(`(?i)[0-9a-f]{8}`)

// maxName keeps a name from filling the sentence.
const maxName = 64

// name returns a name for a sentence, or "" where what was given reads like an identifier.
func name(s string) string {
	if s == "" || len(s) > maxName || opaque.MatchString(s) {
		return ""
	}
	return s
}

func (j Job) pool() string {
	if s := name(j.PoolID); s != "" {
		return fmt.Sprintf("pool '%s'", s)
	}
	return "its pool"
}

// kind says what sort of task it is: "an interactive completion with haiku".
func (j Job) kind() string {
	what := "a task"
	switch j.Workload {
	case task.Completion:
		what = "completion"
	case task.Embedding:
		what = "embedding"
	case task.Rerank:
		what = "rerank"
	}
	switch {
	case what == "a task":
	case j.Priority == task.Batch:
		what = "a batch " + what
	default:
		what = "an interactive " + what
	}
	if s := name(j.Model); s != "" {
		what += " with " + s
	}
	return what
}

func ahead(n int) string {
	switch n {
	case 0:
		return "nothing is ahead of it"
	case 1:
		return "one task is ahead of it"
	}
	return number(n) + " tasks are ahead of it"
}

func count(n int, noun string) string {
	if n == 1 {
		return "one " + noun
	}
	return number(n) + " " + noun + "s"
}

// number writes thousands apart, so no figure reads like an identifier.
func number(n int) string {
	if n < 0 {
		return "-" + number(-n)
	}
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", number(n/1000), n%1000)
}

// span writes a duration as one would say it.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "less than a millisecond"
	case d < time.Second:
		return count(int(d.Milliseconds()), "millisecond")
	case d < 2*time.Minute:
		return fmt.Sprintf("%.1f seconds", d.Seconds())
	case d < 2*time.Hour:
		return count(int(math.Round(d.Minutes())), "minute")
	}
	return count(int(math.Round(d.Hours())), "hour")
}

// reasons says what a code means for the task that got it.
var reasons = map[task.Code]string{
	task.InvalidParams:     "the request was not valid",
	task.DeadlineUnmet:     "it could not meet its deadline",
	task.UntrustedArtifact: "its model is not what its digest says",
	task.PolicyDenied:      "the policy does not allow it",
	task.ModelNotFound:     "no pool serves that model",
	task.Conflict:          "another task has that id already",
	task.ModelDeprecated:   "that model was retired",
	task.TooLarge:          "it was too large",
	task.AdmissionReject:   "the queue was full",
	task.QueueFullDropLRU:  "the queue was full and it gave way to a newer task",
	task.RateLimited:       "too many tasks came too fast",
	task.BudgetExceeded:    "its budget is used up",
	task.Internal:          "something went wrong inside the orchestrator",
	task.NotImplemented:    "this build cannot do that yet",
	task.PoolUnready:       "no replica of the pool was ready",
	task.PoolUnavailable:   "the pool was not available",
	task.ReplicaExhausted:  "every replica had failed on it",
	task.ShuttingDown:      "the orchestrator was shutting down",
	task.LedgerUnavailable: "it could not be recorded on disk",
	task.DecodeTimeout:     "it took longer than its time limit",
	task.WorkerReset:       "the worker it ran on was lost",
	task.Canceled:          "it was cancelled",
}

func because(code task.Code) string {
	if s, ok := reasons[code]; ok {
		return s
	}
	return "it could not be done"
}
