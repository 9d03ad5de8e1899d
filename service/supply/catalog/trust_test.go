// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// ORCH-3037
func TestADigestThatDiffersLeavesNothing(t *testing.T) {
	r := setup(t, writes(small("x")))
	_, err := r.Create(t.Context(), Request{Ref: "hf:org/repo/x.gguf", Digest: sum([]byte("other")), Wait: time.Minute})
	require.Contains(t, code(t, task.UntrustedArtifact, err).Message, sum(small("x")))
	require.Empty(t, r.left(t))
	require.Empty(t, r.List(""))
	require.Empty(t, r.changed)
	require.Equal(t, 1, r.counted(t, "fail", "digest_mismatch", "llamacpp"))
	require.Equal(t, Active, r.add(t, Request{Ref: "hf:org/repo/x.gguf", Digest: sum(small("x"))}).State)
}

// ORCH-3037
func TestTheFetchersRefusalCounts(t *testing.T) {
	r := setup(t, fetch(func(_ context.Context, _, into, _ string, _ func(done, total int64)) (string, int64, string, error) {
		return "", 0, "", errors.Join(os.WriteFile(filepath.Join(into, "x.part"), []byte("half"), 0o600), task.Errorf(task.UntrustedArtifact, "other bytes"))
	}))
	_, err := r.Create(t.Context(), Request{Ref: "hf:org/repo/x.gguf", Wait: time.Minute})
	code(t, task.UntrustedArtifact, err)
	require.Empty(t, r.left(t))
	require.Equal(t, 1, r.counted(t, "fail", "digest_mismatch", "llamacpp"))
}

// ORCH-3037
func TestSignatures(t *testing.T) {
	content, ours, theirs := small("x"), newKey(t), newKey(t)
	old := base64.StdEncoding.EncodeToString(minisign.Sign(ours.private, content))
	for name, c := range map[string]struct {
		strict    bool
		signature string
		want      SignatureState
		code      task.Code
		result    string
		reason    string
		counted   int
	}{
		"none":                   {want: SignatureMissing, result: "warn", reason: "signature_missing", counted: 1},
		"ours":                   {signature: ours.sign(t, content), want: SignatureValid, result: "pass", reason: "none", counted: 1},
		"theirs":                 {signature: theirs.sign(t, content), want: SignatureInvalid, result: "warn", reason: "signature_invalid", counted: 1},
		"of other bytes":         {signature: ours.sign(t, []byte("y")), code: task.UntrustedArtifact, result: "fail", reason: "signature_invalid", counted: 1},
		"of the old form":        {signature: old, code: task.InvalidParams, result: "fail", reason: "signature_invalid"},
		"strict, none":           {strict: true, code: task.UntrustedArtifact, result: "fail", reason: "signature_missing", counted: 1},
		"strict, ours":           {strict: true, signature: ours.sign(t, content), want: SignatureValid, result: "pass", reason: "none", counted: 1},
		"strict, theirs":         {strict: true, signature: theirs.sign(t, content), code: task.UntrustedArtifact, result: "fail", reason: "signature_invalid", counted: 1},
		"strict, of other bytes": {strict: true, signature: ours.sign(t, []byte("y")), code: task.UntrustedArtifact, result: "fail", reason: "signature_invalid", counted: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := setup(t, writes(content), func(o *Options) { o.Trust = Trust{Strict: c.strict, Keys: []string{ours.public}} })
			m, err := r.Create(t.Context(), Request{Ref: "hf:org/repo/x.gguf", Signature: c.signature, Wait: time.Minute})
			require.Equal(t, c.counted, r.counted(t, c.result, c.reason, "llamacpp"))
			if c.code != "" {
				code(t, c.code, err)
				require.Empty(t, r.left(t))
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, m.Signature)
			require.Equal(t, c.want != SignatureValid, len(m.Warnings) > 0)
			found, err := r.Verify(t.Context(), "x")
			require.NoError(t, err)
			require.Equal(t, c.want, found.Signature)
			require.Equal(t, 2, r.counted(t, c.result, c.reason, "llamacpp"))
		})
	}
}

// A folder's signature covers what sha256sum prints for its files.
//
// ORCH-3037
func TestASignedFolder(t *testing.T) {
	k, list := newKey(t), strings.TrimPrefix(sum([]byte("{}")), digestPrefix)+"  config.json\n"
	r := setup(t, fetch(func(_ context.Context, _, into, _ string, _ func(done, total int64)) (string, int64, string, error) {
		return into, 0, "", os.WriteFile(filepath.Join(into, "config.json"), []byte("{}"), 0o600)
	}), func(o *Options) { o.Trust = Trust{Strict: true, Keys: []string{k.public}} })
	require.Equal(t, SignatureValid, r.add(t, Request{Ref: "hf:org/repo", Signature: k.sign(t, []byte(list))}).Signature)
}

