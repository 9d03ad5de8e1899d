// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
)

var zero = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func second(n float64) time.Time { return zero.Add(time.Duration(n * float64(time.Second))) }

// log makes a stream with the ids that a daemon would give it.
func stream(events ...[2]string) (log []client.Event) {
	running := sha256.New()
	for i, e := range events {
		_, _ = io.WriteString(running, e[0]+"\n"+e[1]+"\n")
		log = append(log, client.Event{ID: fmt.Sprintf("%d-%s", i, hex.EncodeToString(running.Sum(nil)[:4])), Name: e[0], Data: e[1]})
	}
	return log
}

func startEvent(id string) [2]string {
	return [2]string{"started", `{"task_id":"` + id + `","queue_position":0,"predicted_start_ms":0,"seed":7,"determinism":"strict"}`}
}

func tokenEvent(i int, text string) [2]string {
	return [2]string{"token", fmt.Sprintf(`{"t":%q,"i":%d}`, text, i)}
}

func receiptOf(text string) client.Receipt {
	sum := sha256.Sum256([]byte(text))
	return client.Receipt{
		Seed: 7, Determinism: "strict", Fingerprint: "fp", RequestDigest: "d", TranscriptSHA256: hex.EncodeToString(sum[:]), TranscriptForm: "text",
		ReplicaID: "wide-0", EngineVersion: "v", ModelDigest: "m",
	}
}

func endEvent(tokens int, text string) [2]string {
	data, err := json.Marshal(client.End{TokensIn: 3, TokensOut: tokens, FinishReason: "stop", Receipt: receiptOf(text)})
	if err != nil {
		panic(err)
	}
	return [2]string{"end", string(data)}
}

func errorEvent(code string) [2]string {
	return [2]string{"error", `{"code":"` + code + `","message":"m","retriable":false}`}
}

// completed is a strict task that ended well, on two connections of two lives, and an undisturbed run of it.
func completed(id string, sent, started float64) *taskRecord {
	log := stream(startEvent(id), tokenEvent(0, "a "), tokenEvent(1, "b "), tokenEvent(2, "c"), endEvent(3, "a b c"))
	t := &taskRecord{
		plan: taskPlan{id: id, pool: "narrow", priority: "batch", strict: true},
		submits: []submit{
			{sent: second(sent), answered: second(sent)}, // lost
			{sent: second(sent), answered: second(sent + 0.1), admission: admission(id)},
			{sent: second(sent + 0.2), answered: second(sent + 0.3), admission: admission(id)},
		},
		final: &status{State: "completed", StartedAt: second(started), Finished: second(started + 1), LastEvent: log[4].ID},
		log:   log,
		calm:  &calm{tokens: []string{"a ", "b ", "c"}, finish: "stop", receipt: receiptOf("a b c")},
	}
	t.final.End = &client.End{}
	t.watch(log, started)
	return t
}

func admission(id string) *client.Admission {
	return &client.Admission{TaskID: id, PoolID: "narrow", Seed: 7, Determinism: "strict"}
}

// watch has a reader see events from a time on, the first half on one connection.
func (t *taskRecord) watch(events []client.Event, from float64) *view {
	v := &view{conns: []conn{{opened: second(from)}, {opened: second(from + 0.3), resumed: true}}}
	for i, e := range events {
		v.seen = append(v.seen, seen{Event: e, at: second(from + 0.1*float64(i)), conn: min(i/3, 1)})
	}
	t.views = append(t.views, v)
	return v
}

// canceled is a task that was canceled when it had one token.
func canceled(id string, sent, started float64) *taskRecord {
	log := stream(startEvent(id), tokenEvent(0, "a "), errorEvent("CANCELED"))
	t := completed(id, sent, started)
	t.log, t.views = log, nil
	t.final.State, t.final.LastEvent, t.final.End, t.final.Error = "canceled", log[2].ID, nil, &client.Failure{Code: "CANCELED"}
	answer := &client.Canceled{TaskID: id, Outcome: "canceled", LastEventID: log[1].ID}
	again := *answer
	t.cancels = []cancelCall{
		{sent: second(started + 0.15), returned: second(started + 0.2), answer: answer},
		{sent: second(started + 0.15), returned: second(started + 0.3)}, // lost
		{sent: second(started + 0.5), returned: second(started + 0.6), answer: &again},
	}
	t.watch(log, started)
	return t
}

