// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-435: who knows better bounds an artifact himself, within what all may take.
func TestPutUpTo(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.MaxBytes, o.RetainBytes = 10, 20_000 })
	_, err := s.PutUpTo(t.Context(), Meta{Kind: KindOther}, strings.NewReader(strings.Repeat("x", 100)), 100)
	require.NoError(t, err)
	_, err = s.PutUpTo(t.Context(), Meta{Kind: KindOther}, strings.NewReader(strings.Repeat("x", 101)), 100)
	require.True(t, task.HasCode(err, task.TooLarge), err)
	_, err = s.PutUpTo(t.Context(), Meta{Kind: KindOther}, strings.NewReader(strings.Repeat("x", 15_000)), 100_000)
	require.True(t, task.HasCode(err, task.TooLarge), "it would be removed at once: %v", err)
	_, err = s.Put(t.Context(), Meta{Kind: KindOther}, strings.NewReader(strings.Repeat("x", 11)))
	require.True(t, task.HasCode(err, task.TooLarge), err)
}

// LO-435: what is needed stays, however old it is, and goes once it is not.
func TestWhatIsNeededStays(t *testing.T) {
	now := epoch
	s := open(t, t.TempDir(), func(o *Options) { o.RetainAge, o.Now = time.Hour, func() time.Time { return now } })
	kept, gone := put(t, s, Meta{}, "kept"), put(t, s, Meta{}, "gone")
	needed := kept.ID
	s.Keep(func(id string) bool { return id == needed })
	now = now.Add(2 * time.Hour)
	swept, err := s.Sweep(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, swept.Artifacts)
	require.Equal(t, []string{kept.ID}, ids(s.List(Filter{})))
	_, err = s.Get(gone.ID)
	require.True(t, task.HasCode(err, task.NotFound))
	needed = ""
	_, err = s.Sweep(t.Context())
	require.NoError(t, err)
	require.Empty(t, s.List(Filter{}))
}

// LO-435: what has the tag is removed, and what others stored is not.
func TestRemoveByTag(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	tagged, other := put(t, s, Meta{Tags: []string{"batch"}}, "tagged"), put(t, s, Meta{}, "other")
	for _, id := range []string{tagged.ID, other.ID, tagged.ID, "no-id", "sha256-" + strings.Repeat("0", 64)} {
		require.NoError(t, s.Remove(id, "batch"))
	}
	require.Equal(t, []string{other.ID}, ids(s.List(Filter{})))
	require.Len(t, files(t, dir), 2, "the bytes of the other one, and its entry")
}
