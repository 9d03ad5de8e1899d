// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/control/announce"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/port"
	"github.com/llama-orch/llama-orch/service/task"
)

// closeWithin is how long a stop waits for clients to take what they were sent.
const closeWithin = 2 * time.Second

var _ lifecycle.Service = (*App)(nil)

// Start takes the port, takes up the tasks of the run before, and sets everything going. It returns once the API answers; the pools get
// Ready later. Where it fails, it has given everything back.
func (a *App) Start(ctx context.Context) (err error) {
	give, err := a.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	if a.started || a.stopped {
		return nil
	}
	a.started = true
	defer func() {
		if err != nil {
			a.stopped = true
			err = errors.Join(err, a.cleanup.run(context.Background(), a.log))
		}
	}()
	for _, step := range []func(context.Context) error{
		a.listen,
		a.startFleet,
		a.recover, // before anyone can ask for the tasks of the run before
		a.serve,
		a.startFlow,
		a.startControl,
		a.startAnnouncement,
		a.startUnit,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	a.log.Info("serving",
		zap.Stringer("addr", a.listener.Addr()), zap.String("version", a.o.Version), zap.Int("pools", len(a.o.Config.Pools)))
	return nil
}

// Stop refuses new work. It lets the running tasks go on for half of the time that ctx leaves; what is not done by then, the next start
// takes up. Then it closes the connections, stops the workers and closes the ledger.
func (a *App) Stop(ctx context.Context) error {
	give, err := a.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	if a.stopped {
		return nil
	}
	a.stopped = true
	err = a.cleanup.run(ctx, a.log)
	a.log.Info("stopped")
	return err
}

// take waits until no other Start or Stop is at work. It fails when ctx ends before.
func (a *App) take(ctx context.Context) (give func(), err error) {
	select {
	case a.turn <- struct{}{}:
		return func() { <-a.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// run starts a service, and has the cleanup stop it.
func (a *App) run(ctx context.Context, name string, s lifecycle.Service) error {
	a.cleanup.push("stop "+name, s.Stop)
	if err := s.Start(ctx); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	return nil
}

func (a *App) listen(ctx context.Context) error {
	l, err := port.Listen(ctx, a.o.Config.BindAddr)
	if err != nil {
		return err
	}
	var secure *tls.Config
	if a.pair != nil {
		secure = a.pair.Config()
	}
	a.listener = port.Bound(l, port.Options{TLS: secure, HalfClose: true, Refusal: a.gate.Unread, Refused: func(from net.Addr) {
		a.log.Debug("a connection was refused: there are as many as may be", zap.Stringer("from", from))
	}, Panicked: func(p any) { contain.Log(a.log, "the end of a connection panicked", p) }})
	a.cleanup.push("close the port", func(context.Context) error {
		if err := a.listener.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return nil
}

func (a *App) startFleet(ctx context.Context) error {
	if err := a.run(ctx, "the look at the GPUs", a.cards); err != nil {
		return err
	}
	return a.run(ctx, "the pools and their workers", a.pools)
}

// recover takes up what the run before left.
func (a *App) recover(ctx context.Context) error {
	if a.hosts != nil {
		return a.hosts.Claim(ctx)
	}
	left, err := a.ledger.Claim(ctx, task.Host{ID: a.owner})
	if err != nil {
		return fmt.Errorf("take over the tasks of the run before: %w", err)
	}
	a.schedule.Recover(left.Tasks)
	return nil
}

// serve takes requests from here on.
func (a *App) serve(ctx context.Context) error {
	if err := a.streams.Start(ctx); err != nil {
		return fmt.Errorf("start the streams: %w", err)
	}
	for _, l := range []net.Listener{a.listener, a.streams.Listener()} { // new connections, and those on which a stream has ended
		a.serving.Go(func() {
			// A server whose loop panicked has closed its listener. So the daemon stops in order, and its tasks go on at the next start.
			var err error
			if panicked := contain.Do(a.log, "the server panicked, so this process stops", func() { err = a.server.Serve(l) }); panicked != nil {
				err = panicked
			}
			if !errors.Is(err, http.ErrServerClosed) {
				a.failed <- fmt.Errorf("serve HTTP: %w", err)
			}
		})
	}
	a.cleanup.push("close the connections", func(ctx context.Context) error {
		bounded, stop := context.WithTimeout(ctx, closeWithin)
		defer stop()
		a.o.Logs.Close()
		err := a.server.Shutdown(bounded)
		if errors.Is(err, context.DeadlineExceeded) { // a client that does not read its answer must not hold up the stop
			err = a.server.Close()
		}
		err = errors.Join(err, a.streams.Stop(bounded))
		a.listener.Drop()
		a.serving.Wait()
		return err
	})
	if a.page != nil { // its streams end before the connections are closed
		return a.run(ctx, "the status page", a.page)
	}
	return nil
}

func (a *App) startFlow(ctx context.Context) error {
	if err := a.schedule.Start(ctx); err != nil {
		return fmt.Errorf("start the queues: %w", err)
	}
	a.cleanup.push("end the tasks", func(ctx context.Context) error {
		finish, stop := context.WithTimeout(ctx, finishWithin(ctx))
		defer stop()
		return a.schedule.Stop(finish)
	})
	if a.hosts != nil {
		if err := a.run(ctx, "the look at the other hosts", a.hosts); err != nil {
			return err
		}
	}
	if err := a.run(ctx, "the swaps", a.residency); err != nil {
		return err
	}
	if err := a.run(ctx, "the sweeps of sessions", a.sessions); err != nil {
		return err
	}
	if a.feeder == nil {
		return nil
	}
	return a.run(ctx, "the feeding of batches", a.feeder)
}

// finishWithin is how long running tasks may go on in a stop: half of its time. The connections and the workers have the rest.
func finishWithin(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline) / 2
	}
	return time.Minute
}

func (a *App) startControl(ctx context.Context) error {
	if a.selfTest != nil {
		if err := a.run(ctx, "the self-test", a.selfTest); err != nil {
			return err
		}
	}
	return a.run(ctx, "the operator", a.operator)
}

// startAnnouncement lets other machines find the daemon, where the configuration says so. It is stopped before the API is.
func (a *App) startAnnouncement(ctx context.Context) error {
	if !a.o.Config.Announce.MDNS {
		return nil
	}
	return a.run(ctx, "the announcement", announce.New(announce.Options{
		Exe: a.o.Exe, Name: a.o.Config.Announce.Name, Addr: a.Addr, TLS: a.pair != nil, Log: a.o.Log.Named("announce"),
	}))
}

// startUnit says that the daemon has started. It is stopped first, so that systemd hears of a stop before it takes its time.
func (a *App) startUnit(ctx context.Context) error { return a.run(ctx, "the word to systemd", a.unit) }

// owner names this process, as the ledger knows it.
func owner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}