func failed(id, code string, sent float64) *taskRecord {
	t := completed(id, sent, sent+1)
	t.log, t.views = stream(startEvent(id), errorEvent(code)), nil
	t.final.State, t.final.LastEvent, t.final.End, t.final.Error = "failed", t.log[1].ID, nil, &client.Failure{Code: code}
	t.watch(t.log, sent+1)
	return t
}

func refused(id string) *taskRecord {
	return &taskRecord{
		plan: taskPlan{id: id, pool: "narrow", priority: "batch"}, unknown: true,
		submits: []submit{{sent: second(1), answered: second(2), code: "ADMISSION_REJECT"}},
	}
}

// sound is a history in which everything holds.
func sound() *history {
	dropped := failed("dropped", "QUEUE_FULL_DROP_LRU", 2)
	dropped.final.StartedAt = time.Time{}
	reset := failed("reset", "WORKER_RESET", 2)
	reset.plan.strict = false
	lost := reset.watch(stream(startEvent("reset"), tokenEvent(0, "x")), 3)
	lost.discarded, lost.at = "the daemon refused 1-…", second(9)
	reset.watch(stream(startEvent("reset"), tokenEvent(0, "x")), 3.1) // left, to begin anew, before the daemon was killed
	return &history{
		lives:  []life{{serving: second(0), over: second(4)}, {serving: second(5)}},
		faults: []fault{{kind: killDaemon, at: second(4)}},
		tasks: []*taskRecord{
			completed("first", 1, 2), completed("second", 1.5, 3), canceled("third", 5, 6), completed("fourth", 6, 7), dropped, reset, refused("never"),
		},
		frontHistory: soundFronts(),
		after:        aftermath{idleFDs: 20, lastFDs: 21, idleGoroutines: 30, lastGoroutines: 31, stopped: true},
	}
}

func (h *history) task(id string) *taskRecord {
	for _, t := range h.tasks {
		if t.plan.id == id {
			return t
		}
	}
	panic(id)
}

func objections(h *history) (all []string) {
	for _, f := range check(h) {
		for _, b := range f.breaches {
			all = append(all, f.property+": "+b)
		}
	}
	return all
}

// ORCH-3051
func TestTheCheckerPassesASoundRun(t *testing.T) {
	require.Empty(t, objections(sound()))
	for _, f := range check(sound()) {
		require.Positive(t, f.judged, f.property)
	}
}

