// SPDX-License-Identifier: GPL-3.0-or-later

package proof_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	bundle "github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/proof"
)

// made is a bundle of a completed task that keeps its words and its answer.
func made(t *testing.T, change func(*bundle.Bundle)) *bundle.Bundle {
	t.Helper()
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	started := at.Add(time.Second)
	b := &bundle.Bundle{
		Format: bundle.Format, TaskID: "t-1", Outcome: "completed", Seed: 7, Determinism: "strict", RequestDigest: "d",
		Request:   bundle.Request{ModelRef: "haiku", Workload: "completion", Priority: "batch", PromptSHA256: bundle.Digest([]byte("a wish")), Kept: true, Prompt: "a wish"},
		Sampling:  bundle.Sampling{Profile: "v1", Stop: []string{}},
		Placement: bundle.Placement{PoolID: "default", Engine: "llamacpp", EngineVersion: "b1", ReplicaID: "default-0", Fingerprint: "fp-1", Reasons: []string{}},
		Timing:    bundle.Timing{AcceptedAt: at, StartedAt: &started, FinishedAt: at.Add(2 * time.Second)},
		Metrics:   bundle.Metrics{TokensOut: 2}, LastEventID: "3-00000000",
	}
	answer := "Soft rain"
	b.Transcript = bundle.Transcript{SHA256: bundle.Digest([]byte(answer)), Bytes: len(answer), Tokens: 2, Kept: true, Text: answer, Ends: []int{5, 9}}
	b.Receipt = &bundle.Receipt{
		Seed: 7, Determinism: "strict", Fingerprint: "fp-1", RequestDigest: "d", TranscriptSHA256: b.Transcript.SHA256, ReplicaID: "default-0", EngineVersion: "b1",
		ModelDigest: "sha256:m",
	}
	if change != nil {
		change(b)
	}
	return b
}

func encoded(t *testing.T, b *bundle.Bundle) []byte {
	t.Helper()
	text, err := b.Encode()
	require.NoError(t, err)
	return text
}

func states(r proof.Report, state proof.State) (names []string) {
	for _, c := range r.Checks {
		if c.State == state {
			names = append(names, c.Name)
		}
	}
	return names
}

// LO-940
func TestABundleThatHolds(t *testing.T) {
	text := encoded(t, made(t, nil))
	r := proof.Verify(append(text, '\n'))
	require.True(t, r.OK, "%+v", r)
	require.Equal(t, "t-1", r.TaskID)
	require.Equal(t, bundle.Digest(text), r.SHA256)
	require.Equal(t, []string{"event ids"}, states(r, proof.Unseen))
	require.Empty(t, states(r, proof.Fails))
}

// LO-940
func TestWhatDoesNotHoldIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*bundle.Bundle)
		fails  []string
	}{
		"other words":         {func(b *bundle.Bundle) { b.Request.Prompt = "another wish" }, []string{"what was asked"}},
		"another seed":        {func(b *bundle.Bundle) { b.Seed = 8 }, []string{"the receipt"}},
		"another fingerprint": {func(b *bundle.Bundle) { b.Placement.Fingerprint = "fp-2" }, []string{"the receipt"}},
		"another transcript":  {func(b *bundle.Bundle) { b.Receipt.TranscriptSHA256 = "0" }, []string{"the receipt"}},
		"no receipt":          {func(b *bundle.Bundle) { b.Receipt = nil }, []string{"the receipt"}},
		"an error with it":    {func(b *bundle.Bundle) { b.Error = &bundle.Error{Code: "INTERNAL"} }, []string{"the outcome"}},
		"other figures":       {func(b *bundle.Bundle) { b.Metrics.TokensOut = 3 }, []string{"the number of tokens"}},
		"times that go back":  {func(b *bundle.Bundle) { b.Timing.FinishedAt = b.Timing.AcceptedAt.Add(-time.Hour) }, []string{"the times"}},
		"the answer changed":  {func(b *bundle.Bundle) { b.Transcript.Text = "Soft snow" }, []string{"form"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := proof.Verify(encoded(t, made(t, c.change)))
			require.False(t, r.OK)
			require.Equal(t, c.fails, states(r, proof.Fails), "%+v", r)
		})
	}
	r := proof.Verify(append([]byte(" "), encoded(t, made(t, nil))...))
	require.Equal(t, []string{"form"}, states(r, proof.Fails), "a blank was added")
	require.False(t, proof.Verify([]byte("{}")).OK)
}

