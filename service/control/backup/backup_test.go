// SPDX-License-Identifier: GPL-3.0-or-later

package backup_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/service/control/backup"
	"github.com/llama-orch/llama-orch/service/control/datafolder"
	"github.com/llama-orch/llama-orch/service/record/artifact"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/supply/catalog"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source fetches as fetch.Fetcher does: what is there and has the digest is not fetched again.
type source struct{ fetched []string }

func (s *source) Fetch(_ context.Context, ref, into, _ string, _ func(done, total int64)) (string, int64, string, error) {
	at := filepath.Join(into, "model.gguf")
	if _, err := os.Stat(at); err == nil {
		return at, 0, "", nil
	}
	s.fetched = append(s.fetched, ref)
	text, err := os.ReadFile("../../../models/haiku/haiku.gguf")
	if err != nil {
		return "", 0, "", err
	}
	return at, int64(len(text)), "", os.WriteFile(at, text, 0o600)
}

// used is a data folder that is in use.
type used struct {
	dir    string
	ledger *sqlite.Ledger
	files  *artifact.Store
	models *catalog.Catalog
	source source
}

func open(t *testing.T, dir string) *used {
	t.Helper()
	u := &used{dir: dir}
	folder, err := datafolder.Take(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, folder.Close()) })
	u.files, err = artifact.Open(artifact.Options{Dir: filepath.Join(dir, datafolder.Artifacts)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, u.files.Close()) })
	u.ledger, err = sqlite.Open(sqlite.Options{Path: filepath.Join(dir, sqlite.FileName)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, u.ledger.Close()) })
	u.models, err = catalog.Open(catalog.Options{Dir: dir, Fetcher: &u.source})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, u.models.Close()) })
	return u
}

const known = `{"version":1}`

// filled is a data folder in use, with two tasks, an artifact, a model, and all that a backup leaves out.
func filled(t *testing.T) (u *used, artifactID, digest string) {
	t.Helper()
	u = open(t, filepath.Join(t.TempDir(), "data"))
	for i, id := range []string{"one", "two"} {
		require.NoError(t, u.ledger.Accept(t.Context(), task.Task{ID: id, Seq: uint64(i + 1), AcceptedAt: time.Now(), Prompt: "a prompt"}))
	}
	e, err := u.files.Put(t.Context(), artifact.Meta{Kind: artifact.KindPlan, Tags: []string{"kept"}}, strings.NewReader("a plan"))
	require.NoError(t, err)
	m, err := u.models.Create(t.Context(), catalog.Request{ID: "m", Ref: "hf:a/b/model.gguf", Wait: time.Minute})
	require.NoError(t, err)
	require.Equal(t, catalog.Active, m.State)
	for name, text := range map[string]string{
		datafolder.Known: known, datafolder.Audit: "{}\n", "run/1/note": "x", "kv/s": "x", "state.db.aside-1": "x", "engines.json": "[]", "artifacts/tmp/7": "x", "models/n.json.damaged": "x",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(u.dir, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(u.dir, name), []byte(text), 0o600))
	}
	return u, e.ID, m.Digest
}

func make1(t *testing.T, u *used, models bool) (string, backup.Manifest) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "backup")
	m, err := backup.Make(t.Context(), backup.Options{DataDir: u.dir, Dir: dir, Models: models, Version: "v1", Now: time.Now})
	require.NoError(t, err)
	return dir, m
}

func names(t *testing.T, dir string) (found []string) {
	t.Helper()
	require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, at fs.DirEntry, err error) error {
		if err == nil && !at.IsDir() {
			found = append(found, name)
		}
		return err
	}))
	return found
}

