// SPDX-License-Identifier: GPL-3.0-or-later

package program_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/determinism"
	"github.com/llama-orch/llama-orch/utils/llm"
	"github.com/llama-orch/llama-orch/utils/model"
	"github.com/llama-orch/llama-orch/utils/params"
	"github.com/llama-orch/llama-orch/utils/proof"
)

// client is of the one daemon that all tests share.
var client *sdk.Client

func TestMain(m *testing.M) { os.Exit(tests(m)) }

func tests(m *testing.M) int {
	stop, err := serve()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer stop()
	return m.Run()
}

// serve starts a daemon with the bundled model twice: as fast as it can, with a queue for many, and so slowly that a task can be caught while it runs.
func serve() (_ func(), err error) {
	dir, err := os.MkdirTemp("", "llama-orch-program-")
	if err != nil {
		return nil, err
	}
	undo := []func(){func() { os.RemoveAll(dir) }}
	stop := func() {
		for _, step := range slices.Backward(undo) {
			step()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	lab, err := daemon.NewLab(context.Background(), dir, "../..")
	if err != nil {
		return nil, err
	}
	undo = append(undo, lab.Close)
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
bind_addr: 127.0.0.1:0
auth: {optional_on_loopback: true}
data_dir: %s
aliases: {poet: haiku}
artifacts: {keep_prompts: true, keep_transcripts: true}
sampler_profiles: {v1: {temperature: 0.8, top_p: 0.95, top_k: 40}}
pools:
  - {id: fast, engine: llamacpp, model: {id: haiku, ref: "file:%[2]s"}, device: cpu, replicas: 2, slots: 1, ctx: 256, sampler_profile: v1, provisioning: {mode: builtin}, queue: {capacity: 2, full_policy: reject}}
  - {id: slow, engine: llamacpp, model: {id: snail, ref: "file:%[2]s"}, device: cpu, replicas: 1, slots: 1, ctx: 256, sampler_profile: v1, pace: 2, provisioning: {mode: builtin}, queue: {capacity: 8, full_policy: reject}}
`, filepath.Join(dir, "data"), lab.Model), 0o600); err != nil {
		return nil, err
	}
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}
	d, err := lab.Serve(context.Background(), daemon.Options{Config: config, Options: process.Options{Env: lab.Env(home, nil)}})
	if err != nil {
		return nil, err
	}
	undo = append(undo, d.Kill)
	for _, pool := range []string{"fast", "slow"} {
		if _, err := d.Idle(context.Background(), pool); err != nil {
			return nil, err
		}
	}
	client, err = sdk.New(sdk.Options{Addr: d.URL})
	return stop, err
}

func haiku(about string) *sdk.TaskRequest {
	return &sdk.TaskRequest{ModelRef: "haiku", Prompt: "Write a haiku about " + about + " containing \"seven\".\n\n", Seed: new(int64(42))}
}

// LO-914
func TestAnswersOfARealModel(t *testing.T) {
	a, err := llm.Invoke(t.Context(), client, haiku("rain"))
	require.NoError(t, err)
	require.Contains(t, a.Text, "seven")
	require.Equal(t, sdk.FinishReasonStop, a.Finish)
	require.EqualValues(t, 42, a.Seed)
	require.Equal(t, sdk.DeterminismStrict, a.Receipt.Determinism)

	// More than the queue takes: a patient caller gets them all, in their order.
	var requests []*sdk.TaskRequest
	for i := range 12 {
		r := haiku("rain")
		r.Seed = new(int64(i))
		requests = append(requests, r)
	}
	var refused atomic.Int64
	patient := llm.Patient(client, sdk.Patience{Tries: 1000, OnWait: func(error, time.Duration) { refused.Add(1) }})
	answers, err := llm.Many(t.Context(), client, 1, requests)
	require.NoError(t, err)
	again, err := llm.Many(t.Context(), patient, 12, requests)
	require.NoError(t, err)
	for i := range answers {
		require.Equal(t, answers[i].Text, again[i].Text)
		require.EqualValues(t, i, again[i].Seed)
	}
	require.Positive(t, refused.Load(), "12 at once are more than 2 that run and 2 that wait")
}

// A task whose context ends is canceled on the server.
//
// LO-905
func TestATaskEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := haiku("snow")
	r.ModelRef = "snail"
	id := ""
	_, err := llm.Stream(ctx, client, r, func(e sdk.Event) error {
		switch e := e.(type) {
		case sdk.Started:
			id = e.TaskID
		case sdk.Token:
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	status, err := client.Get(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, sdk.TaskStateCanceled, status.State)
	require.Equal(t, sdk.ErrorCodeCanceled, status.Error.Code)
}

// LO-913
func TestWhatIsServedIsKnown(t *testing.T) {
	m, err := model.Define(t.Context(), client, model.Wish{Ref: "poet"})
	require.NoError(t, err)
	require.Equal(t, "haiku", m.ID, "the alias stands for it")
	require.Equal(t, 256, m.Ctx)
	r := m.Request()
	params.Params{MaxTokens: 8, Temperature: new(0.0)}.Put(r)
	r.Prompt = haiku("rain").Prompt
	require.NoError(t, params.Check(m, r))
	a, err := llm.Invoke(t.Context(), client, r)
	require.NoError(t, err)
	require.LessOrEqual(t, a.TokensOut, 8)

	var unsupported *params.UnsupportedError
	r.MaxTokens = 100000
	require.ErrorAs(t, params.Check(m, r), &unsupported)
	require.Equal(t, "max_tokens", unsupported.Param)
	r.MaxTokens, r.Format = 8, &sdk.Format{Type: sdk.FormatTypeJSONObject}
	require.ErrorAs(t, params.Check(m, r), &unsupported)
	require.Equal(t, "format", unsupported.Param)
	_, err = llm.Invoke(t.Context(), client, r)
	require.Error(t, err, "the server says so, too")

	var unknown *model.UnknownError
	_, err = model.Define(t.Context(), client, model.Wish{Ref: "haiko"})
	require.ErrorAs(t, err, &unknown)
	require.Equal(t, "haiku", unknown.Nearest)
}

// LO-920
func TestARealModelRepeatsItself(t *testing.T) {
	r := haiku("dawn")
	r.Seed = nil
	report, err := determinism.Repeat(t.Context(), client, 3, r)
	require.NoError(t, err)
	require.True(t, report.Same, report.Different)
	require.Len(t, report.Runs, 3)
	for _, run := range report.Runs {
		require.Equal(t, report.Runs[0].TranscriptSHA256, run.TranscriptSHA256)
		require.Equal(t, report.Runs[0].RequestDigest, run.RequestDigest)
		require.Equal(t, sdk.DeterminismStrict, run.Determinism)
	}

	folder := t.TempDir()
	live, err := llm.Invoke(t.Context(), determinism.Record(folder, client), haiku("dusk"))
	require.NoError(t, err)
	golden, err := llm.Invoke(t.Context(), determinism.Golden{Folder: folder, Fingerprint: live.Receipt.Fingerprint}, haiku("dusk"))
	require.NoError(t, err)
	require.Equal(t, live, golden, "the receipt, too")
}

// LO-921, LO-940
func TestBundlesOfARealServerHold(t *testing.T) {
	a, err := llm.Invoke(t.Context(), client, haiku("noon"))
	require.NoError(t, err)
	b, err := llm.Invoke(t.Context(), client, haiku("noon"))
	require.NoError(t, err)
	folder, err := os.OpenRoot(t.TempDir())
	require.NoError(t, err)
	defer func() { require.NoError(t, folder.Close()) }()
	kept, err := proof.Collect(t.Context(), client, folder, a.TaskID, b.TaskID)
	require.NoError(t, err)
	require.Len(t, kept, 2)
	for _, r := range kept {
		require.True(t, r.OK, "%+v", r)
		_, err = client.Artifact(t.Context(), "sha256-"+r.SHA256)
		require.NoError(t, err, "the artifact has the id of its bytes")
	}
	left, _, err := client.Proof(t.Context(), a.TaskID)
	require.NoError(t, err)
	right, _, err := client.Proof(t.Context(), b.TaskID)
	require.NoError(t, err)
	for _, d := range proof.Compare(left, right) {
		require.Equal(t, proof.Around, d.Kind, "%+v", d)
	}
}
