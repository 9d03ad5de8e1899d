// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Whatever is stored, removed, renewed and swept, in whatever order and with restarts between: the store has what a map would.
//
// ORCH-3097
func TestAsAMapWould(t *testing.T) {
	all, life := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		life++
		dir := filepath.Join(all, strconv.Itoa(life))
		now := epoch
		reopen := func() *Store {
			s, err := Open(Options{Dir: dir, Now: func() time.Time { return now }, RetainAge: 50 * time.Second, offhand: true})
			require.NoError(t, err)
			return s
		}
		s, model := reopen(), map[string]Entry{}
		defer func() { require.NoError(t, s.Close()) }()
		texts := rapid.SampledFrom([]string{"", "a", "b", "c", "d"})
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				now = now.Add(time.Second)
				text, m := texts.Draw(t, "text"), Meta{Kind: rapid.SampledFrom(Kinds()).Draw(t, "kind"), TaskID: rapid.SampledFrom([]string{"", "t", "u"}).Draw(t, "task")}
				got, err := s.Put(context.Background(), m, strings.NewReader(text))
				require.NoError(t, err)
				m.MediaType = defaultMediaType
				want, there := model[got.ID]
				if !there {
					want = Entry{ID: idOf(text), Meta: m, Size: int64(len(text)), CreatedAt: now}
				}
				if want.silent() {
					want.Meta = m
				}
				want.RenewedAt = now
				require.Equal(t, want, got)
				model[got.ID] = want
			},
			"delete": func(t *rapid.T) {
				id := idOf(texts.Draw(t, "text"))
				_, there := model[id]
				freed, err := s.remove(id, forAge, func(*Entry) bool { return true })
				require.NoError(t, err)
				require.Equal(t, there, freed > 0)
				delete(model, id)
			},
			"sweep": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "seconds")) * time.Second)
				_, err := s.Sweep(context.Background())
				require.NoError(t, err)
				maps.DeleteFunc(model, func(_ string, e Entry) bool { return now.Sub(e.RenewedAt) > 50*time.Second })
			},
			"restart": func(t *rapid.T) {
				require.NoError(t, s.Close())
				s = reopen()
			},
			"": func(t *rapid.T) {
				for _, f := range []Filter{{}, {TaskID: "t"}, {Kind: KindPlan}} {
					var want []Entry
					for _, e := range model {
						if f.takes(&e) {
							want = append(want, e)
						}
					}
					slices.SortFunc(want, func(a, b Entry) int { return inOrder(&b, &a) })
					require.Equal(t, want, s.List(f))
				}
				var disk int64
				for _, e := range model {
					disk += e.disk()
				}
				require.InDelta(t, disk, s.taken(), 0)
			},
		})
	})
}

// ORCH-3097
func TestManyAtATime(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.RetainBytes = 1 << 20 })
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 1))
			for range 40 {
				text := fmt.Sprint(random.IntN(12))
				switch random.IntN(5) {
				case 0:
					if _, err := s.remove(idOf(text), forBytes, func(*Entry) bool { return true }); err != nil {
						t.Error(err)
					}
				case 1:
					s.List(Filter{TaskID: "t"})
					if _, err := s.Sweep(t.Context()); err != nil {
						t.Error(err)
					}
				case 2:
					if bad, _, err := check(t.Context(), s); err != nil {
						t.Error(err, bad)
					}
				default:
					e, err := s.Put(t.Context(), Meta{Kind: KindOther, TaskID: "t"}, strings.NewReader(text))
					if err != nil || e.ID != idOf(text) {
						t.Error(err)
					}
					if _, r, err := s.Open(e.ID); err == nil {
						got, err := io.ReadAll(r)
						if err != nil || !bytes.Equal(got, []byte(text)) {
							t.Errorf("%s instead of %s: %v", got, text, err)
						}
						_ = r.Close()
					}
				}
			}
		})
	}
	all.Wait()
	bad, _, err := check(t.Context(), s)
	require.NoError(t, err)
	require.Empty(t, bad)
	list, err := s.list(tempDir)
	require.NoError(t, err)
	require.Empty(t, list)
}
