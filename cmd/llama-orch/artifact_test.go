// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/task"
)

// archive is a daemon that keeps artifacts.
type archive struct {
	*daemon
	list   []gen.Artifact
	bytes  map[gen.ArtifactID]string
	stored *gen.ArtifactRequest
	asked  gen.ListArtifactsParams
	gone   bool        // the daemon has no record of the task
	past   *stream.Log // the recorded task's, if the daemon still has it
}

func newArchive(d *daemon) *archive { return &archive{daemon: d, bytes: map[gen.ArtifactID]string{}} }

func (k *archive) keep(kind gen.ArtifactKind, taskID, text string) gen.ArtifactID {
	id := gen.ArtifactID(fmt.Sprintf("sha256-%x", sha256.Sum256([]byte(text))))
	a := gen.Artifact{ID: id, Kind: kind, MediaType: "text/plain", SizeBytes: int64(len(text)), CreatedAt: time.Unix(1000, 0), URL: "http://x/"}
	if taskID != "" {
		a.TaskID.SetTo(gen.TaskID(taskID))
	}
	k.list = append(k.list, a)
	k.bytes[id] = text
	return id
}

func (k *archive) CreateArtifact(_ context.Context, r *gen.ArtifactRequest) (*gen.ArtifactHeaders, error) {
	k.stored = r
	k.keep(r.Kind, string(r.TaskID.Value), r.Content)
	return &gen.ArtifactHeaders{Location: "/x", Response: k.list[len(k.list)-1]}, nil
}

func (k *archive) ListArtifacts(_ context.Context, p gen.ListArtifactsParams) (*gen.ArtifactListHeaders, error) {
	k.asked = p
	out := gen.ArtifactList{Artifacts: []gen.Artifact{}}
	for _, a := range k.list {
		if !p.TaskID.Set || p.TaskID == a.TaskID {
			out.Artifacts = append(out.Artifacts, a)
		}
	}
	return &gen.ArtifactListHeaders{Response: out}, nil
}

func (k *archive) GetArtifact(_ context.Context, p gen.GetArtifactParams) (*gen.GetArtifactOKHeaders, error) {
	for _, a := range k.list {
		if a.ID == p.ID {
			return &gen.GetArtifactOKHeaders{Response: a}, nil
		}
	}
	k.refuse = refusal(404, gen.ErrorCodeNOTFOUND)
	return nil, k.refuse
}

func (k *archive) GetArtifactContent(_ context.Context, p gen.GetArtifactContentParams, w http.ResponseWriter) error {
	_, err := io.WriteString(w, k.bytes[p.ID])
	return err
}

// CreateTask has no words for a replay of a task that is gone.
func (k *archive) CreateTask(ctx context.Context, r *gen.TaskRequest) (*gen.AdmissionHeaders, error) {
	if k.gone && r.ReplayOf.Set {
		k.refuse = refusal(404, gen.ErrorCodeNOTFOUND)
		return nil, k.refuse
	}
	return k.daemon.CreateTask(ctx, r)
}

func (k *archive) StreamTask(ctx context.Context, p gen.StreamTaskParams, w http.ResponseWriter) error {
	if p.ID != "recorded" {
		return k.daemon.StreamTask(ctx, p, w)
	}
	if k.past == nil {
		return refusal(404, gen.ErrorCodeNOTFOUND)
	}
	return (&daemon{log: k.past}).StreamTask(ctx, p, w)
}

func (k *archive) serve(t *testing.T) string { return serve(t, k) }

// ORCH-3097
func TestArtifacts(t *testing.T) {
	t.Parallel()
	k := newArchive(newDaemon())
	addr := k.serve(t)
	id := k.keep(gen.ArtifactKindDiff, "t-1", "+ a line\n")
	got := call(t.Context(), addr, "", "artifacts", "--kind", "diff", "--task", "t-1", "--tag", "a:b", "--limit", "3")
	require.Zero(t, got.code, got.err)
	require.Contains(t, got.out, "ARTIFACT")
	require.Contains(t, got.out, string(id)+"  diff  9      text/plain  t-1")
	require.Equal(t, gen.ListArtifactsParams{Kind: gen.NewOptArtifactKind("diff"), TaskID: gen.NewOptTaskID("t-1"), Tag: gen.NewOptArtifactTag("a:b"), Limit: gen.NewOptInt(3)}, k.asked)
	got = call(t.Context(), addr, "", "--json", "artifacts")
	var list sdk.ArtifactList
	require.NoError(t, json.Unmarshal([]byte(got.out), &list))
	require.Len(t, list.Artifacts, 1)

	got = call(t.Context(), addr, "", "artifact", "get", string(id))
	require.Equal(t, output{0, "+ a line\n", ""}, got, "the bytes and nothing else")
	file := filepath.Join(t.TempDir(), "saved")
	require.Zero(t, call(t.Context(), addr, "", "artifact", "get", string(id), "-o", file).code)
	saved, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "+ a line\n", string(saved))

	k.bytes[id] = "- a line\n"
	got = call(t.Context(), addr, "", "artifact", "get", string(id), "-o", filepath.Join(t.TempDir(), "damaged"))
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "damaged")
	require.Equal(t, exitFailed, call(t.Context(), addr, "", "artifact", "get", "sha256-"+strings.Repeat("0", 64)).code)
}

