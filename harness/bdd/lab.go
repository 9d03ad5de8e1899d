// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/cucumber/godog"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// lab is what all scenarios of a run share: the programs, the model, and one daemon for scenarios that leave no traces.
type lab struct {
	*daemon.Lab

	logs *logContract
	gpu  cardMaker
	hub  hubMaker

	once   sync.Once
	shared *server
	err    error
}

func newLab(ctx context.Context, dir, root string) (*lab, error) {
	l, err := daemon.NewLab(ctx, dir, root, "./cmd/llama-orch", "./harness/fakeengine/cmd/fakeengine", "./harness/scripted/cmd/scripted", "./harness/studio/cmd/studio",
		"./harness/conformance/openai/cmd/openai-server")
	if err != nil {
		return nil, err
	}
	return &lab{Lab: l, logs: newLogContract()}, nil
}

// close ends the shared daemon, and reports what any daemon left behind. Nothing may be left.
func (l *lab) close() error {
	var err error
	if l.shared != nil {
		l.shared.kill()
		err = keep(&godog.Scenario{Uri: "all", Name: "shared daemon"}, map[string]string{"daemon.log": l.shared.Output()})
	}
	l.Close()
	err = errors.Join(err, poll("the end of all workers", func() error {
		if left := l.Workers(); len(left) > 0 {
			return fmt.Errorf("workers %v outlived their daemon", left)
		}
		return nil
	}))
	for _, w := range l.Workers() {
		w.Kill()
	}
	return err
}

// poll is for steps, which have no context: it tries until try succeeds.
func poll(what string, try func() error) error { return watch.Poll(context.Background(), what, try) }

// sharedDaemon has two fast replicas, a generous queue, and no token.
func (l *lab) sharedDaemon() (*server, error) {
	l.once.Do(func() {
		dir := filepath.Join(l.Dir, "shared")
		if l.err = os.MkdirAll(dir, 0o700); l.err != nil {
			return
		}
		c := newSetup(dir)
		c.pool("default", l.builtin(row{"replicas", "2"}))
		l.shared, l.err = l.startDaemon(c)
		if l.err == nil {
			l.err = l.shared.ready(2)
		}
	})
	return l.shared, l.err
}