// LO-631: a folder in use is copied, what is made anew is left out, and sha256sum agrees.
func TestABackupHasWhatIsKept(t *testing.T) {
	u, id, digest := filled(t)
	dir, m := make1(t, u, false)
	at := "artifacts/sha256/" + id[len("sha256-"):][:2] + "/" + id[len("sha256-")+2:]
	want := []string{"SHA256SUMS", at, at + ".json", "audit.log", "fingerprints.json", "manifest.json", "models/m.json", "state.db"}
	require.ElementsMatch(t, want, names(t, dir))
	out, err := exec.CommandContext(t.Context(), "sh", "-c", "cd "+dir+" && sha256sum -c SHA256SUMS | grep -c ': OK$'").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "7\n", string(out), "all but the sums")
	require.Equal(t, map[task.State]int{task.Queued: 2}, m.Tasks)
	require.Equal(t, []backup.Model{{ID: "m", Ref: "hf:a/b/model.gguf", Digest: digest, Size: m.Models[0].Size, State: catalog.Active}}, m.Models)
	require.Empty(t, m.Damaged)
	for name, perm := range map[string]fs.FileMode{"": 0o700, "state.db": 0o600, at: 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, perm, info.Mode().Perm(), "prompts are in it")
	}

	_, err = backup.Make(t.Context(), backup.Options{DataDir: u.dir, Dir: dir, Now: time.Now})
	refused(t, err, backup.Used)
	_, err = backup.Make(t.Context(), backup.Options{DataDir: u.dir, Dir: filepath.Join(u.dir, "backup"), Now: time.Now})
	refused(t, err, backup.Used)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	cut := filepath.Join(t.TempDir(), "cut")
	_, err = backup.Make(stopped, backup.Options{DataDir: u.dir, Dir: cut, Now: time.Now})
	require.ErrorIs(t, err, context.Canceled)
	require.NoDirExists(t, cut, "nothing of it stays")
	_, err = backup.Make(stopped, backup.Options{DataDir: u.dir, Dir: t.TempDir(), Now: time.Now})
	require.ErrorIs(t, err, context.Canceled)
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(u.dir, link))
	for _, dir := range [][2]string{{u.dir, filepath.Join(link, "new", "backup")}, {link, filepath.Join(u.dir, "new")}} {
		_, err = backup.Make(t.Context(), backup.Options{DataDir: dir[0], Dir: dir[1], Now: time.Now})
		refused(t, err, backup.Used)
		require.ErrorContains(t, err, "lies in the data folder")
	}
	require.NoDirExists(t, filepath.Join(u.dir, "new"))
}

// LO-631: a failure leaves an empty folder, and says what it is of. Only where a file is gone is it that of a model that comes or goes.
func TestABackupThatFailsLeavesNothing(t *testing.T) {
	u, _, _ := filled(t)
	home := filepath.Join(u.dir, "models/files/m")
	require.NoError(t, os.RemoveAll(home))
	for _, c := range []struct {
		damage func()
		told   bool
	}{
		{func() { require.NoError(t, os.Symlink("/etc", home)) }, false}, // a way out, which is refused
		{func() { require.NoError(t, os.Remove(home)) }, true},
	} {
		c.damage()
		dir := t.TempDir()
		_, err := backup.Make(t.Context(), backup.Options{DataDir: u.dir, Dir: dir, Models: true, Version: "v1", Now: time.Now})
		require.Error(t, err)
		require.Equal(t, c.told, strings.Contains(err.Error(), "being fetched or deleted"), err)
		require.Empty(t, names(t, dir))
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

// LO-631: what is damaged is named, and the rest is kept.
func TestDamageIsFoundByTheBackup(t *testing.T) {
	u, id, _ := filled(t)
	hex := id[len("sha256-"):]
	require.NoError(t, os.WriteFile(filepath.Join(u.dir, "artifacts/sha256", hex[:2], hex[2:]), []byte("other"), 0o600))
	dir, m := make1(t, u, false)
	require.Len(t, m.Damaged, 1)
	require.Contains(t, m.Damaged[0], id)
	require.Equal(t, 4, m.Files, "ledger, entry of the model, fingerprints, audit lines")
	_, err := backup.Restore(t.Context(), dir, filepath.Join(t.TempDir(), "data"), false)
	require.NoError(t, err)
}

// LO-632: everything is there again. A model whose files were not in the backup is fetched again, the other one is not, and both must have the digest.
func TestARestoreHasWhatTheBackupHas(t *testing.T) {
	u, id, digest := filled(t)
	for _, models := range []bool{false, true} {
		dir, _ := make1(t, u, models)
		to := filepath.Join(t.TempDir(), "data")
		m, err := backup.Restore(t.Context(), dir, to, false)
		require.NoError(t, err)
		require.Equal(t, models, m.Models[0].Copied)
		text, err := os.ReadFile(filepath.Join(to, datafolder.Known))
		require.NoError(t, err)
		require.Equal(t, known, string(text))

		again := open(t, to)
		left, err := again.ledger.Live(t.Context())
		require.NoError(t, err)
		require.Len(t, left, 2)
		require.Equal(t, "a prompt", left[0].Task.Prompt)
		e, err := again.files.Get(id)
		require.NoError(t, err)
		require.Equal(t, []string{"kept"}, e.Tags)
		model, err := again.models.Wait(t.Context(), "m")
		require.NoError(t, err)
		require.Equal(t, catalog.Active, model.State)
		require.Equal(t, digest, model.Digest)
		if models {
			require.Empty(t, again.source.fetched)
		} else {
			require.Equal(t, []string{"hf:a/b/model.gguf"}, again.source.fetched)
		}
		_, err = backup.Restore(t.Context(), dir, to, false)
		require.ErrorContains(t, err, "another orchestratord uses the data folder")
	}
}

// LO-632: a retired model stays retired, does not say that its files were checked, and is fetched when it is activated.
func TestARetiredModelIsFetchedWhenItIsActivated(t *testing.T) {
	u, _, digest := filled(t)
	_, err := u.models.SetState("m", catalog.Retired, 0)
	require.NoError(t, err)
	for _, models := range []bool{false, true} {
		dir, m := make1(t, u, models)
		require.Equal(t, catalog.Retired, m.Models[0].State)
		to := filepath.Join(t.TempDir(), "data")
		_, err := backup.Restore(t.Context(), dir, to, false)
		require.NoError(t, err)
		again := open(t, to)
		model, err := again.models.Get("m")
		require.NoError(t, err)
		require.Equal(t, catalog.Retired, model.State)
		require.False(t, model.Verified)
		require.Empty(t, model.Path)
		_, err = again.models.Verify(t.Context(), "m")
		require.ErrorContains(t, err, "activate it, which fetches them")
		_, err = again.models.Use(t.Context(), "m")
		require.ErrorContains(t, err, "activate it, which fetches them")
		second, err := backup.Make(t.Context(), backup.Options{DataDir: to, Dir: filepath.Join(t.TempDir(), "second"), Version: "v1", Now: time.Now})
		require.NoError(t, err)
		require.Equal(t, catalog.Retired, second.Models[0].State)

		model, err = again.models.SetState("m", catalog.Active, 0)
		require.NoError(t, err)
		require.NotEqual(t, catalog.Retired, model.State)
		model, err = again.models.Wait(t.Context(), "m")
		require.NoError(t, err)
		require.Equal(t, catalog.Active, model.State)
		require.True(t, model.Verified)
		require.Equal(t, digest, model.Digest)
		require.FileExists(t, model.Path)
		require.Equal(t, !models, len(again.source.fetched) == 1, "what the backup has is not fetched")
	}
}

// LO-632: a model that is another one by now is not taken for the one of the backup.
func TestARestoredModelHasToBeTheSame(t *testing.T) {
	u, _, _ := filled(t)
	dir, _ := make1(t, u, true)
	to := filepath.Join(t.TempDir(), "data")
	_, err := backup.Restore(t.Context(), dir, to, false)
	require.NoError(t, err)
	at := filepath.Join(to, "models/files/m/model.gguf")
	text, err := os.ReadFile(at)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at, append(text, 0), 0o600))
	again := open(t, to)
	_, err = again.models.Wait(t.Context(), "m")
	e := &task.Error{}
	require.ErrorAs(t, err, &e)
	require.Equal(t, task.UntrustedArtifact, e.Code)
}