// ORCH-3097
func TestADamagedArtifactLeavesNoFile(t *testing.T) {
	t.Parallel()
	k := newArchive(newDaemon())
	id := k.keep(gen.ArtifactKindDiff, "t-1", "whole")
	k.bytes[id] = "whale"
	dir := t.TempDir()
	require.Equal(t, exitFailed, call(t.Context(), k.serve(t), "", "artifact", "get", string(id), "-o", filepath.Join(dir, "x")).code)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// ORCH-3097
func TestArtifactPut(t *testing.T) {
	t.Parallel()
	k := newArchive(newDaemon())
	addr := k.serve(t)
	file := filepath.Join(t.TempDir(), "x.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"größe":1}`), 0o600))
	got := call(t.Context(), addr, "", "artifact", "put", file, "--kind", "plan", "--task", "t-1", "--tag", "b", "--tag", "a", "--note", "k=v=w,x")
	require.Zero(t, got.code, got.err)
	require.Equal(t, &gen.ArtifactRequest{
		Kind: "plan", MediaType: gen.NewOptString("application/json"), Content: `{"größe":1}`, Encoding: gen.NewOptArtifactRequestEncoding("utf-8"), TaskID: gen.NewOptTaskID("t-1"),
		Tags: gen.ArtifactTags{"b", "a"}, Metadata: gen.ArtifactMetadata{{Key: "k", Value: "v=w,x"}},
	}, k.stored)
	require.Zero(t, call(t.Context(), addr, "\xff\x00", "artifact", "put", "-", "--kind", "trace", "--media-type", "x/y").code)
	require.Equal(t, "/wA=", k.stored.Content)
	require.EqualValues(t, "base64", k.stored.Encoding.Value)
	require.Equal(t, "x/y", k.stored.MediaType.Value)
	for _, args := range [][]string{{"put", file}, {"put", file, "--kind", "novel"}, {"put", "/does/not/exist", "--kind", "plan"}, {"get"}} {
		require.Equal(t, exitUsage, call(t.Context(), addr, "", append([]string{"artifact"}, args...)...).code, args)
	}
}

// recordOf is a task as the server would bundle it.
func recordOf(tokens ...string) task.Record {
	r := task.Record{
		State: task.Completed, ReplicaID: "default-0", FinishedAt: time.UnixMilli(5000), StartedAt: time.UnixMilli(2000),
		Task: task.Task{
			ID: "recorded", PoolID: "default", Engine: "llamacpp", Seed: 7, Determinism: task.Strict, AcceptedAt: time.UnixMilli(1000),
			Sampling: task.Sampling{Profile: "v1", Temperature: 0.5, RepeatPenalty: 1},
			Request:  task.Request{ModelRef: "haiku", Workload: task.Completion, Priority: task.Interactive, Prompt: "a wish"},
		},
	}
	for _, token := range tokens {
		r.Transcript.Text += token
		r.Transcript.Ends = append(r.Transcript.Ends, len(r.Transcript.Text))
	}
	return r
}

func proofOf(t *testing.T, r task.Record, prompts, transcripts bool) string {
	t.Helper()
	r.Proof = task.Proof{KeepsPrompt: prompts, KeepsTranscript: transcripts}
	text, err := bundle.Of(r).Encode()
	require.NoError(t, err)
	return string(text)
}

// OC-CTRL-2067
func TestProofIsShown(t *testing.T) {
	t.Parallel()
	r := recordOf("Soft ", "rain\x1b[31m")
	r.State, r.Err = task.Failed, task.Errorf(task.WorkerReset, "the worker died")
	k := newArchive(newDaemon())
	addr := k.serve(t)
	text := proofOf(t, r, false, false)
	k.keep(gen.ArtifactKindProof, "recorded", text)
	got := call(t.Context(), addr, "", "proof", "recorded")
	require.Zero(t, got.code, got.err)
	for _, want := range []string{"the worker died (WORKER_RESET)", "seed", "strict", "pool default was chosen", "2 tokens, 14 bytes", "by digest", "waited"} {
		require.Contains(t, got.out, want)
	}
	require.NotContains(t, got.out, "rain")
	require.Equal(t, text+"\n", call(t.Context(), addr, "", "--json", "proof", "recorded").out, "as it was written")

	file := filepath.Join(t.TempDir(), "proof.json")
	require.NoError(t, os.WriteFile(file, []byte(proofOf(t, r, true, true)+"\n"), 0o600))
	got = call(t.Context(), addr, "", "proof", file)
	require.Contains(t, got.out, `"a wish"`)
	require.Contains(t, got.out, `"Soft rain\x1b[31m"`, "spelt out, not sent to the terminal")
	require.Equal(t, exitFailed, call(t.Context(), addr, "", "proof", "other").code)
	require.NoError(t, os.WriteFile(file, []byte("{}"), 0o600))
	require.Equal(t, exitFailed, call(t.Context(), addr, "", "proof", file).code)
}

// LO-301
func TestReplay(t *testing.T) {
	t.Parallel()
	canceled := recordOf("Soft ", "rain")
	canceled.State = task.StateCanceled
	queued := recordOf()
	queued.State = task.StateCanceled
	for name, c := range map[string]struct {
		recorded             task.Record
		prompts, transcripts bool
		gone                 bool
		now                  []string
		past                 []string // of the recorded task, as the daemon still has it
		file, args           string
		code                 int
		out, err             string
	}{
		"the same":              {recorded: recordOf("Soft ", "rain"), prompts: true, now: []string{"Soft ", "rain"}, out: "match: 2 tokens, transcript "},
		"another token":         {recorded: recordOf("Soft ", "rain"), prompts: true, transcripts: true, now: []string{"Soft ", "snow"}, code: exitFailed, out: "the answers differ at token 1: recorded \"rain\", now \"snow\"\n  before    \"Soft \"\n  recorded  \"rain\"\n  now       \"snow\"\n"},
		"shorter":               {recorded: recordOf("Soft ", "rain"), prompts: true, transcripts: true, now: []string{"Soft "}, code: exitFailed, out: `at token 1: recorded "rain", now nothing`},
		"the daemon knows":      {recorded: recordOf("Soft ", "rain"), prompts: true, now: []string{"Soft ", "snow"}, past: []string{"Soft ", "rain"}, code: exitFailed, out: `differ at token 1: recorded "rain", now "snow"`},
		"nobody knows":          {recorded: recordOf("Soft ", "rain"), prompts: true, now: []string{"Soft ", "snow"}, code: exitFailed, out: "nobody can say where"},
		"the prompt is a file":  {recorded: recordOf("Soft "), file: "a wish", args: "--prompt-file", now: []string{"Soft "}, out: "match: 1 token"},
		"with a line feed":      {recorded: recordOf("Soft "), file: "a wish\n", args: "--prompt-file", now: []string{"Soft "}, out: "match: 1 token"},
		"another prompt":        {recorded: recordOf("Soft "), file: "a dream", args: "--prompt-file", code: exitUsage, err: "its SHA-256 differs"},
		"the server has it":     {recorded: recordOf("Soft "), now: []string{"Soft "}, out: "match: 1 token"},
		"no prompt":             {recorded: recordOf("Soft "), gone: true, code: exitUsage, err: "give --prompt-file a file with the prompt"},
		"one too many":          {recorded: recordOf("Soft "), prompts: true, file: "a wish", args: "--prompt-file", code: exitUsage, err: "leave --prompt-file out"},
		"canceled":              {recorded: canceled, prompts: true, now: []string{"Soft ", "rain", " falls"}, out: "match: 2 tokens, as far as the recorded run got"},
		"canceled in the queue": {recorded: queued, prompts: true, code: exitFailed, err: "nothing to compare"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newArchive(newDaemon().complete(t, c.now...))
			k.gone = c.gone
			if c.past != nil {
				k.past = newDaemon().complete(t, c.past...).log
			}
			addr := k.serve(t)
			k.keep(gen.ArtifactKindProof, "recorded", proofOf(t, c.recorded, c.prompts, c.transcripts))
			args := []string{"replay", "recorded"}
			if c.args != "" {
				file := filepath.Join(t.TempDir(), "prompt")
				require.NoError(t, os.WriteFile(file, []byte(c.file), 0o600))
				args = append(args, c.args, file)
			}
			got := call(t.Context(), addr, "", args...)
			require.Equal(t, c.code, got.code, "%s%s", got.out, got.err)
			require.Contains(t, got.out, c.out)
			require.Contains(t, got.err, c.err)
			if c.out == "" {
				require.Nil(t, k.request, "nothing was submitted")
				return
			}
			if c.prompts || c.args != "" {
				require.Equal(t, "a wish", k.request.Prompt.Value)
				require.False(t, k.request.ReplayOf.Set)
			} else {
				require.Equal(t, gen.NewOptTaskID("recorded"), k.request.ReplayOf)
				require.False(t, k.request.Prompt.Set)
			}
			require.Equal(t, gen.NewOptSeed(7), k.request.Seed)
			require.Equal(t, gen.NewOptFloat64(0.5), k.request.Params.Value.Temperature)
			require.Equal(t, gen.PlacementWish{Mode: gen.NewOptPlacementWishMode("pin"), PoolID: gen.NewOptPoolID("default")}, k.request.Placement.Value)
			require.NotEqual(t, gen.TaskID("recorded"), k.request.TaskID.Value)
		})
	}
}

// LO-301
func TestReplayOfAFile(t *testing.T) {
	t.Parallel()
	r := recordOf("Soft ", "rain")
	r.Task.PoolID, r.Fingerprint, r.Task.Request.Prompt = "elsewhere", "another", ""
	r.Task.Request.Messages = []task.Message{{Role: "user", Content: "a <wish>"}}
	dir := t.TempDir()
	file, words := filepath.Join(dir, "proof.json"), filepath.Join(dir, "request.json")
	require.NoError(t, os.WriteFile(file, []byte(proofOf(t, r, false, false)), 0o600))
	require.NoError(t, os.WriteFile(words, []byte(`{"model_ref":"haiku", "messages":[ {"role":"user","content":"a <wish>"} ]}`), 0o600))
	k := newArchive(newDaemon().complete(t, "Soft ", "rain"))
	got := call(t.Context(), k.serve(t), "", "--json", "replay", file, "--prompt-file", words)
	require.Zero(t, got.code, got.err)
	var out map[string]any
	require.NoError(t, json.Unmarshal([]byte(got.out), &out))
	require.Equal(t, true, out["match"])
	require.InDelta(t, -1, out["token"], 0)
	require.Equal(t, "recorded", out["task_id"])
	require.Equal(t, "another", out["recorded_fingerprint"])
	require.Contains(t, got.err, "the server no longer has pool elsewhere")
	require.False(t, k.request.Placement.Set)
	require.Equal(t, []gen.Message{say("user", "a <wish>")}, k.request.Messages)

	// The server has a task of that id: another one, and then the same.
	other := r
	other.Task.Request.Messages = []task.Message{{Role: "user", Content: "another wish"}}
	k = newArchive(newDaemon().complete(t, "Soft ", "rain"))
	id := k.keep(gen.ArtifactKindProof, "recorded", proofOf(t, other, false, false))
	got = call(t.Context(), k.serve(t), "", "replay", file)
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.err, "is another one than the bundle's")
	require.Nil(t, k.request)
	k.bytes[id] = proofOf(t, r, false, false)
	got = call(t.Context(), k.serve(t), "", "replay", file)
	require.Zero(t, got.code, got.err)
	require.Equal(t, gen.NewOptTaskID("recorded"), k.request.ReplayOf)

	require.NoError(t, os.WriteFile(words, []byte(`{"messages":`), 0o600))
	require.Equal(t, exitUsage, call(t.Context(), k.serve(t), "", "replay", file, "--prompt-file", words).code)
}

// LO-301
func TestAReplayThatFailsSaysSo(t *testing.T) {
	t.Parallel()
	k := newArchive(newDaemon().fail(task.DecodeTimeout))
	k.keep(gen.ArtifactKindProof, "recorded", proofOf(t, recordOf("x"), true, false))
	got := call(t.Context(), k.serve(t), "", "replay", "recorded")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "DECODE_TIMEOUT")
}
