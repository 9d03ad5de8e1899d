// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/task"
)

// decoder is a llama-server whose tokens a test names, by its documentation and as version 0.5.0 was seen to answer. It compares stop
// strings with the bytes that it decoded, keeps a rune until it is whole, and has U+FFFD for each byte that is no part of one.
// Behind its last token it waits for its client to go, unless it ends.
type decoder struct {
	tokens []string
	ends   string // the stop type; empty: it goes on and on
	rest   string // text of the last frame

	asked struct {
		Timings bool     `json:"timings_per_token"`
		Stop    []string `json:"stop"`
	}
	left chan struct{} // closed once its client has gone in mid-stream
}

// props of a llama-server with a template.
const stopProps = `{"build_info":"b1","total_slots":1,"default_generation_settings":{"n_ctx":256},"chat_template_caps":{},"chat_template":"{{ messages }}<think>"}`

func (d *decoder) serve(t *testing.T) *llamacpp.Engine {
	t.Helper()
	d.left = make(chan struct{})
	mux := http.NewServeMux()
	for path, answer := range map[string]string{"/props": stopProps, "/tokenize": `{"tokens":[1,2,3]}`, "/apply-template": `{"prompt":"p"}`} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) })
	}
	mux.HandleFunc("/completion", func(w http.ResponseWriter, r *http.Request) {
		d.decode(w, r, func(content string, n int) string {
			return fmt.Sprintf(`{"index":0,"content":%s,"tokens":[1],"stop":false,"id_slot":-1,"tokens_predicted":%d,"tokens_evaluated":5%s}`, content, n, d.timings(n))
		}, func(why string, n int) string {
			return fmt.Sprintf(`{"content":%q,"stop":true,"stop_type":%q,"tokens_predicted":%d,"tokens_evaluated":5,"tokens_cached":%d,"id_slot":3,"timings":{"cache_n":2,"prompt_ms":1.5,"predicted_ms":%d}}`,
				shown(d.rest), why, n, 4+n, n)
		})
	})
	mux.HandleFunc("/v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		delta := func(field, content, more string) string {
			return fmt.Sprintf(`{"choices":[{"finish_reason":null,"index":0,"delta":{%q:%s}}]%s}`, field, content, more)
		}
		d.decode(w, r, func(content string, n int) string {
			if n == 1 { // of two deltas of one token, only the second one has the timings
				return delta("reasoning_content", content, "") + "\n\ndata: " + delta("content", `"~"`, d.timings(n))
			}
			return delta("content", content, d.timings(n))
		}, func(string, int) string { panic("no test ends there") })
	})
	s := httptest.NewServer(mux)
	e := llamacpp.New(engine.Endpoint{URL: s.URL})
	t.Cleanup(func() { e.Close(); s.Close() })
	return e
}

func (d *decoder) timings(n int) string {
	if !d.asked.Timings {
		return ""
	}
	return fmt.Sprintf(`,"timings":{"cache_n":2,"prompt_n":3,"prompt_ms":1.5,"predicted_n":%d,"predicted_ms":%d}`, n, n)
}

func (d *decoder) decode(w http.ResponseWriter, r *http.Request, frame, last func(string, int) string) {
	body, _ := io.ReadAll(r.Body)
	if json.Unmarshal(body, &d.asked) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	send := func(data string) {
		_, _ = io.WriteString(w, "data: "+data+"\n\n")
		_ = http.NewResponseController(w).Flush()
	}
	var all, sent string
	for i, token := range d.tokens {
		all += token
		if slices.ContainsFunc(d.asked.Stop, func(s string) bool { return strings.Contains(all, s) }) {
			send(last("word", i+1))
			return
		}
		if cut := cutShort(all); cut == 0 {
			content, _ := json.Marshal(shown(all[len(sent):]))
			send(frame(string(content), i+1))
			sent = all
		}
	}
	if d.ends != "" {
		send(last(d.ends, len(d.tokens)))
		return
	}
	<-r.Context().Done()
	close(d.left)
}

// shown is text as the server's JSON has it.
func shown(text string) string {
	var b strings.Builder
	for _, r := range text { // a byte that is no part of a rune becomes U+FFFD
		b.WriteRune(r)
	}
	return b.String()
}