func refused(t *testing.T, err error, fault backup.Fault) {
	t.Helper()
	e := &backup.Error{}
	require.ErrorAs(t, err, &e)
	require.Equal(t, fault, e.Fault, e.Error())
	require.NotEmpty(t, e.Remedy)
}

// LO-632: what is not the backup as it was made is refused, and nothing of it stays.
func TestAChangedBackupIsRefused(t *testing.T) {
	u, _, _ := filled(t)
	dir, _ := make1(t, u, false)
	edit := func(name string, change func([]byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			at := filepath.Join(dir, name)
			text, err := os.ReadFile(at)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(at, change(text), 0o600))
		}
	}
	remove := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, name))) }
	}
	manifest := func(change func(*backup.Manifest)) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			edit("manifest.json", func(text []byte) []byte {
				var m backup.Manifest
				require.NoError(t, json.Unmarshal(text, &m))
				change(&m)
				text, err := json.Marshal(m)
				require.NoError(t, err)
				return text
			})(t, dir)
			// As a later version, or a hand, would have it.
			require.NoError(t, exec.CommandContext(t.Context(), "sh", "-c", "cd "+dir+` && sed -i /manifest.json/d SHA256SUMS && sha256sum manifest.json >> SHA256SUMS`).Run())
		}
	}
	link := func(t *testing.T, dir string) {
		require.NoError(t, os.Rename(filepath.Join(dir, "state.db"), filepath.Join(dir, "elsewhere")))
		require.NoError(t, os.Symlink("elsewhere", filepath.Join(dir, "state.db")))
	}
	cut := func(text []byte) []byte { return text[:len(text)-1] }
	for _, c := range []struct {
		what  string
		do    func(t *testing.T, dir string)
		fault backup.Fault
	}{
		{"no sums", remove("SHA256SUMS"), backup.CutOff},
		{"sums that are cut off in a line", edit("SHA256SUMS", cut), backup.Changed},
		{"sums that are cut off behind a line", edit("SHA256SUMS", func(text []byte) []byte { return text[bytes.IndexByte(text, '\n')+1:] }), backup.Changed},
		{"a line twice", edit("SHA256SUMS", func(text []byte) []byte { return append(slices.Clone(text), text...) }), backup.Changed},
		{"no manifest", remove("manifest.json"), backup.Changed},
		{"another manifest", edit("manifest.json", cut), backup.Changed},
		{"a ledger that is cut off", edit("state.db", cut), backup.Changed},
		{"a ledger with another bit", edit("state.db", func(text []byte) []byte { text[len(text)/2] ^= 1; return text }), backup.Changed},
		{"no ledger", remove("state.db"), backup.Changed},
		{"the last file changed", edit("audit.log", func(text []byte) []byte { return append(text, 'x') }), backup.Changed},
		{"a link", link, backup.Changed},
		{"a note about a process to kill", edit("SHA256SUMS", func(text []byte) []byte { return append(text, strings.Repeat("0", 64)+"  run/1/note\n"...) }), backup.Changed},
		{"a way out", edit("SHA256SUMS", func(text []byte) []byte {
			return append(text, strings.Repeat("0", 64)+"  models/files/m/../../../../x\n"...)
		}), backup.Changed},
		{"a later schema", manifest(func(m *backup.Manifest) { m.Schema++ }), backup.TooNew},
		{"a later format", manifest(func(m *backup.Manifest) { m.Format++ }), backup.TooNew},
	} {
		t.Run(c.what, func(t *testing.T) {
			copied := filepath.Join(t.TempDir(), "backup")
			require.NoError(t, os.CopyFS(copied, os.DirFS(dir)))
			c.do(t, copied)
			to := filepath.Join(t.TempDir(), "data")
			_, err := backup.Restore(t.Context(), copied, to, false)
			refused(t, err, c.fault)
			if _, err := os.Stat(to); err == nil {
				require.Subset(t, []string{datafolder.Lock}, names(t, to))
			}
			_, err = backup.Restore(t.Context(), dir, to, false)
			require.NoError(t, err, "there is room for the right one")
		})
	}
}

