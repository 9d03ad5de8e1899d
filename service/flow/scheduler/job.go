// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/prefix"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// job is a live task.
type job struct {
	lane   *lane
	task   task.Task    // written by the submit that makes the job, until it is accepted
	ticket queue.Ticket // the same; names its place in the queue
	log    *stream.Log  // the same; the log has a lock of its own
	slot   *slot        // the same; in which it begins before it is accepted; nil: it waits in the queue
	chance *float64     // the same; that it meets its deadline; nil: it has none, or an earlier process admitted it

	passing *passing // of a request that is passed on, which is not recorded; nil: of a task that is. Set before anybody sees the job

	chained sync.Once
	chain   prefix.Chain // of what the task asks; see begins

	decided chan struct{} // closed once the ledger accepted the task, or could not
	over    chan struct{} // closed once nothing of the task runs in this process any more

	mu          sync.Mutex              // guards what follows
	state       state                   // written by enter alone
	changes     int                     // how often the state has changed; written by enter alone
	noDeadline  func()                  // ends the wait for the deadline; this and the next two: written where the timers start and stop; nil: there is none
	patience    *awake.Timer            // while the job waits for another replica
	absence     *awake.Timer            // while its last reader may come back
	refusal     *task.Error             // why it was withdrawn; written by the submit
	replica     Replica                 // that runs it, or ran it last; this and the next six are written by its run
	startedAt   time.Time               // when its first run began
	firstOutput time.Time               // when the first output of all its runs came
	decodesFrom time.Time               // when that of this run came
	spent       time.Duration           // that runs decoded whose answer others went on with
	uses        []Use                   // of the runs of this process that were on cards
	tries       int                     // runs so far, one of an earlier process included
	excused     int                     // how many of them ended because this process lacked something, or gave way
	yielded     int                     // how often it gave way to an interactive task
	at          *slot                   // of its run; nil once the slot is free again
	warm        bool                    // the engine took part of the prompt from KV, in this run
	cancelRun   context.CancelCauseFunc // nil while no replica runs it
	wants       string                  // the fingerprint that the next run needs; empty: any
	readers     int                     // how many read its stream now; this and the next are written by them
	visits      int                     // how many readers there have been
	record      task.Record             // once it is done; written by who ends it
	prompt      *rendering              // made by a run, instead of the task's; written by the run
}

// rendering is what the messages of a chat were rendered to, when, and the digest of the request with that.
type rendering struct {
	prompt, digest string
	at             time.Time
}

func newJob(l *lane, t task.Task) *job {
	return &job{lane: l, task: t, decided: make(chan struct{}), over: make(chan struct{})}
}

// ended is the job of a finished task, for its readers.
func ended(r task.Record, l *lane) *job {
	return &job{lane: l, task: r.Task, state: done, record: r, log: stream.Rebuild(r.Task.Started(), r)}
}

// accept says that the ledger has the task: the lane may have it, unless it runs already, and everybody may see it.
func (j *job) accept() {
	j.mu.Lock()
	if !j.enter(running) { // it has not begun
		j.enter(accepted)
	}
	yields := j.at != nil && j.at.makesWay
	j.mu.Unlock()
	if yields {
		j.stopEngine(errYields)
	}
}

// withdraw ends a job that was never accepted, and its run, if there is one.
func (j *job) withdraw(e *task.Error) {
	j.mu.Lock()
	j.refusal = e
	j.enter(withdrawn)
	j.mu.Unlock()
	j.stopEngine(e)
}

// begin makes the job one that a replica runs in a slot; cancel ends that run. It returns false where somebody has ended the job.
func (j *job) begin(s *slot, r Replica, use Use, now time.Time, cancel context.CancelCauseFunc) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	next := running
	if !j.state.decided() {
		next = starting
	}
	if !j.enter(next) {
		return false
	}
	if j.startedAt.IsZero() {
		j.startedAt = now
	}
	j.replica, j.cancelRun, j.warm, j.decodesFrom, j.at = r, cancel, false, time.Time{}, s
	if use != nil {
		j.uses = append(j.uses, use)
	}
	j.tries++
	return true
}

// move makes the job, whose run broke off, wait for another replica, in front of the queue. It returns false where somebody
// has ended it: then it waits for nothing.
func (j *job) move(fingerprint string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.enter(moving) {
		return false
	}
	j.cancelRun, j.wants = nil, fingerprint
	j.lane.retries.add(j) // under the same lock as the state, so that whoever ends the job finds it there
	return true
}

