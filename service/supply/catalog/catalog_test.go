// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

// ORCH-3060
func TestAModelsWay(t *testing.T) {
	content, err := os.ReadFile(haiku)
	require.NoError(t, err)
	r := setup(t, writes(content))
	m := r.add(t, Request{Ref: "https://host/models/haiku.gguf", SBOM: "https://host/haiku.spdx.json"})
	require.Equal(t, "haiku", m.ID)
	require.Equal(t, Active, m.State)
	require.Equal(t, sum(content), m.Digest)
	require.EqualValues(t, len(content), m.Size)
	require.True(t, m.Verified)
	require.Equal(t, SignatureMissing, m.Signature)
	require.Equal(t, []string{"it has no signature"}, m.Warnings)
	require.Equal(t, "https://host/haiku.spdx.json", m.SBOM)
	require.Equal(t, 256, m.Metadata.CtxMax)
	require.Equal(t, filepath.Join(r.dir, "models/files/haiku/haiku.gguf"), m.Path)
	require.Nil(t, m.Progress)
	require.Equal(t, []Model{m}, r.changed)
	require.Equal(t, 1, r.counted(t, "warn", "signature_missing", "llamacpp"))

	require.Equal(t, m, r.add(t, Request{Ref: "https://host/models/haiku.gguf"}), "the same again is the same entry")
	require.Equal(t, []Model{m}, r.List(""))
	require.Empty(t, r.List(Retired))
	for _, name := range []string{"haiku", "https://host/models/haiku.gguf"} {
		found, ok := r.Find(name)
		require.True(t, ok)
		require.Equal(t, m, found)
	}
	_, ok := r.Find("haik")
	require.False(t, ok)

	r.reopen(t)
	again, err := r.Get("haiku")
	require.NoError(t, err)
	require.Equal(t, m, again)
	require.NoError(t, r.Delete(t.Context(), "haiku"))
	require.Empty(t, r.left(t))
	_, err = r.Get("haiku")
	code(t, task.NotFound, err)
	code(t, task.NotFound, r.Delete(t.Context(), "haiku"))
	r.reopen(t)
	require.Empty(t, r.List(""))
}

// ORCH-3060
func TestAFileIsUsedWhereItIs(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "own.gguf"), filepath.Join(dir, "link.gguf")
	require.NoError(t, os.WriteFile(path, small("own"), 0o600))
	require.NoError(t, os.Symlink(path, link))
	r := setup(t, inPlace)
	require.Equal(t, path, r.add(t, Request{Ref: "file:" + path}).Path)
	require.Equal(t, sum(small("own")), r.add(t, Request{Ref: "file:" + link}).Digest)
	require.NoError(t, r.Delete(t.Context(), "own"))
	require.NoError(t, r.Delete(t.Context(), "link"))
	require.FileExists(t, path)
	require.FileExists(t, link)
}

// ORCH-3060
func TestAFolderAndParts(t *testing.T) {
	r := setup(t, fetch(func(_ context.Context, ref, into, _ string, _ func(done, total int64)) (string, int64, string, error) {
		if strings.HasSuffix(ref, ".gguf") {
			for _, name := range []string{"a-00001-of-00002.gguf", "a-00002-of-00002.gguf"} {
				if err := os.WriteFile(filepath.Join(into, name), small(name), 0o600); err != nil {
					return "", 0, "", err
				}
			}
			return filepath.Join(into, "a-00001-of-00002.gguf"), 0, "", nil
		}
		err := errors.Join(os.Mkdir(filepath.Join(into, "sub"), 0o700), os.WriteFile(filepath.Join(into, "config.json"), []byte("{}"), 0o600),
			os.WriteFile(filepath.Join(into, "sub", "model.safetensors"), []byte("weights"), 0o600))
		return into, 0, "", err
	}))
	m := r.add(t, Request{Ref: "hf:org/repo"})
	require.Equal(t, "repo", m.ID)
	require.Nil(t, m.Metadata)
	list := strings.TrimPrefix(sum([]byte("{}")), digestPrefix) + "  config.json\n" + strings.TrimPrefix(sum([]byte("weights")), digestPrefix) + "  sub/model.safetensors\n"
	require.Equal(t, sum([]byte(list)), m.Digest, "as sha256sum prints it")
	require.EqualValues(t, 9, m.Size)
	require.Equal(t, 1, r.counted(t, "warn", "signature_missing", "vllm"))
	found, err := r.Verify(t.Context(), "repo")
	require.NoError(t, err)
	require.True(t, found.Verified)

	m = r.add(t, Request{Ref: "hf:org/repo/a-00001-of-00002.gguf"})
	require.Equal(t, "a", m.ID)
	require.EqualValues(t, 64, m.Metadata.Parameters)
	require.Equal(t, sum(append(small("a-00001-of-00002.gguf"), small("a-00002-of-00002.gguf")...)), m.Digest, "one part behind the other")
	used, err := r.Use(t.Context(), "a")
	require.NoError(t, err)
	require.Len(t, used.Marks, 2)
	used.Release()
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(m.Path), "a-00002-of-00002.gguf"), []byte("other"), 0o600))
	_, err = r.Use(t.Context(), "a")
	code(t, task.UntrustedArtifact, err)
}

