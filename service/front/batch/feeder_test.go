// SPDX-License-Identifier: GPL-3.0-or-later

package batch_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/flow/admission"
	"github.com/llama-orch/llama-orch/service/front/batch"
	"github.com/llama-orch/llama-orch/service/task"
)

// on runs a test on a virtual clock.
func on(t *testing.T, test func(t *testing.T, r *rig), change ...func(*batch.Options)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, change...)
		r.start()
		defer func() { r.stop() }()
		test(t, r)
	})
}

// LO-437: each line is run once, in the order of the input, and a few at a time.
func TestLinesAreRunAFewAtATime(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		id := r.create(completions(150)).ID
		synctest.Wait()
		require.Equal(t, task.LineCounts{Fed: 3, Waiting: 147}, r.batch(id).Counts)
		time.Sleep(2 * time.Second)
		require.NotZero(t, r.batch(id).Counts.Completed)
		time.Sleep(5 * time.Minute)
		b := r.batch(id)
		require.Equal(t, task.LineCounts{Completed: 150}, b.Counts)
		require.Equal(t, 150, b.Total)
		require.False(t, b.EndedAt.IsZero())
		require.Equal(t, 3, r.line.most)
		order := r.line.accepted()
		require.Len(t, order, 150)
		require.Equal(t, []string{"p1", "p2", "p3"}, slices.Sorted(slices.Values(order[:3])))
		for _, l := range r.lines(id) {
			record, ok, err := r.l.Get(t.Context(), l.TaskID())
			require.NoError(t, err)
			require.True(t, ok)
			q := record.Task.Request
			require.Equal(t, task.Batch, q.Priority)
			require.Equal(t, task.Continue, q.OnDisconnect)
			require.Equal(t, "token:abcdef", q.Actor)
			require.Equal(t, "openai", q.Front.Dialect)
			require.Zero(t, q.KeepText)
		}
	})
}

// LO-436: broken lines fail alone, each with its reason, and the others are run.
func TestBrokenLinesFailAlone(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		r.line.refuse = func(q task.Request) error {
			if q.ModelRef == "unknown" {
				return task.Errorf(task.ModelNotFound, "there is no model %q", q.ModelRef)
			}
			return nil
		}
		content := "\xef\xbb\xbf" + strings.Join([]string{
			`{"custom_id":"ok","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"x"}}`, "",
			`{"custom_id":"cut","method":"POST"`,
			`[1,2]`,
			`{"method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"x"}}`,
			`{"custom_id":7,"method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"x"}}`,
			`{"custom_id":"ok","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"again"}}`,
			`{"custom_id":"get","method":"GET","url":"/v1/completions","body":{"model":"m","prompt":"x"}}`,
			`{"custom_id":"url","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":"x"}}`,
			`{"custom_id":"bodiless","method":"POST","url":"/v1/completions"}`,
			`{"custom_id":"long","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"` + strings.Repeat("x", 3000) + `"}}`,
			`{"custom_id":"bad","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"x","n":3}}`,
			`{"custom_id":"unknown","method":"POST","url":"/v1/completions","body":{"model":"unknown","prompt":"x"}}`,
			`{"custom_id":"other","method":"POST","url":"/v1/completions","body":{"model":"other","prompt":"x"}}`,
			"not json at all", `{"custom_id":"last","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"last"}}`,
			`{"custom_id":"ok","method":"GET","url":"/v1/completions","body":{"model":"m","prompt":"x"}}`,
			`{"custom_id":"get","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"x"}}`,
			`{"custom_id":"get","method":"POST","url":"/v1/embeddings","body":{"model":"m","prompt":"x"}}`,
		}, "\r\n")
		id := r.create(content).ID
		time.Sleep(time.Minute)
		b := r.batch(id)
		require.False(t, b.EndedAt.IsZero())
		require.Empty(t, b.Faults)
		require.Equal(t, task.LineCounts{Completed: 3, Failed: 15}, b.Counts)
		got := map[int]string{}
		for _, l := range r.lines(id) {
			switch {
			case l.Fault != nil:
				require.Contains(t, l.Fault.Message, fmt.Sprintf("line %d: ", l.N))
				got[l.N] = l.CustomID + " " + l.Fault.Code
			case l.Status != 0:
				got[l.N] = fmt.Sprint(l.CustomID, " ", l.Status)
			}
		}
		require.Equal(t, map[int]string{
			2: " invalid_json_line", 3: " invalid_json_line", 4: " invalid_custom_id", 5: " invalid_custom_id", 6: " duplicate_custom_id",
			7: "get invalid_method", 8: "url mismatched_url", 9: "bodiless missing_body", 10: " line_too_large", 11: "bad 400", 12: "unknown 404", 14: " invalid_json_line",
			16: " duplicate_custom_id", 17: " duplicate_custom_id", 18: " duplicate_custom_id",
		}, got)
		lines := r.lines(id)
		require.Contains(t, lines[15].Fault.Message, "that of line 1")
		for _, l := range lines[16:] {
			require.Contains(t, l.Fault.Message, "that of line 7")
		}
		require.Equal(t, []string{"last", "x", "x"}, slices.Sorted(slices.Values(r.line.accepted())))
	})
}

