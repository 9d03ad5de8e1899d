// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/task"
)

// teller is a llama-server that answers with frames which a test names, and notes what it was asked.
type teller struct {
	frames []string
	asked  struct {
		NProbs int       `json:"n_probs"`
		Post   *bool     `json:"post_sampling_probs"`
		Stop   *[]string `json:"stop"`
	}
}

func (s *teller) serve(t *testing.T) *llamacpp.Engine {
	t.Helper()
	mux := http.NewServeMux()
	for path, answer := range map[string]string{"/props": stopProps, "/tokenize": `{"tokens":[1,2,3]}`, "/apply-template": `{"prompt":"p"}`} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) })
	}
	play := func(w http.ResponseWriter, r *http.Request) {
		if json.NewDecoder(r.Body).Decode(&s.asked) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for _, f := range s.frames {
			_, _ = io.WriteString(w, "data: "+f+"\n\n")
		}
	}
	mux.HandleFunc("/completion", play)
	mux.HandleFunc("/v1/chat/completions", play)
	server := httptest.NewServer(mux)
	e := llamacpp.New(engine.Endpoint{URL: server.URL})
	t.Cleanup(func() { e.Close(); server.Close() })
	return e
}

// said is a frame of the native endpoint.
func said(content, probabilities string) string {
	return fmt.Sprintf(`{"index":0,"content":%q,"tokens":[1],"stop":false,"id_slot":0,"tokens_predicted":1,"tokens_evaluated":5,"timings":{"prompt_n":5,"predicted_n":1},"completion_probabilities":%s}`,
		content, probabilities)
}

// told is how likely a token was, by its bytes.
func told(text string) string {
	bytes, _ := json.Marshal([]int{}) // a list in any case
	if text != "" {
		var all []int
		for _, b := range []byte(text) {
			all = append(all, int(b))
		}
		bytes, _ = json.Marshal(all)
	}
	return fmt.Sprintf(`[{"id":1,"token":"","bytes":%s,"logprob":-0.5,"top_logprobs":[{"id":1,"token":"","bytes":%[1]s,"logprob":-0.5},{"id":2,"token":"z","bytes":[122],"logprob":-1}]}]`, bytes)
}

const ended = `{"content":"","stop":true,"stop_type":"eos","tokens_predicted":2,"tokens_evaluated":5,"id_slot":0,"timings":{"prompt_ms":1,"predicted_ms":1}}`

// pieced is what pieces say, each with the bytes of its tokens behind it.
func pieced(t *testing.T, all []task.Piece) (out []string) {
	t.Helper()
	for _, p := range all {
		line := p.Text + " ="
		tokens, err := task.DecodeLogprobs(p.Logprobs)
		require.NoError(t, err)
		for _, l := range tokens {
			line += fmt.Sprintf(" %q", string(l.Bytes))
		}
		out = append(out, line)
	}
	return out
}

// Tokens stand with the text in which they begin, and those of which nothing is sent have no figures.
//
// LO-451
func TestTokensStandWithTheirText(t *testing.T) {
	for name, c := range map[string]struct {
		frames []string
		stop   []string
		want   []string
	}{
		"each by itself":       {[]string{said("ab", told("ab")), said("c", told("c")), said("", told("")), ended}, nil, []string{`ab = "ab"`, `c = "c"`}},
		"a rune in two":        {[]string{said("a", told("a")), said("", told("\xe8\x9b")), said("蛙", told("\x99")), ended}, nil, []string{`a = "a"`, `蛙 = "\xe8\x9b" "\x99"`}},
		"an end in a rune":     {[]string{said("a", told("a")), said("", told("\xe8\x9b")), ended}, nil, []string{`a = "a"`}},
		"a word":               {[]string{said("ab", told("ab")), said("c", told("c")), said("d", told("d")), ended}, []string{"cd"}, []string{`ab = "ab"`}},
		"a word in a token":    {[]string{said("ab", told("ab")), said("cde", told("cde")), ended}, []string{"", "d"}, []string{`ab = "ab"`, `c = "cde"`}},
		"no word after all":    {[]string{said("ab", told("ab")), said("x", told("x")), said("z", told("z")), ended}, []string{"xy"}, []string{`ab = "ab"`, `xz = "x" "z"`}},
		"a beginning at the":   {[]string{said("ax", told("ax")), said("z", told("z")), ended}, []string{"xy"}, []string{`a = "ax"`, `xz = "z"`}},
		"a token without text": {[]string{said("", told("")), said("a", told("a")), ended}, nil, []string{`a = "a"`}},
		"a word behind a beginning": {
			[]string{said("x", told("x")), said("y", told("y")), said("q", told("q")), ended}, []string{"xyz", "yq"}, []string{`x = "x"`},
		},
		"held again and again": {
			[]string{said("x", told("x")), said("y", told("y")), said("qq", told("qq")), said("s", told("s")), said("!", told("!")), ended},
			[]string{"xyz", "yqqq", "qqst"},
			[]string{`x = "x"`, `y = "y"`, `qqs! = "qq" "s" "!"`},
		},
		"held to the end": {[]string{said("ab", told("ab")), said("x", told("x")), ended}, []string{"xy"}, []string{`ab = "ab"`, `x = "x"`}},
		"none are told":   {[]string{said("ab", "null"), said("c", "[]"), ended}, nil, []string{`ab =`, `c =`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &teller{frames: c.frames}
			e := s.serve(t)
			var all []task.Piece
			_, err := e.Generate(t.Context(), job(func(j *engine.Job) {
				j.Sampling.Stop, j.Chat = c.stop, &task.Chat{Logprobs: &task.Logprobs{Top: 1}}
			}), func(p task.Piece) error { all = append(all, p); return nil })
			require.NoError(t, err)
			require.Equal(t, c.want, pieced(t, all))
			require.Equal(t, 1, s.asked.NProbs)
			require.False(t, *s.asked.Post)
			require.Empty(t, *s.asked.Stop, "the adapter watches them")
		})
	}
}

