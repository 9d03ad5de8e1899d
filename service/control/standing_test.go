// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/task"
)

// writes is a record of tasks that can be written, or not.
type writes struct{ err error }

func (w writes) Writable(context.Context) error { return w.err }

func (o *operated) stands(id string) task.PoolState {
	h, err := o.view().Health(id)
	require.NoError(o, err)
	return h.Pool.State
}

// LO-841, LO-842: one pool goes through its states by a drain and a resume, and admission, the dry run and readiness agree on each.
func TestADrainIsResumed(t *testing.T) {
	_, url := engineOf(t)
	o := operate(t, external("a", url))
	o.soon(func() bool { return o.stands("a") == task.PoolReady })
	require.NoError(t, o.view().Ready(t.Context()))

	_, err := o.operator.Drain(t.Context(), "a", time.Second)
	require.NoError(t, err)
	o.soon(func() bool { return o.stands("a") == task.PoolDrained })
	ask := task.Request{ModelRef: "m-a", Workload: task.Completion}
	e, err := o.operator.Explain(t.Context(), ask)
	require.NoError(t, err)
	require.Empty(t, e.PoolID, "admission would refuse it")
	require.Contains(t, e.Candidates[0].Reasons[0], "pool 'a' is drained")
	why := task.AsError(o.view().Ready(t.Context()))
	require.Equal(t, task.PoolUnready, why.Code)
	require.Len(t, why.Reasons, 1)
	require.Equal(t, "a", why.Reasons[0].PoolID)
	require.Contains(t, why.Reasons[0].Message, "pool resume a")
	require.NotContains(t, why.Message, "'a'", "the message is for everybody")
	_, err = o.operator.Load(t.Context(), "a")
	require.True(t, task.HasCode(err, task.Conflict), "%v", err)
	require.ErrorContains(t, err, "pool resume a")

	v, err := o.operator.Resume(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "a", v.PoolID)
	o.soon(func() bool { return o.stands("a") == task.PoolReady })
	v, err = o.operator.Resume(t.Context(), "a")
	require.NoError(t, err, "there is nothing to end")
	require.Equal(t, api.StandingView{PoolID: "a", State: task.PoolReady}, v)

	_, err = o.operator.Unload(t.Context(), "a")
	require.True(t, task.HasCode(err, task.Conflict), "%v", err)
	for _, call := range []func(context.Context, string) (api.StandingView, error){o.operator.Resume, o.operator.Load, o.operator.Unload} {
		_, err = call(t.Context(), "attic")
		require.True(t, task.HasCode(err, task.NotFound), "%v", err)
	}
}

// LO-841: without a record no task is accepted, whatever the pools are like.
func TestALedgerThatCannotWriteIsNotReady(t *testing.T) {
	_, url := engineOf(t)
	o := operate(t, external("a", url))
	o.readies("a")
	v := o.view()
	v.ledger = writes{errors.New("the disk is full")}
	why := task.AsError(v.Ready(t.Context()))
	require.Equal(t, task.LedgerUnavailable, why.Code)
	require.Equal(t, []task.Reason{{Code: why.Code, Message: why.Message}}, why.Reasons)
	require.NotContains(t, why.Envelope().Message, "is full", "the cause is for the log")
}

// LO-840, LO-841, LO-842, LO-607: an on-demand pool whose model is missing was never tried, and yet says so before a task comes.
func TestAnOnDemandPoolWithoutItsFileIsNotReady(t *testing.T) {
	o := operate(t, "  - {id: od, lifecycle: on_demand, model: {id: m-od, ref: \"file:none.gguf\"}, provisioning: {mode: binary, path: ./no-such-server}}\n")
	o.soon(func() bool { return o.stands("od") == task.PoolFailed })
	h, err := o.view().Health("od")
	require.NoError(t, err)
	require.Contains(t, h.Pool.LastError, "none.gguf")
	why := task.AsError(o.view().Ready(t.Context()))
	require.Equal(t, task.PoolUnavailable, why.Reasons[0].Code)
	require.Contains(t, why.Reasons[0].Message, "put it there")
	e, err := o.operator.Explain(t.Context(), task.Request{ModelRef: "m-od", Workload: task.Completion})
	require.NoError(t, err)
	require.Empty(t, e.PoolID)
	require.Contains(t, e.Candidates[0].Reasons[0], "pool 'od' failed")

	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(o.path), "none.gguf"), []byte("GGUF"), 0o600))
	v, err := o.operator.Load(t.Context(), "od")
	require.NoError(t, err)
	require.Equal(t, "od", v.PoolID)
	o.soon(func() bool { // now its program is what is missing
		h, err := o.view().Health("od")
		return err == nil && h.Pool.State == task.PoolFailed && h.Replicas[0].State == "failed"
	})
	_, err = o.operator.Unload(t.Context(), "od")
	require.NoError(t, err)
	o.soon(func() bool { return o.stands("od") == task.PoolUnloaded })
	told := o.operator.residency.Swaps() // whoever looks sees that no plan did this
	require.Len(t, told, 2)
	require.False(t, told[0].In)
	require.Equal(t, byHand, told[0].Why)
	require.True(t, told[1].In)
}

// LO-942: an operator may have written a key among an engine's arguments.
func TestKeysAreNotShownAmongAnEnginesArguments(t *testing.T) {
	flags := []string{"--jinja", "--api-key", "s3cret", "--hf-token=t0ken", "-ctk", "q8_0", "--api-key-file", "/etc/key"}
	require.Equal(t, []string{"--jinja", "--api-key", hidden, "--hf-token=" + hidden, "-ctk", "q8_0", "--api-key-file", hidden}, redacted(flags))
	require.Equal(t, "s3cret", flags[2], "the facts stay what they are")
}
