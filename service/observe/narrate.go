// SPDX-License-Identifier: GPL-3.0-or-later

package observe

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/llama-orch/llama-orch/service/task"
)

// Job is what the narrated log lines say of a task. ORCH-3027 wants all of these fields in every line, also those that are not known yet.
type Job struct {
	ID             string // job_id
	SessionID      string
	CorrelationID  string
	Actor          string // who asked: localhost or token:<6 hex>; empty where the orchestrator did
	Engine         string
	EngineVersion  string
	PoolID         string
	ReplicaID      string
	Priority       task.Priority
	Workload       task.Workload
	Model          string // the name by which the pool serves it
	QueuePosition  int
	PredictedStart time.Duration // from admission
	TokensIn       int
	TokensOut      int
	DecodeTime     time.Duration
}

// Narrator writes one log line for each of the five events of a task's way that have one (ORCH-3300), with a sentence for
// people in `human`. The sentence is made of facts, never of ids, prompts or secrets. The field `task` tells the lines of tasks apart that
// run at the same time (LO-846). Where the log's level keeps a line out, its sentence is not made at all.
type Narrator struct{ log *zap.Logger }

// NewNarrator makes a narrator that writes to log.
func NewNarrator(log *zap.Logger) *Narrator { return &Narrator{log: log} }

// Admitted says that a task was accepted.
func (n *Narrator) Admitted(j Job) {
	if line := n.log.Check(zap.InfoLevel, "admission"); line != nil {
		start := "it should start in " + span(j.PredictedStart)
		if j.PredictedStart == 0 && j.QueuePosition > 0 {
			start = "nothing was measured yet that would tell its start"
		}
		say(line, "admit", &j, "Accepted "+j.kind()+" for "+j.pool()+"; "+ahead(j.QueuePosition)+", and "+start+".")
	}
}

// Refused says that a task was not accepted, and why: in the error's own words for the log, or else in those of its code.
func (n *Narrator) Refused(j Job, e *task.Error) {
	if line := n.log.Check(zap.InfoLevel, "admission"); line != nil {
		why := e.Narrated
		if why == "" {
			why = because(e.Code)
		}
		say(line, "refuse", &j, "Refused "+j.kind()+" for "+j.pool()+": "+why+".", zap.String("code", string(e.Code)))
	}
}

// Placed says that a task got a replica. Waited is the time since its admission. Candidates is how many replicas of the pool could
// have taken the task.
func (n *Narrator) Placed(j Job, waited time.Duration, candidates int) {
	if line := n.log.Check(zap.InfoLevel, "placement"); line != nil {
		say(line, "place", &j, "Gave "+j.kind()+" to a replica of "+j.pool()+" after "+span(waited)+" in the queue; "+
			count(candidates, "replica")+" could have taken it.", zap.Int("candidates", candidates))
	}
}

// StreamStarted says that a task's first token is there, or its result where no tokens are sent. Waited is the time since its
// admission.
func (n *Narrator) StreamStarted(j Job, waited time.Duration) {
	if line := n.log.Check(zap.InfoLevel, "stream_start"); line != nil {
		say(line, "start", &j, "The first output of "+j.kind()+" in "+j.pool()+" came "+span(waited)+" after it was accepted.")
	}
}

// StreamEnded says how a task that ran has ended. The code is empty where the task completed.
func (n *Narrator) StreamEnded(j Job, code task.Code) {
	line := n.log.Check(zap.InfoLevel, "stream_end")
	switch {
	case line == nil:
	case code == "":
		say(line, "complete", &j, "Finished "+j.kind()+" in "+j.pool()+": "+count(j.TokensIn, "token")+" in, "+
			count(j.TokensOut, "token")+" out, decoded in "+span(j.DecodeTime)+".")
	default:
		say(line, "fail", &j, "Ended "+j.kind()+" in "+j.pool()+" after "+count(j.TokensOut, "token")+": "+because(code)+".",
			zap.String("code", string(code)))
	}
}

// Canceled says that a client canceled a task. While is the state that the task was in.
func (n *Narrator) Canceled(j Job, while task.State) {
	if line := n.log.Check(zap.InfoLevel, "cancel"); line != nil {
		how := "waiting; nothing had been decoded."
		if while == task.Running {
			how = "running, after " + count(j.TokensOut, "token") + "."
		}
		say(line, "cancel", &j, "Canceled "+j.kind()+" in "+j.pool()+" while it was "+how, zap.String("while", string(while)))
	}
}

// lineFields is how many fields a narrated line has at most.
const lineFields = 19

// lines keeps the slices of fields, so that the next line can use them again.
var lines = sync.Pool{New: func() any {
	fields := make([]zap.Field, 0, lineFields)
	return &fields
}}

