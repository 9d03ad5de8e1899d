// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/task"
)

// OC-CTRL-2067
func TestTheSinkWritesABundleOfEveryTaskThatEnds(t *testing.T) {
	s := open(t, t.TempDir())
	sink, err := NewSink(SinkOptions{Store: s, Reasons: func(r task.Record) []string { return []string{"because of " + r.ReplicaID} }})
	require.NoError(t, err)
	running := ended("x")
	running.State = task.Running
	sink.Finished(running)
	for i := range 50 {
		r := ended("a", "b")
		r.Task.ID = "t-" + strconv.Itoa(i)
		if i%2 == 1 {
			r.State, r.End, r.Err = task.Failed, nil, task.Errorf(task.WorkerReset, "it died")
		}
		sink.Finished(r)
	}
	sink.Close(t.Context())
	require.Len(t, s.List(Filter{Kind: KindProof}), 50)
	require.Len(t, s.List(Filter{Tag: "outcome:failed"}), 25)
	list := s.List(Filter{TaskID: "t-7"})
	require.Len(t, list, 1)
	require.Equal(t, ProofMediaType, list[0].MediaType)
	p, err := DecodeProof([]byte(content(t, s, list[0].ID)))
	require.NoError(t, err)
	require.Equal(t, task.WorkerReset, p.Error.Code)
	require.Contains(t, p.Placement.Reasons, "because of default-0")
	require.InDelta(t, 50, testutil.ToFloat64(sink.proofs.WithLabelValues("stored")), 0)

	sink.Finished(ended("late"))
	require.InDelta(t, 1, testutil.ToFloat64(sink.proofs.WithLabelValues("dropped")), 0)
	sink.Close(t.Context())
}

// disk takes a bundle when it is told to.
type disk struct {
	goOn  chan error
	taken int
}

func (d *disk) Put(ctx context.Context, _ Meta, r io.Reader) (Entry, error) {
	select {
	case err := <-d.goOn:
		d.taken++
		_, _ = io.Copy(io.Discard, r)
		return Entry{}, err
	case <-ctx.Done():
		return Entry{}, ctx.Err()
	}
}

// OC-CTRL-2067
func TestTheSinkDropsWhatTheDiskDoesNotTakeAndBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		d := &disk{goOn: make(chan error)}
		sink, err := NewSink(SinkOptions{Store: d, MaxTasks: 3, MaxBytes: 4000, Log: zap.New(core)})
		require.NoError(t, err)
		count := func(o proofOutcome) int { return int(testutil.ToFloat64(sink.proofs.WithLabelValues(string(o)))) }
		sink.Finished(ended("first"))
		synctest.Wait() // it is at the disk
		for range 5 {
			sink.Finished(ended("x"))
		}
		require.Equal(t, 2, count(proofDropped))
		require.Equal(t, 1, logs.FilterMessageSnippet("does not keep up").Len(), "one line, however many")
		d.goOn <- nil
		synctest.Wait()
		require.Equal(t, 1, logs.FilterMessageSnippet("written again").FilterField(zap.Int("dropped", 2)).Len())
		big := ended("x")
		big.Task.Prompt = strings.Repeat("x", 4000)
		sink.Finished(big)
		require.Equal(t, 3, count(proofDropped), "the text that waits is bounded too")
		d.goOn <- errors.New("the disk is full")
		synctest.Wait()
		require.Equal(t, 1, count(proofFailed))
		require.Equal(t, 1, logs.FilterMessageSnippet("could not be written").Len())
		d.goOn <- nil
		synctest.Wait()

		sink.Finished(ended("y"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			sink.Close(ctx)
			close(done)
		}()
		synctest.Wait()
		cancel() // the disk takes nothing any more
		<-done
		require.Equal(t, 3, d.taken)
		require.Equal(t, []int{2, 4, 2}, []int{count(proofStored), count(proofDropped), count(proofFailed)}, "each is counted once")
	})
}
