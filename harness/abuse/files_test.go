// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/process"
)

// A data folder that somebody else may have prepared makes the daemon run nothing.
// LO-813, LO-814
func TestADataFolderOfSomebodyElses(t *testing.T) {
	exe := built(t)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	// note writes a note about a worker of an earlier run.
	note := func(t *testing.T, data, more string) {
		t.Helper()
		require.NoError(t, os.Mkdir(filepath.Join(data, "run"), 0o700))
		text := fmt.Sprintf(`{"pid":1073741824,"start":1,"boot":%q,"replica_id":"p-0",%s}`, strings.TrimSpace(string(boot)), more)
		require.True(t, json.Valid([]byte(text)))
		require.NoError(t, os.WriteFile(filepath.Join(data, "run", "1.json"), []byte(text), 0o600))
	}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, data, marker string)
		refused string // what the daemon says when it does not start; empty: it starts
	}{
		"a note with a command": {prepare: func(t *testing.T, data, marker string) {
			note(t, data, fmt.Sprintf(`"remove":["/bin/touch",%q]`, marker))
		}},
		"a note with a program of its own": {prepare: func(t *testing.T, data, marker string) {
			program := filepath.Join(t.TempDir(), "docker")
			require.NoError(t, os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\n: >%q\n", marker), 0o700))
			note(t, data, fmt.Sprintf(`"container":{"runtime":%q,"name":"llama-orch-00000000-p-0"}`, program))
		}},
		"a note with somebody else's container": {prepare: func(t *testing.T, data, marker string) {
			t.Setenv("PATH", t.TempDir()+":"+os.Getenv("PATH"))
			program := filepath.Join(filepath.SplitList(os.Getenv("PATH"))[0], "docker")
			require.NoError(t, os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\n: >%q\n", marker), 0o700))
			note(t, data, `"container":{"runtime":"docker","name":"the-database"}`)
		}},
		"a folder that all can write": {refused: "can be written by others", prepare: func(t *testing.T, data, _ string) {
			require.NoError(t, os.Chmod(data, 0o777))
		}},
		"notes that the group can write": {refused: "can be written by others", prepare: func(t *testing.T, data, marker string) {
			note(t, data, fmt.Sprintf(`"remove":["/bin/touch",%q]`, marker))
			require.NoError(t, os.Chmod(filepath.Join(data, "run", "1.json"), 0o660))
		}},
		"a record that all can write": {refused: "can be written by others", prepare: func(t *testing.T, data, _ string) {
			require.NoError(t, os.WriteFile(filepath.Join(data, "state.db"), nil, 0o600))
			require.NoError(t, os.Chmod(filepath.Join(data, "state.db"), 0o666))
		}},
		"a note that is a pipe": {refused: "is a pipe", prepare: func(t *testing.T, data, _ string) {
			require.NoError(t, os.Mkdir(filepath.Join(data, "run"), 0o700))
			require.NoError(t, syscall.Mkfifo(filepath.Join(data, "run", "1.json"), 0o600))
		}},
		"learned figures that are a pipe": {refused: "is a pipe", prepare: func(t *testing.T, data, _ string) {
			require.NoError(t, syscall.Mkfifo(filepath.Join(data, "learned-memory.json"), 0o600))
		}},
		"fingerprints that are a pipe": {refused: "is a pipe", prepare: func(t *testing.T, data, _ string) {
			require.NoError(t, syscall.Mkfifo(filepath.Join(data, "fingerprints.json"), 0o600))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			data, marker, config := filepath.Join(dir, "state"), filepath.Join(dir, "marker"), filepath.Join(dir, "config.yaml")
			require.NoError(t, os.Mkdir(data, 0o700))
			c.prepare(t, data, marker)
			require.NoError(t, os.WriteFile(config, []byte(`
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
pools:
  - {id: only, model: {id: m, ref: x}, provisioning: {mode: external, urls: ["http://127.0.0.1:9"]}}
`), 0o600))
			l := process.NewLauncher()
			defer l.Close()
			d, err := daemon.Start(t.Context(), l, daemon.Options{Config: config, Options: process.Options{Exe: exe, Env: process.Env(dir, nil)}})
			if c.refused != "" {
				require.ErrorContains(t, err, "exit code 1")
				require.ErrorContains(t, err, c.refused)
			} else {
				require.NoError(t, err)
				code, err := d.Stop(syscall.SIGTERM)
				require.NoError(t, err)
				require.Zero(t, code)
				require.NoFileExists(t, filepath.Join(data, "run", "1.json"))
			}
			require.NoFileExists(t, marker)
		})
	}
}

// answer is what an API answers.
type answer struct {
	status int
	code   string
	says   string // must be in the message
}

// What the API is told to load is a model in a folder that the configuration allows, or is refused: without its digest, without what is in
// it, and without a wait that anything else would share.
// LO-815, LO-816, LO-817, LO-818
func TestFilesThatTheAPINames(t *testing.T) {
	exe := built(t)
	dir, elsewhere := t.TempDir(), t.TempDir()
	models := filepath.Join(dir, "models")
	require.NoError(t, os.Mkdir(models, 0o755))
	haiku, err := os.ReadFile("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	secret := []byte("root:$6$a secret that is no model:19000:0:99999:7:::\n")
	for path, text := range map[string][]byte{
		filepath.Join(models, "good.gguf"): haiku, filepath.Join(models, "more.gguf"): haiku, filepath.Join(models, "secret"): secret, filepath.Join(models, "empty.gguf"): nil,
		filepath.Join(elsewhere, "model.gguf"): haiku, filepath.Join(elsewhere, "shadow"): secret,
	} {
		require.NoError(t, os.WriteFile(path, text, 0o600))
	}
	require.NoError(t, syscall.Mkfifo(filepath.Join(models, "pipe.gguf"), 0o600))
	for name, target := range map[string]string{
		"proc.gguf": "/proc/kmsg", "mem.gguf": "/proc/self/mem", "zero.gguf": "/dev/zero", "out.gguf": filepath.Join(elsewhere, "model.gguf"), "shadow.gguf": filepath.Join(elsewhere, "shadow"),
	} {
		require.NoError(t, os.Symlink(target, filepath.Join(models, name)))
	}
	sparse, err := os.Create(filepath.Join(models, "sparse.gguf"))
	require.NoError(t, err)
	require.NoError(t, sparse.Truncate(1<<40))
	require.NoError(t, sparse.Close())

	engine := httptest.NewServer(fakeengine.New(fakeengine.Options{}))
	t.Cleanup(engine.Close)
	config := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
catalog: {folders: [models]}
pools:
  - {id: only, model: {id: m, ref: x}, provisioning: {mode: external, urls: ["%s"]}}
  - {id: own, model: {id: own, ref: "file:models/good.gguf"}, device: cpu, lifecycle: on_demand, provisioning: {mode: binary, path: /bin/true}}
`, engine.URL), 0o600))
	l := process.NewLauncher()
	t.Cleanup(l.Close)
	d, err := daemon.Start(t.Context(), l, daemon.Options{Config: config, Options: process.Options{Exe: exe, Env: process.Env(dir, nil)}})
	require.NoError(t, err)
	t.Cleanup(d.Kill)

	no, denied := answer{400, "INVALID_PARAMS", "is no model"}, answer{403, "POLICY_DENIED", "catalog.folders"}
	for ref, want := range map[string]answer{
		"file:/etc/shadow":                        denied,
		"file:/etc/no-such-file":                  denied, // it tells nothing of what is there
		"file:/proc/kmsg":                         denied,
		"file:" + elsewhere + "/model.gguf":       denied,
		"file:" + models + "/../../model.gguf":    denied,
		"file:" + models + "-not/model.gguf":      denied,
		"file:" + models:                          denied,
		"file:" + models + "/out.gguf":            denied, // by a link
		"file:" + models + "/shadow.gguf":         denied,
		"file:" + models + "/proc.gguf":           denied,
		"file:" + models + "/mem.gguf":            denied,
		"file:" + models + "/zero.gguf":           denied,
		"file:" + models + "/secret":              no,
		"file:" + models + "/empty.gguf":          no,
		"file:" + models + "/pipe.gguf":           no,
		"file:" + models + "/sparse.gguf":         no,
		"file:" + models + "/none.gguf":           {404, "MODEL_NOT_FOUND", "does not exist"},
		"file:" + models + "/more.gguf?a=b":       {404, "MODEL_NOT_FOUND", "does not exist"},
		"file:" + models + "/none-00001-of-09999": {404, "MODEL_NOT_FOUND", "does not exist"},
	} {
		t.Run(ref, func(t *testing.T) {
			for _, path := range []string{"/v1/catalog/models", "/v1/pools/own/reload"} {
				body := fmt.Appendf(nil, `{"id":"x","ref":%q,"digest":"sha256:%064d","wait_ms":5000}`, ref, 0)
				if path != "/v1/catalog/models" {
					body = fmt.Appendf(nil, `{"new_model_ref":%q}`, ref)
				} else if strings.Contains(ref, "..") {
					continue // such a ref is refused for its steps upwards
				}
				_, err := d.Client.Post(t.Context(), path, body, 0)
				var refused *client.RefusedError
				require.ErrorAs(t, err, &refused, path)
				require.Equal(t, want.status, refused.Status, "%s: %v", path, err)
				require.Equal(t, want.code, refused.Code, path)
				require.Contains(t, refused.Message, want.says, path)
				require.NotRegexp(t, `[1-9a-f][0-9a-f]{15}`, strings.ReplaceAll(refused.Message, dir, ""), "a digest: %s", path)
			}
		})
	}
	_, err = d.Client.Post(t.Context(), "/v1/catalog/models", fmt.Appendf(nil, `{"id":"good","ref":"file:%s/good.gguf","wait_ms":20000}`, models), 201)
	require.NoError(t, err, "a model in an allowed folder is taken, after all of that")
	code, err := d.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code)
}
