// SPDX-License-Identifier: GPL-3.0-or-later

// Package systemd tells systemd how the daemon is: started, reading its configuration, alive, stopping (LO-634, LO-635).
package systemd

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/lifecycle"
)

// Check asks a part of the daemon for an answer. Whatever the answer is, it means that the part is alive; an error means that there was none until ctx ended.
type Check struct {
	Name string
	Ask  func(ctx context.Context) error
}

// Options are what a Service is made from.
type Options struct {
	Tell     func(state string) error // default: to the socket that systemd named, if it did
	Watchdog time.Duration            // systemd ends a daemon that was silent for so long; 0: it does not
	Checks   []Check
	Log      *zap.Logger
}

// Watchdog is how often systemd wants to hear that the daemon is alive; 0: it does not.
func Watchdog(log *zap.Logger) time.Duration {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("what systemd wants of the watchdog cannot be read, so it is not fed", zap.Error(err))
	}
	return d
}

// Service tells systemd that the daemon has started, from Start on that it is alive, and with Stop that it ends.
type Service struct {
	o    Options
	life lifecycle.Life
}

var _ lifecycle.Service = (*Service)(nil)

// New makes a Service.
func New(o Options) *Service {
	if o.Tell == nil {
		o.Tell = func(state string) error {
			_, err := daemon.SdNotify(false, state)
			return err
		}
	}
	return &Service{o: o}
}

// Start says that the daemon has started.
func (s *Service) Start(context.Context) error {
	if !s.life.Begin() {
		return nil
	}
	s.tell(daemon.SdNotifyReady)
	if s.o.Watchdog > 0 {
		s.life.Go(func(ctx context.Context) {
			contain.Loop(ctx, s.o.Log, "the feeding of systemd's watchdog panicked, and begins anew", s.feed)
		})
	}
	return nil
}

// Stop says that the daemon ends.
func (s *Service) Stop(ctx context.Context) error {
	s.tell(daemon.SdNotifyStopping)
	return s.life.End(ctx, nil)
}

// Reload says that the configuration is read while do runs.
func (s *Service) Reload(do func()) {
	s.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
	defer s.tell(daemon.SdNotifyReady)
	do()
}

// A round asks all parts within half of the watchdog's time, and the next one begins a quarter of it later.
const (
	roundPart = 2
	pausePart = 4
)

// feed tells systemd that the daemon is alive after each round in which every part has answered.
func (s *Service) feed(ctx context.Context) {
	silent := false
	for {
		dead, err := s.round(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			s.tell(daemon.SdNotifyWatchdog)
		case !silent:
			s.o.Log.Error("a part of the orchestrator does not answer, so systemd's watchdog is not fed, which restarts this service", zap.String("part", dead), zap.Error(err))
		}
		silent = err != nil
		if !lifecycle.Pause(ctx, s.o.Watchdog/pausePart) {
			return
		}
	}
}

func (s *Service) round(ctx context.Context) (dead string, err error) {
	ctx, stop := context.WithTimeout(ctx, s.o.Watchdog/roundPart)
	defer stop()
	for _, c := range s.o.Checks {
		if err := c.Ask(ctx); err != nil {
			return c.Name, err
		}
	}
	return "", nil
}

func (s *Service) tell(state string) {
	if err := s.o.Tell(state); err != nil {
		s.o.Log.Warn("systemd cannot be told how this service is: its socket (NOTIFY_SOCKET) does not take it", zap.String("state", state), zap.Error(err))
	}
}
