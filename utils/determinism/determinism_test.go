// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/llm"
)

// speaker answers as a server would: with these tokens, on this fingerprint, and with the seed that it is asked for, or its own.
type speaker struct {
	answers  [][]string // one a run, the last for ever
	prints   []string
	asked    []sdk.TaskRequest
	metrics  bool
	failWith string
}

func (s *speaker) Run(_ context.Context, r *sdk.TaskRequest) iter.Seq2[sdk.Event, error] {
	run := len(s.asked)
	s.asked = append(s.asked, *r)
	seed, id := int64(77), fmt.Sprintf("t%d", run)
	if r.Seed != nil {
		seed = *r.Seed
	}
	sum := sha256.New()
	var frames []sdk.Frame
	add := func(name, format string, args ...any) {
		data := fmt.Sprintf(format, args...)
		fmt.Fprintf(sum, "%s\n%s\n", name, data)
		frames = append(frames, sdk.Frame{ID: fmt.Sprintf("%d-%x", len(frames), sum.Sum(nil)[:4]), Name: name, Data: json.RawMessage(data)})
	}
	add("started", `{"task_id":%q,"queue_position":0,"predicted_start_ms":0,"seed":%d,"determinism":"strict"}`, id, seed)
	words := s.answers[min(run, len(s.answers)-1)]
	for i, w := range words {
		text, _ := json.Marshal(w)
		add("token", `{"t":%s,"i":%d}`, text, i)
	}
	if s.failWith != "" {
		add("error", `{"code":%q,"message":"m","retriable":false}`, s.failWith)
	} else {
		hash := sha256.Sum256([]byte(strings.Join(words, "")))
		add("end", `{"tokens_in":1,"tokens_out":%d,"decode_time_ms":1,"finish_reason":"stop","receipt":{"seed":%d,"determinism":"strict","fingerprint":%q,`+
			`"request_digest":"d","transcript_sha256":%q,"replica_id":"r","engine_version":"v","model_digest":"sha256:m"}}`,
			len(words), seed, s.prints[min(run, len(s.prints)-1)], hex.EncodeToString(hash[:]))
	}
	return func(yield func(sdk.Event, error) bool) {
		for e, err := range sdk.Replay(id, frames) {
			if !yield(e, err) {
				return
			}
			if _, ok := e.(sdk.Started); ok && s.metrics && !yield(sdk.Metrics{Frame: sdk.Frame{Name: "metrics", Data: json.RawMessage("{}")}}, nil) {
				return
			}
		}
	}
}

// LO-920
func TestRunsAreComparedByTheToken(t *testing.T) {
	t.Parallel()
	rain := []string{"So", "ft ", "rain", " falls"}
	for name, test := range map[string]struct {
		answers [][]string
		prints  []string
		want    *Difference
	}{
		"the same":        {[][]string{rain}, []string{"f"}, nil},
		"another token":   {[][]string{rain, rain, {"So", "ft ", "snow", " falls"}}, []string{"f"}, &Difference{Run: 2, Token: 2, Before: "Soft ", Want: "rain", Got: "snow"}},
		"it ends early":   {[][]string{rain, rain[:2]}, []string{"f"}, &Difference{Run: 1, Token: 2, Before: "Soft ", Want: "rain"}},
		"it goes on":      {[][]string{rain[:3], rain}, []string{"f"}, &Difference{Run: 1, Token: 3, Before: "Soft rain", Got: " falls"}},
		"cut another way": {[][]string{rain, {"Soft ", "rain", " falls"}}, []string{"f", "g"}, &Difference{Run: 1, Token: 0, Want: "So", Got: "Soft ", Fingerprints: true}},
	} {
		s := &speaker{answers: test.answers, prints: test.prints}
		report, err := Repeat(t.Context(), s, 3, &sdk.TaskRequest{ModelRef: "m", Prompt: "p"})
		require.NoError(t, err, name)
		require.Equal(t, test.want, report.Different, name)
		require.Equal(t, test.want == nil, report.Same, name)
		require.Len(t, report.Runs, 3)
		require.Equal(t, "t2", report.Runs[2].TaskID)
		require.Nil(t, s.asked[0].Seed)
		require.Equal(t, new(int64(77)), s.asked[2].Seed, "the seed that the first run was given")
	}
	require.Equal(t, `run 1 differs at token 0, behind "": "Soft " instead of "So"; it ran on another fingerprint`,
		(&Difference{Run: 1, Want: "So", Got: "Soft ", Fingerprints: true}).String())

	_, err := Repeat(t.Context(), &speaker{}, 1, &sdk.TaskRequest{})
	require.ErrorContains(t, err, "at least 2")
	_, err = Repeat(t.Context(), &speaker{}, 2, &sdk.TaskRequest{TaskID: "t"})
	require.ErrorContains(t, err, "leave out its task_id")
	_, err = Repeat(t.Context(), &speaker{answers: [][]string{rain}, failWith: "DECODE_TIMEOUT"}, 2, &sdk.TaskRequest{})
	var failed *sdk.Error
	require.ErrorAs(t, err, &failed)
}