// cutShort is how many bytes at the end begin a rune.
func cutShort(text string) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if tail := text[len(text)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRuneInString(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

// LO-844: a run ends at a stop string with U+FFFD as at any other, though the engine does not see it: the text ends before it, the engine is
// left and stops, and the figures are those that it had told by then.
func TestAStopStringThatTheEngineDoesNotSee(t *testing.T) {
	for name, c := range map[string]struct {
		d     decoder
		stops []string
		text  string
		out   int // tokens
		left  bool
		why   task.FinishReason
	}{
		"a broken byte":                  {decoder{tokens: []string{"a", "\x95", "b"}}, []string{"\uFFFD"}, "a", 2, true, task.FinishStop},
		"at once":                        {decoder{tokens: []string{"\x95"}}, []string{"\uFFFD"}, "", 1, true, task.FinishStop},
		"with what follows":              {decoder{tokens: []string{"a", "\x95", "b", "c"}}, []string{"\uFFFDb"}, "a", 3, true, task.FinishStop},
		"with what comes before":         {decoder{tokens: []string{"xa", "a", "\x95", "b"}}, []string{"aa\uFFFD"}, "x", 3, true, task.FinishStop},
		"within one token":               {decoder{tokens: []string{"a\x95b\x95c"}}, []string{"\uFFFDb"}, "a", 1, true, task.FinishStop},
		"two broken bytes":               {decoder{tokens: []string{"a", "\x95", "\x95", "b"}}, []string{"\uFFFD\uFFFDb"}, "a", 4, true, task.FinishStop},
		"three, of which two count":      {decoder{tokens: []string{"\x95", "\x95", "\x95", "b"}}, []string{"\uFFFD\uFFFDb"}, "\uFFFD", 4, true, task.FinishStop},
		"behind a rune of two tokens":    {decoder{tokens: []string{"\xe8", "\xaa\x9e", "\xff"}}, []string{"語\uFFFD"}, "", 3, true, task.FinishStop},
		"the first of several":           {decoder{tokens: []string{"a", "\x95b"}}, []string{"a\uFFFD", "b\uFFFD", "\uFFFDb"}, "", 2, true, task.FinishStop},
		"the engine sees another before": {decoder{tokens: []string{"a", "z", "\x95"}}, []string{"\uFFFD", "z"}, "a", 2, false, task.FinishStop},
		"a real U+FFFD":                  {decoder{tokens: []string{"a", "\uFFFD", "b"}}, []string{"\uFFFD"}, "a", 2, false, task.FinishStop},
		"only its beginning":             {decoder{tokens: []string{"a", "\x95", "c"}, ends: "eos"}, []string{"\uFFFDb"}, "a\uFFFDc", 3, false, task.FinishStop},
		"only its beginning, at the end": {decoder{tokens: []string{"a", "\x95"}, ends: "limit"}, []string{"\uFFFDb"}, "a\uFFFD", 2, false, task.FinishLength},
		"in the last frame":              {decoder{tokens: []string{"a", "\x95"}, ends: "limit", rest: "bc"}, []string{"\uFFFDb"}, "a", 2, false, task.FinishStop},
		"no broken byte":                 {decoder{tokens: []string{"a", "b"}, ends: "limit"}, []string{"\uFFFD"}, "ab", 2, false, task.FinishLength},
	} {
		t.Run(name, func(t *testing.T) {
			d := &c.d
			e := d.serve(t)
			text, got := generate(t, e, job(func(j *engine.Job) { j.Sampling.Stop = c.stops }))
			require.Equal(t, c.text, text)
			want := engine.Result{
				TokensIn: 5, TokensOut: c.out, Prefill: 1500 * time.Microsecond, Decode: time.Duration(c.out) * time.Millisecond,
				Finish: c.why, Slot: 3, Cells: 4 + c.out, Cached: 2,
			}
			if c.left {
				want.Slot, want.Cells, want.Left = engine.NoSlot, 0, true
				<-d.left
			}
			require.Equal(t, want, got)
			require.True(t, d.asked.Timings)
		})
	}
}

// LO-844: nothing is asked of the engine, and nothing is held back, where no stop string has a U+FFFD.
func TestStopStringsThatTheEngineSees(t *testing.T) {
	d := &decoder{tokens: []string{"a", "\x95", "b", "c"}}
	text, got := generate(t, d.serve(t), job(func(j *engine.Job) { j.Sampling.Stop = []string{"c"} }))
	require.Equal(t, "a\uFFFDb", text)
	require.False(t, d.asked.Timings)
	require.False(t, got.Left)
	require.Equal(t, 4, got.TokensOut)
}

// LO-844: on the chat endpoint the thinking and the answer are compared each for itself. Where a delta does not tell the figures, the next
// one does, of which nothing is emitted.
func TestAStopStringOnTheChatEndpoint(t *testing.T) {
	for name, c := range map[string]struct {
		tokens           []string
		stop             string
		thinking, answer string
		out              int
	}{
		"in the answer":          {[]string{"hm", "a", "\x95", "b"}, "a\uFFFD", "hm", "~", 3},
		"in the thinking":        {[]string{"h\x95m", "a"}, "\uFFFD", "h", "", 1},
		"not across the two":     {[]string{"h\x95", "\x95", "b"}, "\uFFFD~", "h\uFFFD", "~\uFFFD", 0},
		"the beginning, in both": {[]string{"h\x95", "\x95", "b"}, "\uFFFDb", "h\uFFFD", "~", 3},
	} {
		t.Run(name, func(t *testing.T) {
			d := &decoder{tokens: c.tokens}
			e := d.serve(t)
			var thinking, answer strings.Builder
			done := fmt.Errorf("enough")
			got, err := e.Generate(t.Context(), job(func(j *engine.Job) {
				j.Prompt, j.Sampling.Stop = "p", []string{c.stop}
				j.Messages, j.Chat = []task.Message{{Role: "user", Content: "hello"}}, &task.Chat{Reasoning: task.Reasoning{Split: true}}
			}), func(p task.Piece) error {
				if p.Kind == task.EventReasoning {
					thinking.WriteString(p.Text)
				} else if answer.WriteString(p.Text); strings.HasSuffix(answer.String(), "b") {
					return done
				}
				return nil
			})
			<-d.left
			require.Equal(t, c.thinking, thinking.String())
			if c.out == 0 {
				require.ErrorIs(t, err, done)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.answer, answer.String())
			require.Equal(t, engine.Result{
				TokensIn: 5, TokensOut: c.out, Prefill: 1500 * time.Microsecond, Decode: time.Duration(c.out) * time.Millisecond,
				Finish: task.FinishStop, Slot: engine.NoSlot, Cached: 2, Left: true,
			}, got)
		})
	}
}

// LO-844, LO-801: figures that cannot be are not passed on here either, and an engine that tells none has broken off.
func TestFiguresBehindAStopStringAreChecked(t *testing.T) {
	for name, frame := range map[string]string{
		"too many":  `data: {"content":"\ufffd","stop":false,"tokens_predicted":1,"tokens_evaluated":1000000001}` + "\n\n",
		"below 0":   `data: {"content":"\ufffd","stop":false,"tokens_predicted":1,"tokens_evaluated":5,"timings":{"predicted_ms":-1}}` + "\n\n",
		"of a text": `data: {"content":"\ufffd","stop":false,"tokens_predicted":"1"}` + "\n\n",
		"none":      `data: {"content":"\ufffd","stop":false}` + "\n\n",
	} {
		e := fake(t, map[string]string{"/props": props, "/tokenize": `{"tokens":[1,2,3]}`, "/completion": frame})
		_, err := e.Generate(t.Context(), job(func(j *engine.Job) { j.Sampling.Stop = []string{"\uFFFD"} }), collect(&strings.Builder{}))
		require.True(t, task.HasCode(err, task.WorkerReset), "%s: %v", name, err)
	}
}

// LO-844: what was emitted, and what comes, is the text up to the first stop string, however it is cut into pieces.
func FuzzStops(f *testing.F) {
	f.Add("a\x95b", "\uFFFDb", uint8(1))
	f.Add("\x95\x95\x95語", "\uFFFD\uFFFD語", uint8(2))
	f.Fuzz(func(t *testing.T, text, stop string, size uint8) {
		if !strings.Contains(stop, "\uFFFD") || !utf8.ValidString(stop) || len(text) > 200 {
			return
		}
		whole := shown(text)
		want, _, over := strings.Cut(whole, stop)
		var got strings.Builder
		ended := llamacpp.StopAt(whole, stop, int(size%8)+1, &got)
		require.Equal(t, over, ended)
		require.Equal(t, want, got.String())
	})
}
