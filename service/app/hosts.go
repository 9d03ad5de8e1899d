// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"

	"github.com/llama-orch/llama-orch/service/control"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/host/forward"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// self is this daemon as it announces itself to those that share its ledger.
func (a *App) self() task.Host {
	c := a.o.Config
	return task.Host{ID: a.owner, Name: control.HostName(c), Address: control.HostAddress(c, a.Addr()), Version: a.o.Version, Since: a.since, Pools: a.fleet.HostPools()}
}

// took takes up what a claim has brought.
func (a *App) took(c ledger.Claim) {
	a.sessions.Adopt(c.Sessions)
	a.schedule.Recover(c.Tasks)
}

// sharers are the daemons that share the ledger.
func (a *App) sharers() control.Hosts {
	h := control.Hosts{Here: a.owner, Self: a.self}
	if a.hosts != nil {
		h.All = func(ctx context.Context) ([]task.Host, error) { return a.hosts.Now(ctx) }
	}
	return h
}

// refusal says which pools' queues are another daemon's; nil: none can be.
func (a *App) refusal() func(poolID string) error {
	if a.hosts == nil {
		return nil
	}
	return a.hosts.Refusal
}

// live are the tasks of all daemons that share the ledger; nil: it is this one's alone.
func (a *App) live() func(context.Context) ([]task.Record, error) {
	if a.hosts == nil {
		return nil
	}
	return a.ledger.Live
}

// maySend reports whether clients may be told more of a pool's tasks; nil: always.
func (a *App) maySend() func(poolID string) bool {
	if a.hosts == nil {
		return nil
	}
	return a.hosts.MaySend
}

// takeovers is how many leases a stream that is passed on waits for its task to be taken over.
const takeovers = 4

// passOn puts what passes requests on to the other daemons before the fronts. Where nothing may leave this machine, nothing is passed on.
func (a *App) passOn(before func(func(gate.Front) gate.Front)) error {
	c := a.o.Config
	transport, err := control.HostTransport(c)
	if err != nil || transport == nil {
		return err
	}
	a.cleanup.push("close the connections to the other hosts", func(context.Context) error {
		transport.CloseIdleConnections()
		return nil
	})
	before(forward.New(forward.Options{
		Self: a.owner, Name: control.HostName(c), Hosts: a.hosts, PoolOf: a.schedule.PoolOf, Holder: a.hosts.TaskHolder, Serving: a.fleet.Serving(a.schedule),
		Token: string(c.Token), Transport: transport, Within: gate.DefaultTimeout,
		Lease: c.Hosts.Lease, Patience: takeovers * c.Hosts.Lease, Log: a.o.Log.Named("hosts"),
	}).Before)
	return nil
}
