// SPDX-License-Identifier: GPL-3.0-or-later

package enginetest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// ChatOptions say what is tested of an engine's chats.
type ChatOptions struct {
	// Launch starts an engine for completions that ends with the test.
	Launch func(t testing.TB) engine.Engine
	// Features are what the engine has to have of what only some have.
	Features []task.Feature
	// Obeys: its model does what a message asks for. Another may say anything, so what is tested of it is the form alone.
	Obeys bool
	// Binds: its answers keep to a grammar. A scripted one says what its script says.
	Binds bool
}

// RunChats holds an engine to what is promised of chats: what its features name it can do, and what they do not name it refuses. Where it is asked by
// these words, a model that obeys calls the tool, answers in JSON, says what is on the picture, and thinks. The tests are LO-410's, LO-411's and LO-451's.
func RunChats(t *testing.T, o ChatOptions) {
	for name, test := range map[string]func(*chatSuite){
		"features": (*chatSuite).told, "tools": (*chatSuite).tools, "formats": (*chatSuite).formats, "grammars": (*chatSuite).grammars, "images": (*chatSuite).images,
		"reasoning": (*chatSuite).reasoning, "template arguments": (*chatSuite).arguments, "logit bias": (*chatSuite).bias,
		"log probabilities": (*chatSuite).logprobs,
	} {
		t.Run(name, func(t *testing.T) {
			s := &chatSuite{ChatOptions: o, t: t, e: o.Launch(t)}
			p, err := s.e.Props(t.Context())
			require.NoError(t, err)
			s.features = p.Features
			test(s)
		})
	}
}

// chatSuite is one engine under test.
type chatSuite struct {
	ChatOptions
	t        *testing.T
	e        engine.Engine
	features []task.Feature // that it tells
}

func (s *chatSuite) told() { require.ElementsMatch(s.t, s.Features, s.features) }

// note is a tool that the model may call.
var note = task.Tool{Name: "note", Description: "keeps a note", Parameters: json.RawMessage(
	`{"type":"object","properties":{"about":{"enum":["rain","snow"]}},"required":["about"]}`)}

func say(text string, c *task.Chat) engine.Job {
	j := job(7, 120)
	j.Prompt, j.Messages, j.Chat = "", []task.Message{{Role: task.RoleUser, Content: text}}, c
	j.CallID = func(n int) string { return engine.CallID("digest", n) }
	return j
}

// run runs a job twice, which has to give the same pieces, all of whole runes.
func (s *chatSuite) run(j engine.Job) ([]task.Piece, engine.Result) {
	s.t.Helper()
	once := func() (all []task.Piece, r engine.Result) {
		r, err := s.e.Generate(s.t.Context(), j, func(p task.Piece) error {
			if !utf8.ValidString(p.Text) || p.Text == "" && p.Kind != task.EventToolCall {
				return errors.New("emit was called with no text, or with half a rune")
			}
			all = append(all, p)
			return nil
		})
		require.NoError(s.t, err)
		return all, r
	}
	first, r := once()
	again, _ := once()
	require.Equal(s.t, first, again, "the same seed")
	return first, r
}