// LO-404, LO-439: what a line is refused for is told by the names that its own body has for it.
func TestARefusedLineNamesItsOwnFields(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		r.line.refuse = func(q task.Request) error { return admission.Check(q, admission.Limits{PromptBytes: 1000, Inputs: 9}) }
		const (
			tools  = `"tools":[{"type":"web_search"},{"name":"f","type":"function","parameters":{}},{"name":"f","type":"function","parameters":{}}]`
			result = `{"type":"function_call_output","call_id":"c9","output":"x"}`
			used   = `{"role":"user","content":[{"type":"text","text":"hi"},{"type":"tool_result","tool_use_id":"c9","content":"x"}]}`
		)
		for _, c := range []struct{ dialect, endpoint, body, want string }{
			{"openai", "/v1/responses", `"input":"x",` + tools, "tools[2].name"},
			{"openai", "/v1/responses", `"instructions":"i","input":[{"role":"user","content":"x"},` + result + `]`, "input[1].call_id"},
			{"openai", "/v1/chat/completions", `"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"f"}}]`, "tools[1].function.name"},
			{"anthropic", "/v1/messages", `"max_tokens":9,"messages":[` + used + `]`, "messages[0].content"},
		} {
			line := fmt.Sprintf(`{"custom_id":"a","method":"POST","url":%q,"body":{"model":"m",%s}}`, c.endpoint, c.body)
			if c.dialect == "anthropic" {
				line = fmt.Sprintf(`{"custom_id":"a","params":{"model":"m",%s}}`, c.body)
			}
			id := r.create(line, func(b *task.BatchRecord) { b.Dialect, b.Endpoint = c.dialect, c.endpoint }).ID
			time.Sleep(time.Minute)
			l := r.lines(id)[0]
			require.Equal(t, 400, l.Status)
			require.Contains(t, string(l.Refusal), "`"+c.want+"`")
			if c.dialect == "openai" {
				require.Contains(t, string(l.Refusal), fmt.Sprintf(`"param":%q`, c.want))
			}
		}
	})
}

// LO-436: a file without a line that could be run fails as a whole, with the faults.
func TestAFileWithoutSoundLinesFails(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		for content, codes := range map[string][]string{
			"":                         {"empty_file"},
			"\r\n\n \n":                {"empty_file"},
			"\xef\xbb\xbf":             {"empty_file"},
			"a\nb\n":                   {"invalid_json_line", "invalid_json_line"},
			strings.Repeat("x\n", 500): slices.Repeat([]string{"invalid_json_line"}, 100),
			strings.Repeat("x", 3000):  {"line_too_large"},
		} {
			id := r.create(content).ID
			time.Sleep(time.Second)
			b := r.batch(id)
			var got []string
			for _, f := range b.Faults {
				got = append(got, f.Code)
			}
			require.Equal(t, codes, got)
			require.False(t, b.EndedAt.IsZero())
			require.Zero(t, b.OutputBytes+b.ErrorBytes)
		}
		require.Empty(t, r.line.accepted())
	})
}