// What was recorded is replayed byte for byte, without the server; under another id of the task, too.
//
// LO-920
func TestATranscriptReplaysByteForByte(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "golden")
	s := &speaker{answers: [][]string{{"<b> & räin\u2028\n", "\"\\"}}, prints: []string{"f"}, metrics: true}
	request := &sdk.TaskRequest{TaskID: "first", ModelRef: "m", Prompt: "a <wish>", Params: &sdk.Params{Temperature: new(0.0)}}
	frames := func(c llm.Caller, r *sdk.TaskRequest) (kept []sdk.Frame) {
		for e, err := range c.Run(t.Context(), r) {
			require.NoError(t, err)
			kept = append(kept, e.Wire())
		}
		return kept
	}
	recorded := slices.DeleteFunc(frames(Record(folder, s), request), func(f sdk.Frame) bool { return f.Name == "metrics" })
	require.Equal(t, "first", s.asked[0].TaskID, "the caller gets the request as it is")
	again := *request
	again.TaskID = "second"
	require.Equal(t, recorded, frames(Golden{Folder: folder}, &again))
	require.Len(t, s.asked, 1)
	a, err := llm.Invoke(t.Context(), Golden{Folder: folder, ModelDigest: "sha256:m", Fingerprint: "f"}, request)
	require.NoError(t, err)
	require.Equal(t, "<b> & räin\u2028\n\"\\", a.Text)

	// A task that failed is a transcript, too.
	s = &speaker{answers: [][]string{{"a"}}, failWith: "DECODE_TIMEOUT"}
	_, err = llm.Invoke(t.Context(), Record(folder, s), &sdk.TaskRequest{ModelRef: "m", Prompt: "slow"})
	require.Error(t, err)
	_, err = llm.Invoke(t.Context(), Golden{Folder: folder}, &sdk.TaskRequest{ModelRef: "m", Prompt: "slow"})
	var failed *sdk.Error
	require.ErrorAs(t, err, &failed)
	require.Equal(t, sdk.ErrorCodeDecodeTimeout, failed.Code)
}

// Another request, model, fingerprint or file is refused, with how to record anew, and a file that was changed by a byte is not believed.
//
// LO-920
func TestAnotherTranscriptIsRefused(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	golden := Golden{Folder: folder}
	request := &sdk.TaskRequest{ModelRef: "m", Prompt: "p"}
	s := &speaker{answers: [][]string{{"Soft ", "rain"}}, prints: []string{"f"}}
	_, err := llm.Invoke(t.Context(), Record(folder, s), request)
	require.NoError(t, err)
	digest, err := Digest(request)
	require.NoError(t, err)
	path := golden.path(digest)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	refused := func(g Golden, r *sdk.TaskRequest, says string) {
		t.Helper()
		_, err := llm.Invoke(t.Context(), g, r)
		wrong, ok := errors.AsType[*GoldenError](err)
		require.True(t, ok, err)
		require.Contains(t, wrong.Why, says)
		require.ErrorContains(t, err, "record it anew")
	}
	refused(golden, &sdk.TaskRequest{ModelRef: "m", Prompt: "q"}, "no transcript of it was recorded")
	refused(golden, &sdk.TaskRequest{ModelRef: "n", Prompt: "p"}, "no transcript of it was recorded")
	refused(golden, &sdk.TaskRequest{ModelRef: "m", Prompt: "p", Seed: new(int64(0))}, "no transcript of it was recorded")
	refused(Golden{Folder: folder, ModelDigest: "sha256:n"}, request, "with the model sha256:m, and sha256:n is wanted")
	refused(Golden{Folder: folder, Fingerprint: "g"}, request, "with the fingerprint f, and g is wanted")

	write := func(old, with string) {
		t.Helper()
		require.Contains(t, string(text), old)
		require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(text), old, with, 1)), 0o600))
	}
	write(`"prompt":"p"`, `"prompt":"q"`)
	refused(golden, request, "of another request")
	write(`"digest":"`, `"digest":"x`)
	refused(golden, request, "of another request")
	write("golden.v1", "golden.v9")
	refused(golden, request, "golden.v9")
	write("{", "")
	refused(golden, request, "no golden transcript")
	var changed *sdk.VerifyError
	write(`"t":"rain"`, `"t":"snow"`)
	_, err = llm.Invoke(t.Context(), golden, request)
	require.ErrorAs(t, err, &changed)
	require.Equal(t, sdk.CheckHash, changed.Check)
	write(`{"id":"1-`, `{"id":"2-`)
	_, err = llm.Invoke(t.Context(), golden, request)
	require.ErrorAs(t, err, &changed)
	require.Equal(t, sdk.CheckSequence, changed.Check)
	cut := string(text[:strings.Index(string(text), "\n{\"id\":\"3-")-1]) + "]}"
	require.NoError(t, os.WriteFile(path, []byte(cut), 0o600))
	_, err = llm.Invoke(t.Context(), golden, request)
	require.ErrorContains(t, err, "no last event")
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Mkdir(path, 0o700))
	refused(golden, request, "is a directory")
	_, err = Digest(&sdk.TaskRequest{TemplateArgs: json.RawMessage("{")})
	require.ErrorContains(t, err, "has no JSON")
}

// A task that is left before its end leaves no transcript.
//
// LO-920
func TestHalfATranscriptIsNotKept(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	enough := errors.New("enough")
	_, err := llm.Stream(t.Context(), Record(folder, &speaker{answers: [][]string{{"a", "b"}}, prints: []string{"f"}}), &sdk.TaskRequest{ModelRef: "m"}, func(e sdk.Event) error {
		if _, ok := e.(sdk.Token); ok {
			return enough
		}
		return nil
	})
	require.ErrorIs(t, err, enough)
	files, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, files)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, func() error {
		_, err := llm.Invoke(t.Context(), Record(folder, &speaker{answers: [][]string{{"a"}}, prints: []string{"f"}}), &sdk.TaskRequest{ModelRef: "m"})
		return err
	}())
	_, err = llm.Invoke(ctx, Golden{Folder: folder}, &sdk.TaskRequest{ModelRef: "m"})
	require.ErrorIs(t, err, context.Canceled)
}