// claim makes the caller the one who ends the job. It returns false where somebody else does, and where the condition does not hold.
// The condition is asked with mu held; nil: there is none.
func (j *job) claim(still func() bool) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return (still == nil || still()) && j.enter(ending)
}

// finish says that the outcome is recorded, and publishes it.
func (j *job) finish(r task.Record) {
	j.mu.Lock()
	j.record = r
	j.enter(done)
	j.mu.Unlock()
	j.log.Date(r.FinishedAt)
	j.log.Publish()
}

// leave lets go of a job that the caller has claimed. Its readers are told, and come back to the next start.
func (j *job) leave() {
	j.log.Detach()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.enter(left)
	close(j.over)
}

// stopEngine ends the run, if there is one.
func (j *job) stopEngine(cause error) {
	j.mu.Lock()
	cancel := j.cancelRun
	j.mu.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}

// asked is the task, with the prompt that a run made.
func (j *job) asked() task.Task {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.withPrompt()
}

// withPrompt is the same with mu held.
func (j *job) withPrompt() task.Task {
	t := j.task
	if r := j.prompt; r != nil {
		t.Prompt, t.PromptTokens, t.RequestDigest, t.RenderedAt = r.prompt, 0, r.digest, r.at
	}
	return t
}

// rendered gives the task another prompt, for this run and those that follow. It returns false where somebody ends the task, whose record has the
// prompt before.
func (j *job) rendered(t *task.Task, prompt string, now time.Time) bool {
	t.Prompt, t.PromptTokens, t.RenderedAt = prompt, 0, now.UTC().Truncate(time.Millisecond) // as exact as the ledger
	t.RequestDigest = t.Digest()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state != running {
		return false
	}
	j.prompt = &rendering{prompt, t.RequestDigest, t.RenderedAt}
	return true
}

// now is the job's state.
func (j *job) now() state {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state
}

// await waits until the job is accepted, and fails where it is not.
func (j *job) await(ctx context.Context) error {
	select {
	case <-j.decided:
	case <-ctx.Done():
		return errLedger("the task is not recorded yet", context.Cause(ctx))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.refusal != nil {
		return j.refusal
	}
	return nil
}

// began is when the job's first run began.
func (j *job) began() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.startedAt
}

// ran reports whether a replica has run the job, also in an earlier process.
func (j *job) ran() bool { return j.tried() > 0 }

// tried is the number of runs so far.
func (j *job) tried() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tries
}

// blamed is the number of runs so far that say something about the replicas.
func (j *job) blamed() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tries - j.excused
}

// lost is how many of the runs lost their worker, or are the last one.
func (j *job) lost() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tries - j.yielded
}

// excuse says that the run ended because this process lacked something, or gave way.
func (j *job) excuse() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.excused++
}

// wanted is the fingerprint that the next run needs; empty: any.
func (j *job) wanted() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.wants
}

// need is what the job asks of its next replica, which is one of these.
func (j *job) need(replicas []placement.Replica) placement.Need {
	q := &j.task.Request
	need := placement.Need{Strict: j.task.Determinism == task.Strict, Fingerprint: j.wanted(), Ctx: max(q.Ctx, j.room())}
	if reuse(&j.task) != engine.ReuseNothing {
		need.Warm = j.lane.s.o.Sessions.Warm(q.SessionID)
		if j.choosy(replicas) {
			need.Held = j.lane.s.prefixes.Held(j.begins())
		}
	}
	return need
}

// choosy reports whether it can matter to a task like the job which of its pool's replicas it comes to, because of what their slots hold.
func (j *job) choosy(replicas []placement.Replica) bool {
	return len(replicas) > 1 && (j.task.Determinism != task.Strict || slices.ContainsFunc(replicas, func(r placement.Replica) bool { return r.Pieces }))
}

// begins are the beginnings of what the task asks. They cost a look at all of it, so they are made where they are needed, and once.
func (j *job) begins() prefix.Chain {
	j.chained.Do(func() { j.chain = prefix.Of(&j.task.Request) })
	return j.chain
}

// room is how many tokens prompt and answer are known to need. Where nobody has counted the prompt's tokens, it is what bounds both: a
// replica that holds so many holds the task for sure.
func (j *job) room() int {
	q := &j.task.Request
	if j.task.PromptTokens == 0 && q.Workload == task.Completion && q.MaxTokens > 0 {
		return j.task.MostTokens
	}
	return j.task.PromptTokens + max(q.MaxTokens, 1)
}