// A checker that objects to nothing proves nothing.
//
// ORCH-3051, LO-201, LO-202, LO-203, LO-101, ORCH-3026, ORCH-3004
func TestTheCheckerObjects(t *testing.T) {
	for name, broken := range map[string]struct {
		change func(h *history)
		says   string
	}{
		"an accepted task is forgotten": {func(h *history) { h.task("first").final, h.task("first").unknown = nil, true }, "does not know it"},
		"a task never ends":             {func(h *history) { h.task("first").final.State = "running" }, "is still running"},
		"status and stream differ":      {func(h *history) { h.task("first").final.State = "failed" }, `its stream ends with "end"`},
		"another last event":            {func(h *history) { h.task("first").final.LastEvent = "3-00000000" }, "the status says 3-00000000"},
		"nobody asked":                  {func(h *history) { h.task("never").unknown = false }, "nobody asked"},
		"a refused task lives":          {func(h *history) { h.task("never").final = &status{State: "queued"} }, "was refused last"},
		"a refusal without a reason":    {func(h *history) { h.task("never").submits[0].code = "INTERNAL" }, "refused with INTERNAL"},
		"a deadline nobody set":         {func(h *history) { h.task("never").submits[0].code = "DEADLINE_UNMET" }, "refused with DEADLINE_UNMET"},
		"another admission":             {func(h *history) { h.task("first").submits[2].admission.Seed = 8 }, "and then with"},
		"started is not the admission":  {func(h *history) { both(h.task("first"), 9) }, "and its stream starts with"},
		"nobody canceled":               {func(h *history) { h.task("third").cancels = nil }, "canceled: false"},
		"a strict task is reset":        {func(h *history) { h.task("reset").plan.strict = true }, "ended with WORKER_RESET"},
		"a reset by a worker's death": {func(h *history) {
			h.faults = []fault{{kind: killWorker, pool: h.task("reset").plan.pool, at: second(2.5)}}
		}, "ended with WORKER_RESET"},
		"a reset without a death":        {func(h *history) { h.faults = nil }, "ended with WORKER_RESET"},
		"a drop where tasks are refused": {func(h *history) { h.task("dropped").plan.pool = "wide" }, "ended with QUEUE_FULL_DROP_LRU"},
		"a watchdog":                     {func(h *history) { h.task("dropped").final.Error.Code = "DECODE_TIMEOUT" }, "ended with DECODE_TIMEOUT"},
		"a deadline":                     {func(h *history) { h.task("dropped").final.Error.Code = "DEADLINE_UNMET" }, "ended with DEADLINE_UNMET"},
		"a stop":                         {func(h *history) { h.task("dropped").final.Error.Code = "SHUTTING_DOWN" }, "ended with SHUTTING_DOWN"},
		"a full disk":                    {func(h *history) { h.task("dropped").final.Error.Code = "LEDGER_UNAVAILABLE" }, "ended with LEDGER_UNAVAILABLE"},

		"an event is missing": {func(h *history) { cut(h.task("first").views[0], 2) }, "should be"},
		"an event comes twice": {func(h *history) {
			v := h.task("first").views[0]
			v.seen = append(v.seen[:2], v.seen[1:]...)
		}, "should be"},
		"a hash is wrong":            {func(h *history) { h.task("first").log[2].ID = "2-00000000" }, "should be"},
		"an event behind the end":    {func(h *history) { t := h.task("first"); t.log = append(t.log, t.log[1]) }, "behind the terminal event"},
		"a receipt of other tokens":  {func(h *history) { relog(h.task("first"), endEvent(3, "a b")) }, "transcript_sha256"},
		"a reader has other events":  {func(h *history) { reread(h.task("first"), tokenEvent(0, "A ")) }, "where the stream has"},
		"a reader has more events":   {func(h *history) { relog(h.task("first")); h.task("first").final.State = "failed" }, "the stream has 4"},
		"a left view outlives it":    {func(h *history) { h.task("reset").final.Finished = second(3.9) }, "reader 0 has \"id: 1-"},
		"a left view of a good task": {func(h *history) { h.task("reset").final.State = "completed" }, "reader 0 has \"id: 1-"},
		"a left view began otherwise": {func(h *history) {
			h.task("reset").views[2].seen[0].Event = stream(startEvent("other"))[0]
		}, "reader 0 has \"id: 0-"},
		"a strict stream broke off":  {func(h *history) { h.task("first").views[0].discarded = "400" }, "had to discard"},
		"a stream broke for nothing": {func(h *history) { h.task("reset").views[1].at = second(3.5) }, "had to discard"},

		"other bytes in the end":  {func(h *history) { h.task("first").calm.tokens[2] = "C" }, "undisturbed it is"},
		"other bytes in between":  {func(h *history) { h.task("third").calm.tokens[0] = "A " }, "undisturbed it is"},
		"fewer tokens":            {func(h *history) { h.task("first").calm.tokens = append(h.task("first").calm.tokens, "d") }, "undisturbed it is"},
		"another finish":          {func(h *history) { h.task("first").calm.finish = "length" }, "undisturbed it is"},
		"another fingerprint":     {func(h *history) { h.task("first").calm.receipt.Fingerprint = "other" }, "undisturbed it is"},
		"another request":         {func(h *history) { h.task("first").calm.receipt.RequestDigest = "other" }, "undisturbed it is"},
		"nothing to compare with": {func(h *history) { h.task("first").calm = nil }, "no undisturbed run"},
		"bytes that were taken back": {func(h *history) {
			r := h.task("reset") // of a strict task too, what a client got must be right
			r.plan.strict, r.calm = true, &calm{tokens: []string{"y"}}
		}, `undisturbed it is "y"`},

		"a cancel changes its mind":  {func(h *history) { h.task("third").cancels[2].answer.LastEventID = "0-00000000" }, "and then"},
		"a cancel names another end": {func(h *history) { seal(h.task("third"), "0-00000000") }, "its log was sealed at"},
		"a cancel did not hold":      {func(h *history) { h.task("third").final.State = "failed" }, "the task is failed"},
		"a cancel is not found":      {func(h *history) { h.task("third").cancels[1].code = "NOT_FOUND" }, "refused with NOT_FOUND"},
		"a token long after a cancel": {func(h *history) {
			h.task("third").views[0].seen[1].at = h.task("third").cancels[0].returned.Add(slack + time.Second)
		}, "after the cancel had returned"},
		"a token above a cancel": {func(h *history) {
			r := h.task("third")
			v := r.watch(stream(startEvent("third"), tokenEvent(0, "a "), tokenEvent(1, "b ")), 9)
			v.discarded = "400"
		}, "behind 1-"},

		"the second before the first": {func(h *history) { h.task("first").final.StartedAt = second(3.5) }, "started 500ms later"},
		"an orphan":                   {func(h *history) { h.after.orphans = []string{"worker 7"} }, "outlived its daemon: worker 7"},
		"a file":                      {func(h *history) { h.after.files = []string{"run/7.json"} }, "holds run/7.json"},
		"descriptors":                 {func(h *history) { h.after.lastFDs = 20 + moreFDs + 1 }, "open descriptors"},
		"goroutines":                  {func(h *history) { h.after.lastGoroutines = 30 + moreGoroutines + 1 }, "goroutines"},
		"a bad end":                   {func(h *history) { h.after.stopped = false }, "SIGTERM"},
	} {
		t.Run(name, func(t *testing.T) {
			h := sound()
			broken.change(h)
			require.Contains(t, strings.Join(objections(h), "\n"), broken.says)
		})
	}
}

