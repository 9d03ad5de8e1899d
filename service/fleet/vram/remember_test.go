// SPDX-License-Identifier: GPL-3.0-or-later

package vram

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"pgregory.net/rapid"
)

// LO-501: the next run knows what this one learned; a shortage it forgets.
func TestWhatWasLearnedIsKeptOverARestart(t *testing.T) {
	path, now := filepath.Join(t.TempDir(), "learned.json"), time.Unix(1000, 0)
	rapid.Check(t, func(t *rapid.T) {
		_ = os.Remove(path)
		var before Learned
		require.NoError(t, before.Recall(path, now, zap.NewNop()))
		of := func() Load {
			return Load{Model: rapid.SampledFrom([]string{"sha256:a", "sha256:b"}).Draw(t, "model"), Ctx: 256 * rapid.IntRange(0, 2).Draw(t, "ctx"), Slots: 1, Cards: 1}
		}
		class := rapid.SampledFrom([]string{"gpu:3090", "gpu:3060"})
		for range rapid.IntRange(1, 20).Draw(t, "observations") {
			require.NoError(t, before.Observe(of(), class.Draw(t, "class"), rapid.Int64Range(0, 1<<36).Draw(t, "bytes"), now))
		}
		before.TooLittle(Load{Model: "sha256:short", Slots: 1, Cards: 1}, 1<<30, now)
		var after Learned
		require.NoError(t, after.Recall(path, now, zap.NewNop()))
		require.Equal(t, before.known(), after.known())
		for l := range after.loads {
			require.NotEqual(t, "sha256:short", l.Model)
		}
	})
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.LessOrEqual(t, len(entries), 1, "nothing half-written is left")
}

// LO-501
func TestAFileThatCannotBeReadIsSetAside(t *testing.T) {
	now := time.Unix(1000, 0)
	for name, content := range map[string]string{
		"half":      `{"version":1,"loads":[{"model_digest":"sha`,
		"newer":     `{"version":2,"loads":[]}`,
		"senseless": `{"version":1,"loads":[{"model_digest":"sha256:a","ctx":1,"slots":1,"cards":1,"seen":1,"observed_bytes":{"gpu":-5}}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			path := filepath.Join(t.TempDir(), "learned.json")
			require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
			var l Learned
			require.NoError(t, l.Recall(path, now, zap.New(core)))
			require.Equal(t, 1, logs.Len())
			kept, err := os.ReadFile(path + ".aside-19700101T001640.000Z")
			require.NoError(t, err)
			require.Equal(t, content, string(kept), "nothing is deleted")
			require.Empty(t, l.known())
			require.NoError(t, l.Observe(Load{Model: "m", Slots: 1, Cards: 1}, "gpu", 5, now))
			var again Learned
			require.NoError(t, again.Recall(path, now, zap.NewNop()))
			require.Len(t, again.known(), 1)
		})
	}
}

// LO-501: the file does not grow for ever: what was seen last is kept.
func TestTheOldestIsForgotten(t *testing.T) {
	l := Learned{}
	for i := range keptLoads + 10 {
		require.NoError(t, l.Observe(Load{Model: "m", Ctx: i, Slots: 1, Cards: 1}, "gpu", 5, time.Unix(int64(i), 0)))
	}
	known := l.known()
	require.Len(t, known, keptLoads)
	require.Equal(t, keptLoads+9, known[0].Ctx)
	require.Equal(t, 10, known[keptLoads-1].Ctx)
}

// LO-501: a folder that cannot be written costs the memory, not the worker.
func TestWhatCannotBeKeptIsSaid(t *testing.T) {
	l := Learned{path: filepath.Join(t.TempDir(), "none", "learned.json")}
	require.Error(t, l.Observe(Load{Model: "m", Slots: 1, Cards: 1}, "gpu", 5, time.Unix(1, 0)))
	require.EqualValues(t, 5, l.loads[Load{Model: "m", Slots: 1, Cards: 1}].observed["gpu"])
}

// LO-501
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"loads":[{"model_digest":"sha256:a","ctx":1,"slots":1,"cards":1,"seen":1,"observed_bytes":{"gpu":5}}]}`))
	f.Add([]byte(`{"version":1,"loads":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "learned.json")
		require.NoError(t, os.WriteFile(path, data, 0o600))
		var l Learned
		require.NoError(t, l.Recall(path, time.Unix(1000, 0), zap.NewNop()))
		for _, m := range l.known() {
			for _, taken := range m.Observed {
				require.Positive(t, taken)
			}
		}
	})
}