// LO-436, LO-440: a batch whose input is gone before it was read ends with that fault, and its counts are those that its client was told before.
func TestAnInputThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		file := r.create(completions(2))
		messages := r.create(completions(3), func(b *task.BatchRecord) {
			b.Dialect, b.Endpoint, b.FileID, b.Total = "anthropic", "/v1/messages", "", 3
		})
		for _, b := range []task.BatchRecord{file, messages} {
			require.NoError(t, r.store.Remove(b.Artifact))
		}
		r.start()
		time.Sleep(time.Minute)
		for _, was := range []task.BatchRecord{file, messages} {
			b := r.batch(was.ID)
			require.False(t, b.EndedAt.IsZero())
			require.Len(t, b.Faults, 1)
			require.Equal(t, "file_gone", b.Faults[0].Code)
			require.Equal(t, was.Total, b.Total)
			require.Equal(t, task.LineCounts{Failed: was.Total}, b.Counts)
		}
		r.stop()
	})
}

// LO-437: what is refused for now waits in the ledger, and what a new try helps is run again; neither fails the line.
func TestWhatWaitingHelpsWaits(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		var mu sync.Mutex // lines are run beside one another
		tries := 0
		r.line.refuse = func(task.Request) error {
			mu.Lock()
			defer mu.Unlock()
			if tries++; tries <= 20 {
				return task.Errorf(task.PoolUnready, "loading").Retry(7 * time.Second)
			}
			return nil
		}
		lost := map[string]int{}
		r.line.ends = func(q task.Request) *task.Error {
			mu.Lock()
			defer mu.Unlock()
			if lost[q.Prompt]++; q.Prompt == "p2" && lost["p2"] < 3 || q.Prompt == "p4" {
				return task.Errorf(task.WorkerReset, "lost")
			}
			return nil
		}
		id := r.create(completions(5)).ID
		time.Sleep(6 * time.Second)
		require.Equal(t, task.LineCounts{Waiting: 5}, r.batch(id).Counts)
		time.Sleep(10 * time.Minute)
		require.Equal(t, task.LineCounts{Completed: 4, Failed: 1}, r.batch(id).Counts)
		lines := r.lines(id)
		require.Equal(t, 2, lines[1].Tries)
		require.Equal(t, task.LineFailed, lines[3].State)
		require.Equal(t, 3, lost["p2"])
		require.Equal(t, 3, lost["p4"])
	})
}

// LO-437, LO-803: a line at which a front panics fails, and the others are run.
func TestALineThatPanicsFails(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		r.line.refuse = func(q task.Request) error {
			if q.Prompt == "p2" {
				panic("out of cheese")
			}
			return nil
		}
		id := r.create(completions(4)).ID
		time.Sleep(time.Minute)
		require.Equal(t, task.LineCounts{Completed: 3, Failed: 1}, r.batch(id).Counts)
		require.Equal(t, 500, r.lines(id)[1].Status)
	})
}

// LO-438: a cancel ends what waits and what runs, and leaves what is done.
func TestCancel(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		id := r.create(completions(10)).ID
		time.Sleep(1500 * time.Millisecond)
		b, err := r.f.Cancel(t.Context(), "openai", id)
		require.NoError(t, err)
		require.False(t, b.CancelAt.IsZero())
		require.Zero(t, b.Counts.Waiting, "nothing more starts once the cancel has returned")
		again, err := r.f.Cancel(t.Context(), "openai", id)
		require.NoError(t, err)
		require.Equal(t, b.CancelAt, again.CancelAt)
		time.Sleep(time.Minute)
		b = r.batch(id)
		require.False(t, b.EndedAt.IsZero())
		require.Equal(t, task.LineCounts{Completed: 2, Canceled: 8}, b.Counts)
		began := len(r.line.accepted())
		require.LessOrEqual(t, began, 5)
		_, err = r.f.Cancel(t.Context(), "openai", id)
		require.NoError(t, err, "a canceled batch may be canceled again")
		_, err = r.f.Cancel(t.Context(), "anthropic", id)
		require.True(t, task.HasCode(err, task.NotFound))

		done := r.create(completions(1)).ID
		time.Sleep(time.Minute)
		_, err = r.f.Cancel(t.Context(), "openai", done)
		require.True(t, task.HasCode(err, task.Conflict), "%v", err)
		require.NoError(t, r.f.Drop(t.Context(), "openai", done))
		_, err = r.f.Batch(t.Context(), "openai", done)
		require.True(t, task.HasCode(err, task.NotFound))
	})
}