// ORCH-3060
func TestWhatIsAskedForIsChecked(t *testing.T) {
	fetched := 0
	r := setup(t, fetch(func(context.Context, string, string, string, func(done, total int64)) (string, int64, string, error) {
		fetched++
		return "", 0, "", errors.New("it is not to be fetched")
	}), func(o *Options) {
		o.Canonical = func(ref string) (string, error) {
			if ref == "bad" {
				return "", errors.New("a bare name is no ref")
			}
			return ref, nil
		}
	})
	for name, req := range map[string]Request{
		"ref":            {Ref: "bad"},
		"long ref":       {Ref: "hf:" + strings.Repeat("a", maxRef)},
		"control":        {Ref: "hf:a/b\n"},
		"steps":          {Ref: "hf:a/../../etc/passwd.gguf"},
		"escaped steps":  {Ref: "https://host/a/%2e%2e/b.gguf"},
		"escaped twice":  {Ref: "https://host/a/%252e%252e%252fb.gguf"},
		"backslashes":    {Ref: `https://host/..\b.gguf`},
		"no id":          {Ref: "hf:org/..."},
		"id with steps":  {ID: "../x", Ref: "hf:org/x"},
		"id with slash":  {ID: "a/b", Ref: "hf:org/x"},
		"id with a dot":  {ID: ".x", Ref: "hf:org/x"},
		"long id":        {ID: strings.Repeat("a", 129), Ref: "hf:org/x"},
		"id with a zero": {ID: "a\x00", Ref: "hf:org/x"},
		"digest":         {Ref: "hf:org/x", Digest: "sha256:abc"},
		"other digest":   {Ref: "hf:org/x", Digest: "md5:" + strings.Repeat("a", 64)},
		"upper digest":   {Ref: "hf:org/x", Digest: "sha256:" + strings.Repeat("A", 64)},
		"signature":      {Ref: "hf:org/x", Signature: "AAAA"},
		"sbom":           {Ref: "hf:org/x", SBOM: "a\x1b"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Create(t.Context(), req)
			code(t, task.InvalidParams, err)
		})
	}
	require.Zero(t, fetched)
	require.Empty(t, r.left(t))
	for _, id := range []string{"../x", "", "x"} {
		_, err := r.Get(id)
		code(t, task.NotFound, err)
		_, err = r.Verify(t.Context(), id)
		code(t, task.NotFound, err)
		_, err = r.SetState(id, Retired, 0)
		code(t, task.NotFound, err)
		code(t, task.NotFound, r.Delete(t.Context(), id))
		_, err = r.Use(t.Context(), id)
		code(t, task.ModelNotFound, err)
	}
}

// ORCH-3060
func TestIdsAreMadeOfRefs(t *testing.T) {
	for ref, id := range map[string]string{
		"hf:org/repo/Some Model.Q4_K_M.gguf": "Some-Model.Q4_K_M", "hf:org/repo": "repo", "oci:reg/repo:v1": "repo-v1",
		"https://host/x.GGUF?token=a/b": "x", "file:/a/b-00001-of-00003.gguf": "b", "s3:bucket/...": "",
	} {
		require.Equal(t, id, idFrom(ref))
	}
	rapid.Check(t, func(t *rapid.T) {
		if id := idFrom(rapid.String().Draw(t, "ref")); id != "" {
			require.True(t, ValidID(id), "%q", id)
		}
	})
}

