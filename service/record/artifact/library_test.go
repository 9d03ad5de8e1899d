// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"
	"github.com/llama-orch/llama-orch/service/task"
)

// shelf is a library over a ledger in memory, whose records tell of their bundles.
type shelf struct {
	*Library

	store  *Store
	ledger *ledgertest.Memory
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{store: open(t, t.TempDir(), func(o *Options) { o.Now = func() time.Time { return ledgertest.Epoch.Add(time.Hour) } }), ledger: ledgertest.NewStore().Open()}
	s.Library = NewLibrary(s.store, s.ledger)
	return s
}

// end records the end of the sample with this number.
func (s *shelf) end(t *testing.T, seq uint64, state task.State, tokens ...string) task.Record {
	t.Helper()
	r := ledgertest.Ended(ledgertest.Sample(seq), state, tokens...)
	var err error
	r.Proof, err = bundle.Prove(r, bundle.Keep{Prompts: true})
	require.NoError(t, err)
	require.NoError(t, s.ledger.Finish(t.Context(), r))
	return r
}

func (s *shelf) listed(t *testing.T, f Filter) (ids []string) {
	t.Helper()
	found, err := s.List(t.Context(), f)
	require.NoError(t, err)
	for _, e := range found {
		ids = append(ids, e.ID)
	}
	return ids
}

func proofID(r task.Record) string { return fmt.Sprintf("sha256-%x", r.Proof.SHA256) }

// A task's bundle is an artifact without a file.
//
// OC-CTRL-2067, ORCH-3097
func TestABundleIsReadFromTheRecord(t *testing.T) {
	s := newShelf(t)
	done, canceled := s.end(t, 1, task.Completed, "a", "b"), s.end(t, 2, task.StateCanceled)
	require.NoError(t, s.ledger.Accept(t.Context(), ledgertest.Sample(3)))
	want := Entry{
		ID: proofID(done), Meta: Meta{Kind: KindProof, MediaType: proof.MediaType, TaskID: done.Task.ID, Tags: []string{"outcome:completed"}},
		Size: int64(done.Proof.Size), CreatedAt: done.FinishedAt, RenewedAt: done.FinishedAt,
	}
	e, err := s.Get(t.Context(), proofID(done))
	require.NoError(t, err)
	require.Equal(t, want, e)
	e, content, err := s.Open(t.Context(), proofID(done))
	require.NoError(t, err)
	require.Equal(t, want, e)
	text, err := io.ReadAll(content)
	require.NoError(t, err)
	require.NoError(t, content.Close())
	require.Len(t, text, done.Proof.Size)
	b, err := proof.Decode(text)
	require.NoError(t, err)
	require.Equal(t, done.Task.ID, b.TaskID)
	require.True(t, b.Request.Kept)
	require.Zero(t, s.store.count(), "nothing was stored")

	plan, err := s.Put(t.Context(), Meta{Kind: KindPlan, TaskID: done.Task.ID, Parent: proofID(done)}, strings.NewReader("a plan"))
	require.NoError(t, err, "a bundle may be a parent")
	both := []string{proofID(canceled), proofID(done)}
	require.Equal(t, both, s.listed(t, Filter{Kind: KindProof}))
	require.Equal(t, append([]string{plan.ID}, both...), s.listed(t, Filter{}), "the newest first")
	require.Equal(t, []string{plan.ID, proofID(canceled)}, s.listed(t, Filter{Limit: 2}))
	require.Equal(t, []string{plan.ID, proofID(done)}, s.listed(t, Filter{TaskID: done.Task.ID}))
	require.Equal(t, []string{proofID(done)}, s.listed(t, Filter{TaskID: done.Task.ID, Kind: KindProof, Limit: 1}))
	require.Equal(t, []string{proofID(canceled)}, s.listed(t, Filter{Tag: "outcome:canceled"}))
	require.Empty(t, s.listed(t, Filter{Tag: "outcome:canceled", TaskID: done.Task.ID}))
	require.Empty(t, s.listed(t, Filter{Tag: "outcome:running"}))
	require.Empty(t, s.listed(t, Filter{Tag: "other"}))
	require.Empty(t, s.listed(t, Filter{Kind: KindProof, TaskID: ledgertest.ID(3)}), "it has not ended")

	for _, err := range []error{
		second(s.Get(t.Context(), idOf("nothing"))), third(s.Open(t.Context(), idOf("nothing"))),
		second(s.Put(t.Context(), Meta{Kind: KindPlan, Parent: idOf("nothing")}, strings.NewReader("x"))),
	} {
		require.True(t, task.HasCode(err, task.NotFound), "%v", err)
	}
	require.True(t, task.HasCode(second(s.Get(t.Context(), "sha256-x")), task.InvalidParams))
}

func second[T any](_ T, err error) error { return err }

func third[T, U any](_ T, _ U, err error) error { return err }