// say writes a line. No core of the log keeps the fields once it has written them.
func say(line *zapcore.CheckedEntry, action string, j *Job, human string, more ...zap.Field) {
	kept, ok := lines.Get().(*[]zap.Field)
	if !ok {
		kept = &[]zap.Field{}
	}
	actor := j.Actor
	if actor == "" {
		actor = "orchestrator"
	}
	fields := append((*kept)[:0],
		zap.String("actor", actor),
		zap.String("action", action),
		zap.String("target", "pool:"+j.PoolID),
		zap.String("task", shortID(j.ID)),
		zap.String("human", human))
	fields = append(j.appendFields(fields), more...)
	line.Write(fields...)
	clear(fields) // the pool must not keep what they name
	*kept = fields
	lines.Put(kept)
}

// Fields are those of every log line about a task, narrated or not (ORCH-3027).
func (j Job) Fields() []zap.Field { return j.appendFields(make([]zap.Field, 0, lineFields)) }

func (j *Job) appendFields(to []zap.Field) []zap.Field {
	return append(to,
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
		zap.Int64("decode_time_ms", j.DecodeTime.Milliseconds()))
}

// maxName is the length of the longest name, in bytes, that a sentence quotes.
const maxName = 64

// name returns a name that a sentence may quote. It returns "" for one that reads like an identifier, as a UUID or a hash does: one
// with eight hexadecimal digits in a row.
func name(s string) string {
	if len(s) > maxName {
		return ""
	}
	for i, run := 0, 0; i < len(s); i++ {
		if !isHex(s[i]) {
			run = 0
			continue
		}
		if run++; run == 8 {
			return ""
		}
	}
	return s
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }

func (j *Job) pool() string {
	if s := name(j.PoolID); s != "" {
		return "pool '" + s + "'"
	}
	return "its pool"
}

// The bounds of a short id.
const (
	uuidLength  = 36
	uuidDigits  = 8  // that are shown of a UUID: two tasks of one hour hardly share them
	longestID   = 24 // of an id that a client chose, as it is
	idBeginning = 8  // that is shown of a longer one, before its end: such ids often differ in their last characters alone
)

// shortID is a task's id as a person would tell it from the few others of the hour. The whole id is job_id.
func shortID(id string) string {
	switch {
	case isUUID(id):
		return id[:uuidDigits]
	case len(id) <= longestID:
		return id
	}
	return id[:idBeginning] + "…" + id[len(id)-(longestID-idBeginning-1):]
}

func isUUID(text string) bool { return len(text) == uuidLength && uuid.Validate(text) == nil }

// sender says who sent the task, in words. There is one token, so that its digits would tell nothing more.
func (j *Job) sender() string {
	switch {
	case j.Actor == "localhost":
		return ", sent from this machine,"
	case strings.HasPrefix(j.Actor, "token:"):
		return ", sent with the token,"
	case j.Actor == task.SelfTester:
		return ", sent by the self-test,"
	}
	return ""
}

// kind says what sort of task it is, and whose: "an interactive completion with haiku, sent from this machine,".
func (j *Job) kind() string { return j.work() + j.sender() }

func (j *Job) work() string {
	what := "a task"
	switch batch := j.Priority == task.Batch; j.Workload {
	case task.Completion:
		what = either(batch, "a batch completion", "an interactive completion")
	case task.Embedding:
		what = either(batch, "a batch embedding", "an interactive embedding")
	case task.Opaque:
		what = either(batch, "a batch request", "an interactive request")
	case task.Rerank:
		what = either(batch, "a batch rerank", "an interactive rerank")
	}
	if s := name(j.Model); s != "" {
		return what + " with " + s
	}
	return what
}

func either(first bool, a, b string) string {
	if first {
		return a
	}
	return b
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

// number puts commas between the thousands, so that no figure reads like an identifier.
func number(n int) string {
	if n < 0 {
		return "-" + number(-n)
	}
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", number(n/1000), n%1000)
}

// span writes a duration as a person would say it.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "less than a millisecond"
	case d < time.Second:
		return count(int(d.Milliseconds()), "millisecond")
	case d < 2*time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " seconds"
	case d < 2*time.Hour:
		return count(int(math.Round(d.Minutes())), "minute")
	}
	return count(int(math.Round(d.Hours())), "hour")
}

// reasons says, for each code, what happened to the task.
var reasons = map[task.Code]string{
	task.InvalidParams:     "the request was not valid",
	task.DeadlineUnmet:     "it could not meet its deadline",
	task.UntrustedArtifact: "its model is not what its digest says",
	task.PolicyDenied:      "the policy does not allow it",
	task.ModelNotFound:     "no pool serves that model",
	task.Conflict:          "another task has that id already",
	task.ModelDeprecated:   "that model was retired",
	task.Deleted:           "it was deleted",
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
	task.Canceled:          "it was canceled",
}

func because(code task.Code) string {
	if s, ok := reasons[code]; ok {
		return s
	}
	return "it could not be done"
}
