// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/watch"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
)

// What somebody changes in the ledger's file while the daemon runs. Its task is not shown any more, the answer says what to do, and that helps; the
// other tasks are shown, and new ones run.
// LO-834, LO-832
func TestARecordThatWasChanged(t *testing.T) {
	fake := httptest.NewServer(fakeengine.New(fakeengine.Options{}))
	t.Cleanup(fake.Close)
	dir := t.TempDir()
	d, c := serveIn(t, dir, built(t), fmt.Sprintf(`
  - {id: only, model: {id: m, ref: x}, sampler_profile: v1, provisioning: {mode: external, urls: ["%s"]}}
`, fake.URL), nil)
	_, err := d.Idle(t.Context(), "only")
	require.NoError(t, err)
	db, err := sql.Open("sqlite", filepath.Join(dir, "state", sqlite.FileName)+"?_pragma=busy_timeout(10000)")
	require.NoError(t, err)
	defer db.Close()
	for i, change := range []string{
		"UPDATE transcript SET text = replace(text, substr(text, 1, 1), '~') WHERE seq = ?",
		"UPDATE transcript SET ends = substr(ends, 2) WHERE seq = ?",
		"DELETE FROM transcript WHERE seq = ?",
		"UPDATE request SET task = json_set(task, '$.request.prompt', 'd e f') WHERE seq = ?",
		"UPDATE task SET outcome = json_set(outcome, '$.end.receipt.transcript_sha256', '00') WHERE seq = ?",
		"UPDATE task SET last_event_id = '1-00000000' WHERE seq = ?",
		"UPDATE task SET state = 'failed' WHERE seq = ?",
	} {
		id := fmt.Sprint("changed-", i)
		admitted, err := d.Client.Submit(t.Context(), fmt.Appendf(nil, `{"task_id":"%s","model_ref":"m","prompt":"a b c","max_tokens":4}`, id))
		require.NoError(t, err)
		s, err := d.Client.Open(t.Context(), admitted.TaskID)
		require.NoError(t, err)
		require.NoError(t, s.Rest())
		require.NotNil(t, s.End)
		done, err := db.ExecContext(t.Context(), change, sequence(t, db, id))
		require.NoError(t, err)
		n, err := done.RowsAffected()
		require.NoError(t, err)
		require.EqualValues(t, 1, n, change)
		var refused *sdk.Error
		internal := func(err error) bool {
			return errors.As(err, &refused) && refused.Status == http.StatusInternalServerError && refused.Code == sdk.ErrorCodeInternal
		}
		require.Eventually(t, func() bool { _, err := c.Get(t.Context(), id); return internal(err) }, watch.Patience, 10*time.Millisecond, "%s", change)
		require.Contains(t, refused.Message, "`llama-orch rm "+id+"`")
		for _, err := range c.Stream(t.Context(), id, "") {
			require.True(t, internal(err), "%s: %v", change, err)
			break
		}
		_, _, err = c.Proof(t.Context(), id)
		require.True(t, internal(err), "%s: %v", change, err)
		readable(t, c)
		finishes(t, d)
		require.NoError(t, c.Delete(t.Context(), id))
		_, err = c.Get(t.Context(), id)
		require.ErrorAs(t, err, &refused)
		require.Equal(t, sdk.ErrorCodeDeleted, refused.Code)
	}
}

func sequence(t *testing.T, db *sql.DB, id string) (seq int64) {
	t.Helper()
	require.NoError(t, db.QueryRowContext(t.Context(), "SELECT seq FROM task WHERE id = ?", id).Scan(&seq))
	return seq
}