// A bundle is stored when its task is forgotten, and stays the artifact that it was.
//
// OC-CTRL-2067
func TestABundleOutlivesItsTask(t *testing.T) {
	s := newShelf(t)
	r := s.end(t, 1, task.Completed, "a", "b")
	_, before, err := s.Open(t.Context(), proofID(r))
	require.NoError(t, err)
	unproven := ledgertest.Ended(ledgertest.Sample(2), task.Failed)
	changed := s.end(t, 3, task.Completed, "c")
	changed.Transcript = task.Transcript{}
	require.NoError(t, s.store.KeepBundles(t.Context(), []task.Record{unproven, changed, r}), "what cannot be kept is let go")
	require.ElementsMatch(t, []string{proofID(changed), proofID(r)}, s.listed(t, Filter{Kind: KindProof}), "each is listed once")

	forgotten := NewLibrary(s.store, ledgertest.NewStore().Open())
	found, err := forgotten.List(t.Context(), Filter{Kind: KindProof, TaskID: r.Task.ID, Tag: "outcome:completed"})
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, proofID(r), found[0].ID)
	_, after, err := forgotten.Open(t.Context(), proofID(r))
	require.NoError(t, err)
	want, err := io.ReadAll(before)
	require.NoError(t, err)
	got, err := io.ReadAll(after)
	require.NoError(t, err)
	require.NoError(t, after.Close())
	require.Equal(t, string(want), string(got))

	require.NoError(t, s.store.Close())
	require.Error(t, s.store.KeepBundles(t.Context(), []task.Record{r}), "the ledger has to keep it")
}

// A store that is older than the ledger, or damaged, changes no bundle whose task is on record.
//
// OC-CTRL-2067
func TestADamagedStoreChangesNoBundleOfTheRecord(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"other bytes": func(t *testing.T, path string) {
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.Chmod(path, 0o600))
			require.NoError(t, os.WriteFile(path, bytes.ToUpper(content), 0o600))
		},
		"cut short": func(t *testing.T, path string) {
			require.NoError(t, os.Chmod(path, 0o600))
			require.NoError(t, os.Truncate(path, 3))
		},
		"removed": func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			r := s.end(t, 1, task.Completed, "a", "b")
			want, err := bundle.Text(r)
			require.NoError(t, err)
			require.NoError(t, s.store.KeepBundles(t.Context(), []task.Record{r}))
			damage(t, filepath.Join(s.store.o.Dir, path(proofID(r))))
			e, content, err := s.Open(t.Context(), proofID(r))
			require.NoError(t, err)
			got, err := io.ReadAll(content)
			require.NoError(t, err)
			require.NoError(t, content.Close())
			require.Equal(t, string(want), string(got))
			require.Equal(t, proofID(r), e.ID)
			require.EqualValues(t, len(want), e.Size)
		})
	}
}

// wrong is a ledger whose records changed, or that cannot be read.
type wrong struct {
	r   task.Record
	err error
}

func (w wrong) Get(context.Context, string) (task.Record, bool, error) { return w.r, true, w.err }

func (w wrong) List(context.Context, task.State, int) ([]task.Record, error) { return nil, w.err }

func (w wrong) Proven(context.Context, [32]byte) (task.Record, bool, error) { return w.r, true, w.err }

// A record that does not give its bundle any more does not pass another off as it.
//
// OC-CTRL-2067
func TestAChangedRecordIsNoBundle(t *testing.T) {
	s := newShelf(t)
	r := s.end(t, 1, task.Completed, "a", "b")
	r.Transcript = task.Transcript{}
	l := NewLibrary(s.store, wrong{r: r})
	_, _, err := l.Open(t.Context(), proofID(r))
	require.True(t, task.HasCode(err, task.Internal), "%v", err)
	require.ErrorContains(t, err, "orchestratord ledger check")
	require.ErrorIs(t, err, bundle.ErrChanged)
	require.InDelta(t, 1, testutil.ToFloat64(s.store.metrics.damaged), 0)

	l = NewLibrary(s.store, wrong{err: errors.New("the disk is gone")})
	for _, err := range []error{
		second(l.Get(t.Context(), proofID(r))), third(l.Open(t.Context(), proofID(r))),
		second(l.List(t.Context(), Filter{})), second(l.List(t.Context(), Filter{TaskID: "t"})),
		second(l.Put(t.Context(), Meta{Kind: KindPlan, Parent: proofID(r)}, strings.NewReader("x"))),
	} {
		require.True(t, task.HasCode(err, task.LedgerUnavailable), "%v", err)
	}
}

// The stored bundle of a deleted task goes, whoever stored it. What else clients stored about the task stays.
//
// LO-832
func TestBundlesOfADeletedTaskGo(t *testing.T) {
	s := newShelf(t)
	r := s.end(t, 1, task.Completed, "a", "b")
	require.NoError(t, s.store.KeepBundles(t.Context(), []task.Record{r}))
	plan, err := s.Put(t.Context(), Meta{Kind: KindPlan, TaskID: r.Task.ID}, strings.NewReader("a plan"))
	require.NoError(t, err)
	other := s.end(t, 2, task.Completed, "c")
	require.NoError(t, s.store.KeepBundles(t.Context(), []task.Record{other}))

	require.NoError(t, s.ledger.Delete(t.Context(), r.Task.ID, ledgertest.Epoch))
	found, err := s.store.ForgetBundles(t.Context(), r.Task.ID)
	require.NoError(t, err)
	require.True(t, found)
	found, err = s.store.ForgetBundles(t.Context(), r.Task.ID)
	require.NoError(t, err)
	require.False(t, found)
	_, err = s.Get(t.Context(), proofID(r))
	require.True(t, task.HasCode(err, task.NotFound), "%v", err)
	require.ElementsMatch(t, []string{plan.ID, proofID(other)}, s.listed(t, Filter{}))
	require.Empty(t, s.listed(t, Filter{TaskID: r.Task.ID, Kind: KindProof}))
	require.InDelta(t, 1, testutil.ToFloat64(s.store.metrics.removed.WithLabelValues("deleted")), 0)
}