// LO-940: what the bundle does not keep is said to be unseen, not to hold.
func TestWhatIsNotKeptIsNotChecked(t *testing.T) {
	r := proof.Verify(encoded(t, made(t, func(b *bundle.Bundle) {
		b.Request.Kept, b.Request.Prompt = false, ""
		b.Transcript.Kept, b.Transcript.Text, b.Transcript.Ends = false, "", nil
	})))
	require.True(t, r.OK)
	require.Equal(t, []string{"what was asked", "what was answered", "event ids"}, states(r, proof.Unseen))
}

// LO-921
func TestTwoBundlesAreCompared(t *testing.T) {
	a, b := made(t, nil), made(t, func(b *bundle.Bundle) {
		b.TaskID, b.Seed, b.Placement.Fingerprint, b.Transcript.Text, b.Timing.WaitedMS = "t-2", 8, "fp-2", "Soft snow", 5
	})
	require.Equal(t, []proof.Difference{
		{proof.Asked, "seed", "7", "8"},
		{proof.Placed, "placement.fingerprint", `"fp-1"`, `"fp-2"`},
		{proof.Answered, "transcript.text", `"Soft rain"`, `"Soft snow"`},
		{proof.Around, "task_id", `"t-1"`, `"t-2"`},
		{proof.Around, "timing.waited_ms", "0", "5"},
	}, proof.Compare(a, b))
	require.Empty(t, proof.Compare(a, a))
	kept := made(t, func(b *bundle.Bundle) { b.Request.Kept, b.Request.Prompt = false, "" })
	for _, d := range proof.Compare(a, kept) {
		require.Equal(t, proof.Around, d.Kind, "what is kept is not what was asked: %s", d.Field)
	}
}

// LO-942: the more fingerprints were tried, the fewer parts are left.
func TestThePartThatChangedAnAnswer(t *testing.T) {
	facts := func(build, device string, ctx int) *sdk.Facts {
		return &sdk.Facts{Engine: "llamacpp", Build: build, Device: device, Ctx: ctx, Flags: []string{}}
	}
	runs := []proof.Ran{
		{Fingerprint: "fp-1", Like: proof.LikeA, Facts: facts("b1", "3090", 256)},
		{Fingerprint: "fp-2", Like: proof.LikeB, Facts: facts("b2", "3060", 512)},
	}
	require.Equal(t, []string{"build", "ctx", "device"}, proof.Suspects(runs))
	require.Equal(t, []proof.Fact{{"build", `"b1"`, `"b2"`}, {"ctx", "256", "512"}, {"device", `"3090"`, `"3060"`}}, proof.FactsThatDiffer(*runs[0].Facts, *runs[1].Facts))
	runs = append(runs, proof.Ran{Fingerprint: "fp-3", Like: proof.LikeA, Facts: facts("b1", "3060", 256)})
	require.Equal(t, []string{"build", "ctx"}, proof.Suspects(runs), "the device gave both")
	runs = append(runs, proof.Ran{Fingerprint: "fp-4", Like: proof.LikeB, Facts: facts("b2", "3090", 256)})
	require.Equal(t, []string{"build"}, proof.Suspects(runs))
	runs = append(runs, proof.Ran{Fingerprint: "fp-5", Like: proof.Neither, Facts: facts("b1", "3090", 512)}, proof.Ran{Fingerprint: "fp-6", Like: proof.LikeB})
	require.Equal(t, []string{"build"}, proof.Suspects(runs), "another answer, and unknown facts, tell nothing")
	require.Empty(t, proof.Suspects(runs[:1]))
}

type archive map[string][]byte

func (a archive) Proof(_ context.Context, id string) (*bundle.Bundle, []byte, error) {
	text, ok := a[id]
	if !ok {
		return nil, nil, errors.New("there is none")
	}
	b, err := bundle.Decode(text)
	return b, text, err
}

// LO-921
func TestBundlesAreCollected(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, root.Close()) }()
	text := encoded(t, made(t, nil))
	reports, err := proof.Collect(t.Context(), archive{"t-1": text}, root, "t-1", "t-2")
	require.ErrorContains(t, err, "the proof bundle of task t-2: there is none")
	require.Len(t, reports, 1)
	require.True(t, reports[0].OK)
	kept, err := os.ReadFile(filepath.Join(dir, "t-1.json"))
	require.NoError(t, err)
	require.True(t, proof.Verify(kept).OK)
}
