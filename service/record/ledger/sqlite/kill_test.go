// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// child is one of the processes that the tests start. It says on standard output what the ledger answered.
func child(role, path string) int {
	o := Options{Path: path, RetainBytes: 1 << 20}
	if role == "unsound" { // the writer's clock panics after some commits
		var looks atomic.Int32
		o.Log = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), os.Stdout, zap.InfoLevel))
		o.Now = func() time.Time {
			if looks.Add(1) > 200 {
				panic("index out of range")
			}
			return time.Now()
		}
	}
	l, err := Open(o)
	if fault, ok := errors.AsType[*Error](err); ok && role == "second" {
		fmt.Println(fault.Fault)
		return 0
	}
	if err == nil {
		switch role {
		case "victim", "unsound":
			err = victim(l)
		case "limited":
			err = limited(l)
		}
		err = errors.Join(err, l.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func launch(t *testing.T, role, path string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, "-test.run=^$")
	cmd.Env = append(os.Environ(), "LEDGER_TEST_ROLE="+role, "LEDGER_TEST_PATH="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return cmd, bufio.NewScanner(out)
}

// victim takes tasks through their lives, several at a time, until it is killed. Each line is what became durable.
func victim(l *Ledger) error {
	failed := make(chan error)
	for range 16 {
		go func() {
			for {
				seq, err := l.NextSeq()
				failed <- errors.Join(err, life(l, seq))
			}
		}()
	}
	for {
		if err := <-failed; err != nil {
			return err
		}
	}
}

// life is one task's. A third of the tasks stay queued, a third running.
func life(l *Ledger, seq uint64) error {
	ctx, s := context.Background(), sample(seq)
	if err := l.Accept(ctx, s); err != nil {
		return err
	}
	say("accepted", seq)
	if seq%3 == 0 {
		return nil
	}
	if err := l.Dispatch(ctx, dispatched(s)); err != nil {
		return err
	}
	say("running", seq)
	l.Checkpoint(s.ID, task.Checkpoint{Event: 1})
	if seq%3 == 1 {
		return nil
	}
	if err := l.Finish(ctx, ended(s, task.Completed, "text of ", s.ID, strings.Repeat("!", int(seq%2000)))); err != nil {
		return err
	}
	say("completed", seq)
	return nil
}

// say writes a line in one piece.
func say(what string, seq uint64) { fmt.Printf("%s %d\n", what, seq) }

// Whatever was answered before a SIGKILL is there after it, in its order, and nothing is half there.
// LO-202
func TestKilledProcessLosesNothingItAnswered(t *testing.T) {
	path := file(t)
	random := rand.New(rand.NewPCG(1, 2))
	answered := map[uint64]task.State{}
	rank := map[task.State]int{task.Queued: 1, task.Running: 2, task.Completed: 3}
	known := map[string]task.State{"accepted": task.Queued, "running": task.Running, "completed": task.Completed}
	midway := 0
	for round := range 30 {
		cmd, lines := launch(t, "victim", path)
		// Counted in answers and then a little time, so that the kill falls anywhere between two of them.
		for n := random.IntN(150); n > 0 && lines.Scan(); n-- {
			noted(t, lines.Text(), known, answered)
		}
		time.Sleep(time.Duration(random.IntN(4000)) * time.Microsecond)
		require.NoError(t, cmd.Process.Kill())
		for lines.Scan() {
			noted(t, lines.Text(), known, answered)
		}
		require.Error(t, cmd.Wait(), "it was killed")
		if info, err := os.Stat(path + "-wal"); err == nil && info.Size() > 0 {
			midway++
		}
		if round%5 != 4 {
			continue // the next process takes over what this one left
		}
		l := open(t, Options{Path: path})
		left, err := l.Live(t.Context())
		require.NoError(t, err)
		place := map[string]int{}
		last := uint64(0)
		for i, r := range left {
			place[r.Task.ID] = i
			if r.State == task.Queued {
				require.Greater(t, r.Task.Seq, last)
				last = r.Task.Seq
			}
		}
		for seq, state := range answered {
			r, ok, err := l.Get(t.Context(), id(seq))
			require.NoError(t, err)
			if !ok {
				require.Equal(t, 2, int(seq%3), "only the retention may have taken %d, which was %s", seq, state)
				continue
			}
			require.GreaterOrEqual(t, rank[r.State], rank[state], "%d was %s", seq, state)
			want := task.Record{Task: sample(seq), State: r.State}
			switch r.State {
			case task.Completed:
				want = ended(sample(seq), task.Completed, "text of ", id(seq), strings.Repeat("!", int(seq%2000)))
			case task.Running:
				d := dispatched(sample(seq))
				want.ReplicaID, want.Fingerprint, want.StartedAt = d.ReplicaID, d.Fingerprint, d.At
			}
			want.Checkpoint = r.Checkpoint
			require.Equal(t, want, r)
			if !r.State.Final() {
				require.Contains(t, place, id(seq))
			}
			require.Less(t, seq, next(t, l))
		}
		require.NoError(t, l.Close())
		reader, err := OpenReader(path)
		require.NoError(t, err)
		report, err := reader.Check(t.Context())
		require.NoError(t, err)
		require.Empty(t, report.Problems)
		require.Empty(t, report.Losses, "a kill loses nothing, so none is told")
		require.NoError(t, reader.Close())
	}
	t.Logf("%d tasks answered, %d of 30 kills left a log of writes", len(answered), midway)
	require.Greater(t, len(answered), 100)
	require.Greater(t, midway, 10)
}

func noted(t *testing.T, line string, known map[string]task.State, answered map[uint64]task.State) {
	t.Helper()
	what, number, whole := strings.Cut(line, " ")
	seq, err := strconv.ParseUint(number, 10, 64)
	require.True(t, whole && err == nil && known[what] != "", "%q", line)
	answered[seq] = known[what] // a task's lines come in its order
}

// limited fills up to a limit on the size of files, which is a failing disk that needs no rights to make, and goes on when
// the limit is lifted.
func limited(l *Ledger) error {
	signal.Ignore(syscall.SIGXFSZ)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 512 << 10, Max: old.Max}); err != nil {
		return err
	}
	ctx, seq := context.Background(), uint64(1)
	for ; ; seq++ {
		err := l.Accept(ctx, large(seq, 16))
		if err == nil {
			if say("accepted", seq); seq > 1000 {
				return errors.New("the limit is not felt")
			}
			continue
		}
		if !errors.Is(err, ledger.ErrUnavailable) {
			return err
		}
		break
	}
	for range 3 {
		if err := l.Finish(ctx, ended(large(1, 16), task.Completed, strings.Repeat("z", 64<<10))); !errors.Is(err, ledger.ErrUnavailable) {
			return fmt.Errorf("finish on a failing disk: %w", err)
		}
	}
	if _, ok, err := l.Get(context.Background(), id(1)); !ok || err != nil {
		return fmt.Errorf("read on a failing disk: %t, %w", ok, err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := l.Finish(ctx, ended(large(1, 16), task.Completed, strings.Repeat("z", 64<<10))); err != nil {
		return err
	}
	if err := l.Accept(ctx, large(seq, 16)); err != nil {
		return err
	}
	say("accepted", seq)
	return nil
}

// LO-202
func TestFailingDiskRecovers(t *testing.T) {
	path := file(t)
	cmd, lines := launch(t, "limited", path)
	var accepted []string
	for lines.Scan() {
		accepted = append(accepted, "task-"+strings.TrimPrefix(lines.Text(), "accepted "))
	}
	require.NoError(t, cmd.Wait())
	require.Greater(t, len(accepted), 5)
	l := open(t, Options{Path: path})
	require.Equal(t, accepted[1:], live(t, l))
	require.Equal(t, task.Completed, get(t, l, id(1)).State)
}