// ORCH-3060
func TestOneRefHasOneEntry(t *testing.T) {
	r := setup(t, writes(small("x")))
	r.add(t, Request{ID: "x", Ref: "hf:org/repo/x.gguf", Digest: sum(small("x"))})
	require.Equal(t, "x", r.add(t, Request{Ref: "hf:org/repo/x.gguf"}).ID)
	for _, req := range []Request{
		{ID: "y", Ref: "hf:org/repo/x.gguf"},
		{ID: "x", Ref: "hf:org/repo/y.gguf"},
		{Ref: "hf:org/repo/x.gguf", Digest: sum(nil)},
		{Ref: "hf:org/repo/x.gguf", Signature: newKey(t).sign(t, small("x"))},
	} {
		_, err := r.Create(t.Context(), req)
		code(t, task.Conflict, err)
	}
	require.Len(t, r.List(""), 1)
}

// ORCH-3060
func TestARetiredModel(t *testing.T) {
	r := setup(t, writes(small("x")))
	m := r.add(t, Request{Ref: "hf:org/repo/x.gguf"})
	require.False(t, r.Deprecated("x"))
	require.False(t, r.Deprecated("y"))
	for range 2 {
		retired, err := r.SetState("x", Retired, 10*time.Second)
		require.NoError(t, err)
		require.Equal(t, Retired, retired.State)
		require.Equal(t, now.Add(10*time.Second), retired.DrainBy)
		require.Equal(t, retired, r.changed[len(r.changed)-1])
	}
	r.reopen(t)
	require.True(t, r.Deprecated("x"))
	require.True(t, r.Deprecated("hf:org/repo/x.gguf"))
	require.Len(t, r.List(Retired), 1)
	used, err := r.Use(t.Context(), "x")
	require.NoError(t, err, "tasks that run may finish")
	used.Release()
	for range 2 {
		back, err := r.SetState("x", Active, 0)
		require.NoError(t, err)
		require.Equal(t, m, back)
	}
	require.False(t, r.Deprecated("x"))
	for _, to := range []State{Fetching, Failed, ""} {
		_, err := r.SetState("x", to, 0)
		code(t, task.InvalidParams, err)
	}
	_, err = r.SetState("x", Retired, -1)
	code(t, task.InvalidParams, err)
}

// ORCH-3060
func TestAModelInUseStays(t *testing.T) {
	r := setup(t, writes(small("x")))
	r.add(t, Request{Ref: "hf:org/repo/x.gguf"})
	used, err := r.Use(t.Context(), "x")
	require.NoError(t, err)
	code(t, task.Conflict, r.Delete(t.Context(), "x"))
	used.Release()
	used.Release()
	r.inUse["x"] = true
	code(t, task.Conflict, r.Delete(t.Context(), "x"))
	used, err = r.Use(t.Context(), "x")
	require.NoError(t, err, "a refused deletion leaves no mark")
	used.Release()
	delete(r.inUse, "x")
	require.NoError(t, r.Delete(t.Context(), "x"))
	require.Empty(t, r.left(t))
}

// ORCH-3060
func TestACrashLeavesNothingHalfDone(t *testing.T) {
	r := setup(t, writes(small("x")))
	m := r.add(t, Request{Ref: "hf:org/repo/x.gguf"})
	r.add(t, Request{Ref: "hf:org/repo/y.gguf"})
	require.NoError(t, r.Close())
	rec := *r.byID["y"].rec
	rec.Deleting = true
	d, err := openDisk(r.dir)
	require.NoError(t, err)
	require.NoError(t, d.write(recordName("y"), &rec)) // it died while y was deleted,
	require.NoError(t, d.root.Close())
	models := filepath.Join(r.dir, modelsDir)
	require.NoError(t, os.WriteFile(filepath.Join(models, ".new-7"), []byte("{"), 0o600)) // while it wrote,
	for name, text := range map[string]string{
		"torn": `{"id":"torn","ref"`, "other": `{"id":"x","ref":"hf:a/b","state":"Active"}`, "empty": ``, "late": `{"id":"late","ref":"hf:org/repo/x.gguf","state":"Failed"}`,
		"out": `{"id":"out","ref":"hf:a/c","state":"Active","cached":true,"at":"../../../../etc/passwd","digest":"` + sum(nil) + `","files":[{"name":"passwd"}]}`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(models, name+suffix), []byte(text), 0o600)) // and the disk is bad
	}
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(models, "link.json")))
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, enginesDoc), []byte("["), 0o600))
	r.open(t)
	require.Len(t, r.List(""), 1)
	again, ok := r.Find(m.Ref) // the file system decides which of two entries with one ref comes first
	require.True(t, ok)
	require.Contains(t, []string{"x", "late"}, again.ID)
	require.NoFileExists(t, filepath.Join(models, ".new-7"))
	require.NoFileExists(t, filepath.Join(models, "y.json"))
	require.NoDirExists(t, filepath.Join(models, filesDir, "y"))
	require.FileExists(t, filepath.Join(models, "torn.json"+damaged))
	require.Empty(t, r.Engines())
	require.FileExists(t, filepath.Join(r.dir, enginesDoc+damaged))
}

