// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// LO-942
func TestWhatAFingerprintStandsForIsKnownAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fingerprints.json")
	now := time.Unix(1000, 0).UTC()
	facts := Facts{Engine: "llamacpp", Build: "b1", Ctx: 256, Slots: 1, Flags: []string{"--jinja"}}
	m := &Manager{}
	require.NoError(t, m.known.recall(path, now, zap.NewNop()))
	require.NoError(t, m.known.learn(facts, now))

	again := &Manager{}
	require.NoError(t, again.known.recall(path, now, zap.NewNop()))
	got, ok := again.Fingerprint(Fingerprint(facts))
	require.True(t, ok)
	require.Equal(t, Known{facts, now}, got)
	_, ok = again.Fingerprint("fp-0123456789abcdef")
	require.False(t, ok)
}

// LO-942: the file does not grow for ever, and it is not written with each restart of a worker.
func TestTheFingerprintsSeenLastAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fingerprints.json")
	at := time.Unix(1000, 0)
	m := &Manager{}
	require.NoError(t, m.known.recall(path, at, zap.NewNop()))
	of := func(ctx int) Facts { return Facts{Engine: "llamacpp", Ctx: ctx, Flags: []string{}} }
	for ctx := range keptFingerprints + 2 {
		require.NoError(t, m.known.learn(of(ctx), at.Add(time.Duration(ctx)*time.Second)))
	}
	for ctx, there := range map[int]bool{0: false, 1: false, 2: true, keptFingerprints + 1: true} {
		_, ok := m.Fingerprint(Fingerprint(of(ctx)))
		require.Equal(t, there, ok, "of %d", ctx)
	}
	require.NoError(t, os.Remove(path))
	require.NoError(t, m.known.learn(of(2), at.Add(time.Hour)))
	require.NoFileExists(t, path)
	require.NoError(t, m.known.learn(of(2), at.Add(26*time.Hour)))
	require.FileExists(t, path)
}

// LO-942
func TestAFileOfFingerprintsThatMakesNoSenseIsSetAside(t *testing.T) {
	for _, text := range []string{`{"version": 2, "known": []}`, `{"version": 1, "known": [{"facts": {}, "seen": "2026-01-01T00:00:00Z"}]}`} {
		path := filepath.Join(t.TempDir(), "fingerprints.json")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		m := &Manager{}
		require.NoError(t, m.known.recall(path, time.Unix(0, 0), zap.NewNop()))
		require.NoFileExists(t, path)
	}
}