// LO-440: a batch that is deleted at the moment of its end takes its requests with it.
func TestADropAtTheEnd(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		id := r.create(completions(1), func(b *task.BatchRecord) { b.FileID = "" }).ID
		require.NoError(t, r.l.DropFile(t.Context(), "file-"+strings.TrimPrefix(id, "batch_")))
		drops := func() { require.NoError(t, r.f.Drop(t.Context(), "openai", id)) }
		r.keeps.Store(&drops)
		time.Sleep(time.Minute)
		_, ok, err := r.l.Batch(t.Context(), id)
		require.NoError(t, err)
		require.False(t, ok)
		require.Empty(t, r.store.files)
	})
}

// LO-438: when the window is over, what has not started is expired, and what runs ends by itself.
func TestExpiry(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		id := r.create(completions(20), func(b *task.BatchRecord) { b.ExpiresAt = b.CreatedAt.Add(3500 * time.Millisecond) }).ID
		time.Sleep(time.Minute)
		b := r.batch(id)
		require.False(t, b.EndedAt.IsZero())
		require.Equal(t, task.LineCounts{Completed: 8, Expired: 12}, b.Counts)
		require.Equal(t, 3500*time.Millisecond, b.ExpiredAt.Sub(b.CreatedAt))
	})
}

// LO-437, LO-438: a stop in the middle, or a crash at any point, changes nothing in what comes of a batch: each line has one result.
func TestABatchSurvivesStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.create(completions(40)).ID // before the first start
		for i := range 12 {
			r.start()
			if i == 9 {
				_, err := r.f.Cancel(t.Context(), "openai", id)
				require.NoError(t, err)
			}
			time.Sleep(time.Duration(i%4) * 700 * time.Millisecond)
			r.stop()
			r.open()
		}
		r.start()
		time.Sleep(time.Minute)
		b := r.batch(id)
		require.False(t, b.EndedAt.IsZero())
		require.Equal(t, 40, b.Counts.Completed+b.Counts.Canceled)
		require.NotZero(t, b.Counts.Completed)
		require.NotZero(t, b.Counts.Canceled)
		order := r.line.accepted()
		slices.Sort(order)
		require.Equal(t, slices.Compact(slices.Clone(order)), order, "no line has two tasks")
		r.stop()
	})
}

// LO-436: there may be so many batches that have not ended, and a batch whose file is gone is refused.
func TestBatchesAreBounded(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		r.line.refuse = func(task.Request) error { return task.Errorf(task.PoolUnready, "loading").Retry(time.Minute) }
		for i := range 100 {
			r.create(completion("a", fmt.Sprint(i)))
		}
		_, err := r.f.Create(t.Context(), task.BatchRecord{ID: "batch_more"})
		require.True(t, task.HasCode(err, task.AdmissionReject))
		for _, b := range must(r.f.Batches(t.Context(), task.BatchFilter{})) {
			_, err := r.f.Cancel(t.Context(), "openai", b.ID)
			require.NoError(t, err)
		}
		time.Sleep(2 * time.Minute)
		_, err = r.f.Create(t.Context(), task.BatchRecord{ID: "batch_more", FileID: "gone", Artifact: "gone"})
		require.True(t, task.HasCode(err, task.NotFound), "%v", err)
		require.Empty(t, must(r.f.Batches(t.Context(), task.BatchFilter{Live: true})))
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// LO-435: the store keeps the file of a batch that has not ended, and what ended long ago is forgotten.
func TestWhatIsKept(t *testing.T) {
	on(t, func(t *testing.T, r *rig) {
		b := r.create(completions(30))
		require.True(t, r.store.needed(b.Artifact))
		require.False(t, r.store.needed("other"))
		time.Sleep(time.Minute)
		require.False(t, r.store.needed(b.Artifact))
		r.batch(b.ID)
		require.NoError(t, r.store.Remove(b.Artifact)) // as the store's own retention does
		for n := range 600 {                           // several pages
			require.NoError(t, r.l.KeepFile(t.Context(), task.File{ID: fmt.Sprint("file-", n), Artifact: b.Artifact, CreatedAt: time.Now()}))
		}
		time.Sleep(26 * time.Hour)
		require.Empty(t, must(r.l.Files(t.Context(), task.FileFilter{Sent: true})))
		_, ok, err := r.l.Batch(t.Context(), b.ID)
		require.NoError(t, errors.Join(err))
		require.False(t, ok)
		_, ok, err = r.l.File(t.Context(), b.FileID)
		require.NoError(t, err)
		require.False(t, ok)
	}, func(o *batch.Options) { o.Retain = 24 * time.Hour })
}