// Whatever happens in whatever order, answers and records agree, also over a restart.
//
// ORCH-3060
func TestTheCatalogIsAMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := setup(t, writes(small("x")))
		defer func() { require.NoError(rt, r.Close()) }()
		want := map[string]State{}
		ids := rapid.SampledFrom([]string{"a", "b", "c"})
		for range rapid.IntRange(1, 8).Draw(rt, "steps") { // each waits for the disk
			id := ids.Draw(rt, "id")
			switch rapid.SampledFrom([]string{"add", "retire", "activate", "delete", "restart"}).Draw(rt, "step") {
			case "add":
				if m := r.add(t, Request{ID: id, Ref: "hf:o/r/" + id}); want[id] == "" {
					want[id] = m.State
				}
			case "retire":
				step(rt, want, id, Retired, func() error { _, err := r.SetState(id, Retired, time.Second); return err })
			case "activate":
				step(rt, want, id, Active, func() error { _, err := r.SetState(id, Active, 0); return err })
			case "delete":
				step(rt, want, id, "", func() error { return r.Delete(t.Context(), id) })
				delete(want, id)
			case "restart":
				r.reopen(t)
			}
			got := map[string]State{}
			for _, m := range r.List("") {
				got[m.ID] = m.State
				require.Equal(rt, m.State == Retired, r.Deprecated(m.ID))
			}
			require.Equal(rt, want, got)
			require.Len(rt, r.left(t), 2*len(want), "a record and a file each")
		}
	})
}

// step makes a call that must work for a model that is there, and must be NOT_FOUND for any other.
func step(t *rapid.T, want map[string]State, id string, to State, do func() error) {
	err := do()
	if want[id] == "" {
		require.True(t, task.HasCode(err, task.NotFound))
		return
	}
	require.NoError(t, err)
	want[id] = to
}

// OC-CAT-56
func TestPreparedEngines(t *testing.T) {
	r := setup(t, inPlace)
	e := Engine{Engine: "llamacpp", Version: "v0.5.0", Mode: "source", BuildRef: "b1", Digest: "sha256:1", Flags: []string{"-DGGML_CUDA=ON"}, Path: "/cache/x"}
	require.NoError(t, r.Prepared(e))
	other := e
	other.Flags = nil
	require.NoError(t, r.Prepared(other))
	again := e
	again.Digest = "sha256:2"
	require.NoError(t, r.Prepared(again))
	r.reopen(t)
	again.PreparedAt, other.PreparedAt = now, now
	require.Equal(t, []Engine{other, again}, r.Engines())
	for range 12 {
		e.BuildRef += "x"
		e.Flags = []string{strings.Repeat("f", maxRecord/8)}
		require.NoError(t, r.Prepared(e))
	}
	require.Equal(t, e.BuildRef, r.Engines()[len(r.Engines())-1].BuildRef)
	r.reopen(t)
	require.NotEmpty(t, r.Engines())
	r.EngineChecked("llamacpp", true)
	r.EngineChecked("llamacpp", false)
	require.Equal(t, 1, r.counted(t, "pass", "none", "llamacpp"))
	require.Equal(t, 1, r.counted(t, "fail", "digest_mismatch", "llamacpp"))
}
