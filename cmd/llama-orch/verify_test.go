// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-940: a file needs no server.
func TestABundleIsVerifiedOffline(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "proof.json")
	text := proofOf(t, canceledRecord("Soft ", "rain"), true, true)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	got := call(t.Context(), "http://127.0.0.1:1", "", "verify", file)
	require.Zero(t, got.code, got.err)
	require.Regexp(t, `what was asked +holds`, got.out)
	require.Regexp(t, `what was answered +holds`, got.out)
	require.Regexp(t, `event ids +not checked: the ids`, got.out)

	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(text, `"seed":7`, `"seed":8`, 1)+"x"), 0o600))
	got = call(t.Context(), "http://127.0.0.1:1", "", "--json", "verify", file)
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.out, `"ok":false`)
	require.Contains(t, got.err, "a proof bundle does not hold")
}

// canceledRecord is a task that was canceled, so that it needs no receipt.
func canceledRecord(tokens ...string) task.Record {
	r := recordOf(tokens...)
	r.State, r.Err = task.StateCanceled, task.Errorf(task.Canceled, "somebody canceled it")
	return r
}

// GetFingerprint knows fp-1 and fp-2.
func (k *archive) GetFingerprint(_ context.Context, p gen.GetFingerprintParams) (*gen.FingerprintHeaders, error) {
	build, ok := map[gen.FingerprintID]string{"fp-1": "b1", "fp-2": "b2"}[p.ID]
	if !ok {
		k.refuse = refusal(404, gen.ErrorCodeNOTFOUND)
		return nil, k.refuse
	}
	return &gen.FingerprintHeaders{Response: gen.Fingerprint{
		ID: p.ID, SeenAt: time.Unix(0, 0), Replicas: []string{}, Facts: gen.Facts{Engine: "llamacpp", Build: build, Flags: []string{}},
	}}, nil
}

// LO-942
func TestBisectComparesTwoBundles(t *testing.T) {
	t.Parallel()
	k := newArchive(newDaemon())
	addr := k.serve(t)
	for id, fingerprint := range map[string]string{"a": "fp-1", "b": "fp-2", "same": "fp-2", "gone": "fp-9", "broken": "fp-1", "asked": "fp-2"} {
		r := recordOf("Soft ", map[string]string{"a": "rain", "same": "rain"}[id]+"!")
		r.Task.ID, r.Fingerprint = id, fingerprint
		if id == "asked" {
			r.Task.Request.Prompt = "another wish"
		}
		k.keep(gen.ArtifactKindProof, id, proofOf(t, r, true, true))
	}
	got := call(t.Context(), addr, "", "bisect", "a", "b", "--no-run")
	require.Zero(t, got.code, got.err)
	require.Regexp(t, `fp-1 +as A +a\n`, got.out)
	require.Regexp(t, `build +"b1" +"b2"`, got.out)
	require.Contains(t, got.out, "What may have changed the answer: build.")

	got = call(t.Context(), addr, "", "--json", "bisect", "a", "same")
	require.Zero(t, got.code, got.err)
	var out bisected
	require.NoError(t, json.Unmarshal([]byte(got.out), &out))
	require.True(t, out.Same)
	require.Empty(t, out.Suspects)
	require.Nil(t, k.request, "nothing was run")

	got = call(t.Context(), addr, "", "bisect", "a", "gone", "--no-run")
	require.Zero(t, got.code, got.err)
	require.Contains(t, got.err, "does not know what fingerprint fp-9 stands for")
	require.Contains(t, got.out, "No part of the fingerprints that is known tells the answers apart.")

	got = call(t.Context(), addr, "", "bisect", "a", "broken")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "ran on the same fingerprint, fp-1, and gave different answers")
	got = call(t.Context(), addr, "", "bisect", "a", "asked")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.err, "were not asked the same, so their answers may differ: request.prompt_sha256")
}
