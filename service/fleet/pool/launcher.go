// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"os/exec"
	"runtime"
)

// launcher starts processes from one goroutine that is locked to its thread: the kernel sends a child its parent-death
// signal when the thread that started it ends, so that thread must outlive every child, and the Go runtime ends threads
// as it likes.
type launcher struct {
	jobs chan launch
	done chan struct{}
}

type launch struct {
	cmd    *exec.Cmd
	result chan error
}

func startLauncher() *launcher {
	l := &launcher{jobs: make(chan launch), done: make(chan struct{})}
	go l.loop()
	return l
}

func (l *launcher) loop() {
	defer close(l.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread() // no child is left then; the thread may live on
	for job := range l.jobs {
		job.result <- job.cmd.Start()
	}
}

// start starts the command, whose Pdeathsig then means: when this process ends.
func (l *launcher) start(cmd *exec.Cmd) error {
	job := launch{cmd, make(chan error, 1)}
	l.jobs <- job
	return <-job.result
}

// stop joins the goroutine. No child may be running, and start may not be called again.
func (l *launcher) stop() {
	close(l.jobs)
	<-l.done
}
