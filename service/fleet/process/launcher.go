// SPDX-License-Identifier: GPL-3.0-or-later

// Package process starts the workers' processes, keeps what they say, and ends them together with what belongs to them: their process
// group, and their container if they have one. What a killed daemon left over is ended at the next start.
package process

import (
	"context"
	"crypto/rand"
	"errors"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/lifecycle"
)

// Options of a Launcher.
type Options struct {
	// RunDir holds one file for each process, so that the next start finds what a crash left over. Only one Launcher at a time may use
	// it. Empty: there are no such files.
	RunDir string
	// Guard is the command that runs Guard in a process of its own. It is started for the first Command that is Foreign. Empty: there is none.
	Guard []string
	Log   *zap.Logger // nil: nothing is logged
}

// Launcher starts processes from one goroutine that is locked to its thread. The kernel sends a child its parent-death signal when the
// thread that started it ends, so that thread must outlive every child; the Go runtime ends other threads as it likes.
type Launcher struct {
	o    Options
	life lifecycle.Life
	jobs chan launch
	over chan struct{} // closed once no more processes are started; end closes it
	end  func()
	dir  *runDir // nil without RunDir; set by Start

	mark  string // begins the marks of the processes
	count atomic.Int64
	guard guardian

	giveBack func() error // gives the run folder back, once
}

var _ lifecycle.Service = (*Launcher)(nil)

type launch struct {
	cmd    *exec.Cmd
	result chan error
}

var (
	errNotRunning = errors.New("no process is started before the launcher is, nor after its stop")
	errStopped    = errors.New("the launcher is stopped")
)

// New makes a launcher that starts nothing yet.
func New(o Options) *Launcher {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	l := &Launcher{o: o, jobs: make(chan launch), over: make(chan struct{}), mark: rand.Text() + ".", guard: guardian{argv: o.Guard}}
	l.end = sync.OnceFunc(func() { close(l.over) })
	l.giveBack = sync.OnceValue(func() error { return l.dir.close() })
	return l
}

// Start takes the run folder, ends what an earlier run left over, and makes the launcher ready to start processes. It fails if another
// orchestratord has the folder.
func (l *Launcher) Start(context.Context) error {
	if !l.life.Begin() {
		return nil
	}
	if l.o.RunDir != "" {
		dir, err := openRunDir(l.o.RunDir)
		if err != nil {
			l.end()
			return err
		}
		found, err := dir.reap(l.o.Log)
		if err != nil {
			l.end()
			return errors.Join(err, dir.close())
		}
		for _, left := range found {
			l.o.Log.Warn("a worker left over from an earlier run was ended", zap.Int("pid", left.PID), zap.String("replica_id", left.Replica))
		}
		l.dir = dir
	}
	if !l.life.Go(func(ctx context.Context) { _ = contain.Do(l.o.Log, stumbled, func() { l.run(ctx) }) }) { // it has logged what went wrong
		l.end()
	}
	return nil
}

// Stop ends the launcher's goroutine and gives the run folder back. By then all of its processes must have ended.
func (l *Launcher) Stop(ctx context.Context) error {
	if err := l.life.End(ctx, errStopped); err != nil {
		return err
	}
	l.end()
	return errors.Join(l.guard.end(ctx), l.giveBack())
}

// stumbled is what the log says where the start of a process panicked. Others can be started all the same.
const stumbled = "the start of a process panicked"

// run keeps its thread for all that it starts, whatever panics.
func (l *Launcher) run(ctx context.Context) {
	defer l.end()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread() // no child is left then; the thread may live on
	contain.Loop(ctx, l.o.Log, stumbled, l.loop)
}

func (l *Launcher) loop(ctx context.Context) {
	for {
		select {
		case job := <-l.jobs:
			if err := contain.Do(l.o.Log, stumbled, func() { job.result <- job.cmd.Start() }); err != nil {
				job.result <- err
			}
		case <-ctx.Done():
			return
		}
	}
}

// start starts the command. Because of the locked thread, its parent-death signal means that this program has ended.
func (l *Launcher) start(cmd *exec.Cmd) error {
	job := launch{cmd, make(chan error, 1)}
	select {
	case l.jobs <- job:
		return <-job.result
	case <-l.over:
		return errNotRunning
	}
}
