// SPDX-License-Identifier: GPL-3.0-or-later

// Package announce lets the daemon be found on the local network by multicast DNS (LO-642). What comes from the network is read in a process of its own, in which Say runs: it knows no
// secrets, and its end harms nobody.
package announce

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/lines"
)

// Options are what a Service is made from.
type Options struct {
	Exe  string        // the program that announces, as `Exe announce …`
	Name string        // what the daemon is called; empty: as this machine is
	Addr func() string // where the daemon listens, HOST:PORT, once it does
	TLS  bool          // the port speaks TLS
	Log  *zap.Logger
	// FirstWait is the pause behind an end of the process; it doubles up to a minute. Default 1 s.
	FirstWait time.Duration
}

const (
	longestWait = time.Minute
	longRun     = time.Minute     // behind it the pauses begin anew
	byeWithin   = 3 * time.Second // that the process has to say goodbye to the network
	lineLimit   = 1 << 10
)

// Service has the daemon announced from Start to Stop.
type Service struct {
	o    Options
	life lifecycle.Life
}

var _ lifecycle.Service = (*Service)(nil)

// New makes a Service.
func New(o Options) *Service {
	if o.FirstWait <= 0 {
		o.FirstWait = time.Second
	}
	return &Service{o: o}
}

// Start has the daemon announced from now on. A network that takes no multicast is no reason to fail.
func (s *Service) Start(context.Context) error {
	if s.life.Begin() {
		s.life.Go(func(ctx context.Context) {
			contain.Loop(ctx, s.o.Log, "the care for the announcement panicked, and begins anew", s.run)
		})
	}
	return nil
}

// Stop takes the announcement back.
func (s *Service) Stop(ctx context.Context) error { return s.life.End(ctx, nil) }

// run keeps the process going.
func (s *Service) run(ctx context.Context) {
	wait := s.o.FirstWait
	for {
		began := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= longRun {
			wait = s.o.FirstWait
		}
		s.o.Log.Warn("this server is not announced on the local network for now: the process that does it ended, and is started again", zap.Duration("again_in_ms", wait), zap.Error(err))
		if !lifecycle.Pause(ctx, wait) {
			return
		}
		wait = min(2*wait, longestWait)
	}
}

// once runs the process until it ends, or until ctx does.
func (s *Service) once(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, s.o.Exe, "announce", "--name", s.o.Name, "--addr", s.o.Addr(), "--tls="+strconv.FormatBool(s.o.TLS))
	cmd.Env = []string{}                                  // it needs none, and must not know the token
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a signal for the daemon's group is not for it
	last := ""
	said := &lines.Cutter{Limit: lineLimit, Each: func(line string) { last = line }}
	cmd.Stdout, cmd.Stderr = said, said
	stdin, err := cmd.StdinPipe() // whose end tells it to go, also where this process is killed
	if err != nil {
		return fmt.Errorf("make its standard input: %w", err)
	}
	cmd.Cancel, cmd.WaitDelay = stdin.Close, byeWithin
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.o.Exe, err)
	}
	s.o.Log.Info("this server is announced on the local network", zap.String("name", Name(s.o.Name)))
	err = cmd.Wait()
	said.Flush()
	if last != "" {
		err = errors.Join(err, errors.New(last))
	}
	return err
}

// Name is what a daemon is called that has no name of its own: as its machine is.
func Name(own string) string {
	if own != "" {
		return own
	}
	if host, err := os.Hostname(); err == nil && host != "" {
		return host
	}
	return "llama-orch"
}