// What a machine or the schedule explains is no objection.
//
// ORCH-3051
func TestTheCheckerKnowsWhatItCannotJudge(t *testing.T) {
	h := sound()
	h.task("first").final.StartedAt = second(5.5) // by another life than the second, which came later
	require.Empty(t, objections(h))

	h = sound()
	h.tasks = h.tasks[:2]
	h.task("second").submits[0].sent = second(1.05) // before the first's 202 had come
	h.task("first").final.StartedAt = second(3.5)
	require.Empty(t, objections(h))

	h = sound()
	h.task("reset").final.Error.Code = "SHUTTING_DOWN" // the stop had begun when it was sent
	h.faults = append(h.faults, fault{kind: stopDaemon, at: h.task("reset").submits[0].sent.Add(-time.Second)})
	require.Empty(t, objections(h))

	h = sound()
	for _, t := range h.tasks {
		t.plan.pool = "wide" // of two replicas, which may take two tasks at a time
	}
	h.tasks = h.tasks[:2]
	h.task("first").final.StartedAt = second(3.1)
	require.Empty(t, objections(h))
	h.task("first").final.StartedAt = second(3.5)
	require.NotEmpty(t, objections(h))
	h.lives = append([]life{{serving: second(0), over: second(1.3)}}, h.lives...) // the second may have run already
	h.task("second").final.StartedAt = second(3)
	require.Empty(t, objections(h))

	h = sound()
	for range tries {
		h.faults = append(h.faults, fault{kind: killWorker, at: second(2.5), pool: "narrow"})
	}
	h.task("reset").plan.strict = true // it was tried as often as it may be
	h.task("reset").calm = &calm{tokens: []string{"x", "y"}}
	require.Empty(t, objections(h))

	h = sound()
	h.task("third").views[0].seen[1].at = h.task("third").cancels[0].returned.Add(slack + time.Second)
	h.stall = 2 * time.Second
	require.Empty(t, objections(h))
}

func cut(v *view, at int) { v.seen = append(v.seen[:at:at], v.seen[at+1:]...) }

// both gives a task's admissions another position than its stream starts with.
func both(t *taskRecord, position int) {
	t.submits[1].admission.QueuePosition, t.submits[2].admission.QueuePosition = position, position
}

// relog replaces the last event of a task's log, with right ids.
func relog(t *taskRecord, last ...[2]string) {
	events := [][2]string{startEvent(t.plan.id), tokenEvent(0, "a "), tokenEvent(1, "b "), tokenEvent(2, "c")}
	t.log = stream(append(events, last...)...)
}

// reread gives the task's reader another first token, with right ids.
func reread(t *taskRecord, first [2]string) {
	t.views = nil
	t.watch(stream(startEvent(t.plan.id), first), 2)
}

func seal(t *taskRecord, at string) {
	for _, c := range t.cancels {
		if c.answer != nil {
			c.answer.LastEventID = at
		}
	}
}

// What a dead daemon was about to store is something left over.
// ORCH-3051, ORCH-3097
func TestFilesThatNobodyNeedsAreLeftOver(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"lock", "state.db", "state.db-tip", "state.db-wal", "artifacts/tmp/x"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	require.Equal(t, []string{"artifacts/tmp/x", "state.db-wal"}, leftFiles(dir))
}