// enters counts a reader in.
func (j *job) enters() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.readers++
	j.visits++
	stop(&j.absence)
}

// leaves counts a reader out. Where the task is to end with its client, the last reader has a while to come back.
func (j *job) leaves() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.readers--
	if j.readers == 0 && j.state.live() && j.task.Request.OnDisconnect == task.CancelIt {
		j.startAbsence()
	}
}

// outputAt notes when the job's first output came. It returns false if an earlier run had output already.
func (j *job) outputAt(now time.Time) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.firstOutput.IsZero() {
		return false
	}
	j.firstOutput = now
	return true
}

func (j *job) firstOutputAt() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.firstOutput
}

// decodesSince is when the first output of this run came; zero: none did.
func (j *job) decodesSince() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.decodesFrom
}

// sent is how many tokens have gone to the log that the next run goes on behind, since it cannot make them again: those of a best-effort task.
func (j *job) sent() int {
	if j.task.Determinism == task.Strict {
		return 0
	}
	return j.log.Tokens()
}

// attempt opens a run's part of the log, and tells the engine what is in it already (LO-209).
func (j *job) attempt(work *engine.Job) *stream.Attempt {
	if j.sent() == 0 {
		return j.log.Begin()
	}
	j.behind(work)
	return j.log.Continue()
}

// behind tells an engine what was sent, and returns it.
func (j *job) behind(work *engine.Job) task.Transcript {
	sent, _ := j.log.Transcript()
	parts := sent.Parts()
	work.Sent, work.SentThinking, work.SentTokens = parts.Answer, parts.Reasoning, len(sent.Ends)
	return sent
}

// decodes notes that the run's first output came.
func (j *job) decodes(now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.decodesFrom = now
}

// broke notes that the run broke off, and another one is to go on.
func (j *job) broke(now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.decodesFrom.IsZero() { // else it sent nothing itself
		j.spent += since(j.decodesFrom, now)
	}
}

// decodedBefore is how long the runs decoded that broke off, and that others went on with.
func (j *job) decodedBefore() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.spent
}

// decoded is how long the job's tokens took until now.
func (j *job) decoded(now time.Time) time.Duration {
	if at := j.firstOutputAt(); !at.IsZero() {
		return now.Sub(at)
	}
	return 0
}

// took is what the cards have taken for the job; nil: that is not known of all of its runs. None of them goes on.
func (j *job) took(now time.Time) *task.Energy {
	j.mu.Lock()
	uses, runs := slices.Clone(j.uses), j.tries
	j.mu.Unlock()
	for _, u := range uses {
		u.End(now)
	}
	if len(uses) == 0 || len(uses) < runs { // one was on no card, or an earlier process had it
		return nil
	}
	sum := task.Energy{Priced: true}
	for _, u := range uses {
		part, known := u.Taken()
		if !known {
			return nil
		}
		sum = task.Energy{Joules: sum.Joules + part.Joules, Cost: sum.Cost + part.Cost, Priced: sum.Priced && part.Priced}
	}
	return &sum
}

// cached notes how much of the prompt the engine took from KV.
func (j *job) cached(tokens int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.warm = tokens > 0
}

// version is the version of the engine that the task runs on, or was admitted for.
func (j *job) version() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return cmp.Or(j.replica.EngineVersion, j.task.EngineVersion)
}

// told are the fields of a log line about the job.
func (j *job) told() []zap.Field {
	n := narrated(j.snapshot(), j.version())
	if j.log != nil { // else it broke off while it was queued
		n.TokensOut = j.log.Tokens()
	}
	return n.Fields()
}

// narrated is what the log says of a task.
func narrated(r task.Record, version string) observe.Job {
	q := r.Task.Request
	j := observe.Job{
		ID: r.Task.ID, SessionID: q.SessionID, CorrelationID: q.CorrelationID, Actor: q.Actor, Engine: r.Task.Engine,
		EngineVersion: version, PoolID: r.Task.PoolID, ReplicaID: r.ReplicaID, Priority: q.Priority, Workload: q.Workload,
		Model: r.Task.ModelID, QueuePosition: r.Task.QueuePosition, PredictedStart: r.Task.PredictedStart,
		TokensIn: r.Task.PromptTokens, TokensOut: len(r.Transcript.Ends),
	}
	if r.End != nil {
		j.TokensIn, j.TokensOut = r.End.TokensIn, r.End.TokensOut
		j.DecodeTime = time.Duration(r.End.DecodeTimeMS) * time.Millisecond
	}
	return j
}