// LO-451: as many of the likeliest come as were asked for, also none.
func TestAsManyAlternativesAsWereAskedFor(t *testing.T) {
	for top := range 4 {
		s := &teller{frames: []string{said("a", told("a")), ended}}
		all, _, err := pieces(t, s.serve(t), job(func(j *engine.Job) { j.Chat = &task.Chat{Logprobs: &task.Logprobs{Top: top}} }))
		require.NoError(t, err)
		tokens, err := task.DecodeLogprobs(all[0].Logprobs)
		require.NoError(t, err)
		require.Len(t, tokens[0].Top, min(top, 2))
		require.Equal(t, max(top, 1), s.asked.NProbs)
	}
	s := &teller{frames: []string{said("a", told("a")), ended}}
	all, _, err := pieces(t, s.serve(t), job(nil))
	require.NoError(t, err)
	require.Equal(t, []task.Piece{task.TextPiece("a")}, all)
	require.Zero(t, s.asked.NProbs)
}

// LO-451: what cannot be is no answer. An impossible token has the least of all.
func TestProbabilitiesThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		list string
		fine bool
	}{
		{`[{"bytes":[97],"logprob":1,"top_logprobs":[]}]`, false},
		{`[{"bytes":[97],"logprob":-1,"top_logprobs":[{"bytes":[97],"logprob":0.1}]}]`, false},
		{`[{"bytes":[256],"logprob":-1,"top_logprobs":[]}]`, false},
		{`[{"bytes":"a","logprob":-1}]`, false},
		{`[{"bytes":[97],"logprob":"x"}]`, false},
		{`{}`, true},
		{`[{"bytes":[97],"logprob":1e-7,"top_logprobs":[]}]`, true},
		{`[{"bytes":[97],"logprob":null,"top_logprobs":[{"bytes":[],"logprob":-1e30}]}]`, true},
	} {
		s := &teller{frames: []string{said("a", c.list), ended}}
		all, _, err := pieces(t, s.serve(t), job(func(j *engine.Job) { j.Chat = &task.Chat{Logprobs: &task.Logprobs{Top: 1}} }))
		if !c.fine {
			require.True(t, task.HasCode(err, task.WorkerReset), "%s: %v", c.list, err)
			continue
		}
		require.NoError(t, err, c.list)
		require.NotContains(t, all[0].Logprobs, "e+")
		if strings.Contains(c.list, "null") {
			require.Contains(t, all[0].Logprobs, `"logprob":-9999,"bytes":[97],"top_logprobs":[{"token":"","logprob":-9999`)
		}
	}
}

// LO-451: on the chat endpoint the answer has figures, and the thinking has none.
func TestProbabilitiesOnTheChatEndpoint(t *testing.T) {
	delta := func(field, text string) string {
		return fmt.Sprintf(`{"choices":[{"finish_reason":null,"index":0,"delta":{%q:%q},"logprobs":{"content":%s}}]}`, field, text, told(text))
	}
	s := &teller{frames: []string{
		`{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}]}`,
		delta("reasoning_content", "hm"), delta("content", "a"), delta("content", "b"),
		`{"choices":[{"finish_reason":"stop","index":0,"delta":{}}]}`, `{"choices":[],"usage":{"completion_tokens":3,"prompt_tokens":5}}`, "[DONE]",
	}}
	all, _, err := pieces(t, s.serve(t), job(func(j *engine.Job) {
		j.Prompt, j.Messages = "p", []task.Message{{Role: "user", Content: "x"}}
		j.Chat = &task.Chat{Reasoning: task.Reasoning{Split: true}, Logprobs: &task.Logprobs{Top: 2}}
	}))
	require.NoError(t, err)
	require.Equal(t, []string{`hm =`, `a = "a"`, `b = "b"`}, pieced(t, all))
	require.Equal(t, task.EventReasoning, all[0].Kind)
	require.Equal(t, 2, s.asked.NProbs)
}