// ORCH-3037
func TestSources(t *testing.T) {
	r := setup(t, writes(small("x")), func(o *Options) { o.Trust.Sources = []string{"hf:org/", "https://host", "oci:reg/repo", "file:/srv"} })
	for ref, allowed := range map[string]bool{
		"hf:org/repo/x.gguf": true, "hf:orgs/repo/x.gguf": false, "hf:other/x.gguf": false, "https://host/x.gguf": true, "https://host.evil/x.gguf": false,
		"https://host:8443/x.gguf": false, "https://host@evil/x.gguf": false, "oci:reg/repo:v1": true, "oci:reg/repo@sha256:0": true, "oci:reg/repository:v1": false,
		"file:/srv/x.gguf": true, "file:/srv2/x.gguf": false, "s3:bucket/x.gguf": false,
	} {
		err := r.trust.source(ref)
		require.Equal(t, allowed, err == nil, ref)
		if !allowed {
			code(t, task.UntrustedArtifact, err)
		}
	}
	_, err := r.Create(t.Context(), Request{Ref: "s3:bucket/x.gguf"})
	code(t, task.UntrustedArtifact, err)
	require.Empty(t, r.left(t))
}

// ORCH-3037
func TestABadPolicyIsRefusedAtTheStart(t *testing.T) {
	for _, trust := range []Trust{{Strict: true}, {Keys: []string{"RWno"}}, {Sources: []string{"host"}}} {
		_, err := Open(Options{Dir: t.TempDir(), Fetcher: inPlace, Trust: trust})
		require.Error(t, err)
	}
	_, err := Open(Options{Dir: t.TempDir()})
	require.Error(t, err)
}

// Whatever a fetcher leaves is handled: files outside of its folder, links, half a model.
//
// ORCH-3037, ORCH-3060
func TestWhatIsFetchedIsNotTrusted(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "x.gguf")
	require.NoError(t, os.WriteFile(outside, small("x"), 0o600))
	for name, c := range map[string]struct {
		code task.Code
		make func(into string) string
	}{
		"out of the cache": {task.UntrustedArtifact, func(string) string { return outside }},
		"upwards":          {task.UntrustedArtifact, func(into string) string { return filepath.Join(into, "..", "..", "..", "x.gguf") }},
		"a link": {task.InvalidParams, func(into string) string {
			path := filepath.Join(into, "x.gguf")
			_ = os.Symlink(outside, path)
			return path
		}},
		"a link on the way": {task.InvalidParams, func(into string) string {
			_ = os.Symlink(filepath.Dir(outside), filepath.Join(into, "sub"))
			return filepath.Join(into, "sub", "x.gguf")
		}},
		"a link in a folder": {task.InvalidParams, func(into string) string {
			_ = os.Symlink(outside, filepath.Join(into, "x.gguf"))
			return into
		}},
		"a part is a link": {task.InvalidParams, func(into string) string {
			path := filepath.Join(into, "x-00001-of-00002.gguf")
			_ = os.WriteFile(path, small("x"), 0o600)
			_ = os.Symlink(outside, filepath.Join(into, "x-00002-of-00002.gguf"))
			return path
		}},
		"not there":    {task.InvalidParams, func(into string) string { return filepath.Join(into, "y.gguf") }},
		"nowhere":      {task.InvalidParams, func(string) string { return "" }},
		"empty folder": {task.InvalidParams, func(into string) string { return into }},
		"no GGUF": {task.InvalidParams, func(into string) string {
			path := filepath.Join(into, "page.html")
			_ = os.WriteFile(path, []byte("<html>sign in</html>"), 0o600)
			return path
		}},
		"half a GGUF": {task.InvalidParams, func(into string) string {
			path := filepath.Join(into, "x.gguf")
			_ = os.WriteFile(path, small("x")[:200], 0o600)
			return path
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := setup(t, fetch(func(_ context.Context, _, into, _ string, _ func(done, total int64)) (string, int64, string, error) {
				return c.make(into), 0, "", nil
			}))
			_, err := r.Create(t.Context(), Request{Ref: "hf:org/repo/x.gguf", Wait: time.Minute})
			code(t, c.code, err)
			require.Empty(t, r.left(t))
			require.FileExists(t, outside)
		})
	}

	r := setup(t, writes(small("x")))
	require.NoError(t, os.Symlink(filepath.Dir(outside), filepath.Join(r.dir, modelsDir, filesDir, "x")))
	r.add(t, Request{Ref: "hf:org/repo/x.gguf"})
	require.NoError(t, r.Delete(t.Context(), "x"))
	require.FileExists(t, outside, "a link in the place of a model's folder is removed, not followed")
}