// LO-632: what a killed restore leaves is no data folder, and nothing is put over what is there.
func TestARestoreThatWasKilledLeavesAMark(t *testing.T) {
	u, _, _ := filled(t)
	dir, _ := make1(t, u, false)
	to := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(to, datafolder.Unfinished), nil, 0o600))
	_, err := datafolder.Take(to)
	require.ErrorContains(t, err, "empty the folder, and run `orchestratord restore` again")
	_, err = backup.Restore(t.Context(), dir, to, false)
	require.ErrorContains(t, err, "empty the folder")
	other := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(other, "letter"), nil, 0o600))
	_, err = backup.Restore(t.Context(), dir, other, false)
	refused(t, err, backup.Used)
	require.Equal(t, []string{"letter"}, names(t, other))
}

// LO-632: the folder of a daemon that runs is named as such, since "empty it" would be the wrong advice. It stays as it was.
func TestTheFolderOfADaemonThatRunsIsRefused(t *testing.T) {
	u, _, _ := filled(t)
	dir, _ := make1(t, u, false)
	to := t.TempDir()
	running, err := datafolder.Take(to)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(to, "state.db"), nil, 0o600))
	_, err = backup.Restore(t.Context(), dir, to, false)
	require.ErrorContains(t, err, "another orchestratord uses the data folder "+to)
	require.NotContains(t, err.Error(), "empty")
	require.NoError(t, running.Close())
	_, err = backup.Restore(t.Context(), dir, to, false)
	refused(t, err, backup.Used)
	require.ElementsMatch(t, []string{"lock", "state.db"}, names(t, to))
}

// LO-631, LO-632: folders that are not there are told, and none is made in their place.
func TestFoldersThatAreNotThere(t *testing.T) {
	none, to := filepath.Join(t.TempDir(), "none"), filepath.Join(t.TempDir(), "to")
	_, err := backup.Make(t.Context(), backup.Options{DataDir: none, Dir: to, Now: time.Now})
	refused(t, err, backup.Missing)
	require.ErrorContains(t, err, "--config")
	_, err = backup.Restore(t.Context(), none, to, false)
	refused(t, err, backup.Missing)
	require.ErrorContains(t, err, "orchestratord backup")
	require.NoDirExists(t, to)
}