// has reports whether the engine has a feature. Where it has not, the job that needs it is refused before its first piece.
func (s *chatSuite) has(f task.Feature, j engine.Job) bool {
	s.t.Helper()
	if slices.Contains(s.features, f) {
		return true
	}
	_, err := s.e.Generate(s.t.Context(), j, func(task.Piece) error { return errors.New("a piece came") })
	require.True(s.t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.Contains(s.t, task.AsError(err).Message, task.Missing([]task.Feature{f}, nil))
	return false
}

// said is what pieces come to.
func said(all []task.Piece) task.Parts {
	var t task.Transcript
	for i, p := range all {
		t.Text += p.Text
		t.Ends = append(t.Ends, len(t.Text))
		if p.Kind != task.EventText {
			t.Marks = append(t.Marks, task.Mark{Piece: i, Kind: p.Kind, Call: p.Call})
		}
	}
	return t.Parts()
}

// tools: calls come in pieces of their own. The first has the id that the caller gives and the tool's name, and all together are arguments.
func (s *chatSuite) tools() {
	j := say("Call the tool.", &task.Chat{Tools: []task.Tool{note}, ToolChoice: task.ChooseRequired})
	if !s.has(task.FeatureTools, j) {
		return
	}
	all, r := s.run(j)
	known := map[int]bool{}
	for _, p := range all {
		if p.Kind != task.EventToolCall {
			continue
		}
		want := task.CallPart{N: p.Call.N}
		if !known[p.Call.N] {
			want.ID, want.Name = engine.CallID("digest", p.Call.N), note.Name
			known[p.Call.N] = true
		}
		require.Equal(s.t, want, p.Call)
	}
	if s.Obeys {
		require.Equal(s.t, task.FinishToolCalls, r.Finish)
	}
	if r.Finish != task.FinishToolCalls {
		return
	}
	calls := said(all).Calls
	require.NotEmpty(s.t, calls)
	for _, c := range calls {
		var arguments map[string]string
		require.NoError(s.t, json.Unmarshal([]byte(c.Arguments), &arguments), c.Arguments)
		require.Contains(s.t, []string{"rain", "snow"}, arguments["about"])
	}
}

// formats: an answer that ends by itself has the form that was asked for.
func (s *chatSuite) formats() {
	j := say("Answer in JSON.", &task.Chat{Format: &task.Format{
		Kind: task.FormatJSON, Schema: json.RawMessage(`{"type":"object","properties":{"mood":{"enum":["calm","wild"]}},"required":["mood"]}`),
	}})
	if !s.has(task.FeatureFormats, j) {
		return
	}
	all, r := s.run(j)
	if s.Obeys {
		require.Equal(s.t, task.FinishStop, r.Finish)
	}
	if r.Finish == task.FinishStop {
		var answer map[string]string
		require.NoError(s.t, json.Unmarshal([]byte(said(all).Answer), &answer))
		require.Contains(s.t, []string{"calm", "wild"}, answer["mood"])
	}
}

// grammars: an answer is a text of its grammar, the same one for the same seed, and one that nobody can read is refused.
func (s *chatSuite) grammars() {
	bound := func(grammar string) engine.Job {
		return say("Say something.", &task.Chat{Format: &task.Format{Kind: task.FormatGrammar, Grammar: grammar}})
	}
	j := bound(`root ::= "ka" ("ra" | "na")`)
	if !s.has(task.FeatureGrammars, j) || !s.Binds {
		return
	}
	first, r := s.run(j)
	require.Equal(s.t, task.FinishStop, r.Finish)
	require.Contains(s.t, []string{"kara", "kana"}, said(first).Answer)
	again, _ := s.run(j)
	require.Equal(s.t, first, again)
	_, err := s.e.Generate(s.t.Context(), bound("root ::= ("), func(task.Piece) error { return errors.New("no token may come") })
	require.True(s.t, task.HasCode(err, task.InvalidParams), "%v", err)
}

// pixel is a PNG file.
const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="

// images: a picture is taken, and its tokens are counted.
func (s *chatSuite) images() {
	data, err := base64.StdEncoding.DecodeString(pixel)
	require.NoError(s.t, err)
	j := say("", nil)
	j.Messages[0].Parts = []task.Part{{Text: "What is on this picture?"}, {Image: &task.Image{MIME: "image/png", Data: data}}}
	if !s.has(task.FeatureImages, j) {
		return
	}
	all, r := s.run(j)
	require.NotEmpty(s.t, said(all).Answer)
	if counter, ok := s.e.(engine.ChatCounter); ok {
		n, err := counter.CountChat(s.t.Context(), j.Messages, j.Chat)
		require.NoError(s.t, err)
		require.Equal(s.t, r.TokensIn, n)
	}
}

// reasoning: thinking that is wanted in pieces of its own comes so, in front of the answer. An engine that cannot tell it from the answer gives text.
func (s *chatSuite) reasoning() {
	all, _ := s.run(say("Please think.", &task.Chat{Reasoning: task.Reasoning{Split: true}}))
	require.NotEmpty(s.t, all)
	thought, answered := false, false
	for _, p := range all {
		answered = answered || p.Kind == task.EventText
		if p.Kind == task.EventReasoning {
			require.False(s.t, answered, "it thinks behind its answer")
			thought = true
		}
	}
	if !slices.Contains(s.features, task.FeatureReasoning) {
		require.False(s.t, thought)
	} else if s.Obeys {
		require.True(s.t, thought)
	}
}

func (s *chatSuite) arguments() {
	j := say("Say something.", &task.Chat{TemplateArgs: json.RawMessage(`{"mood":"calm"}`)})
	if s.has(task.FeatureArguments, j) {
		s.run(j)
	}
}

func (s *chatSuite) bias() {
	j := say("Say something.", &task.Chat{LogitBias: []task.Bias{{Token: 5, Bias: -100}}})
	if s.has(task.FeatureBias, j) {
		s.run(j)
	}
}
