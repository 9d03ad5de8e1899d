// SPDX-License-Identifier: GPL-3.0-or-later

// Package policy decides about every call that leaves the machine, by an allow list, a deny list and an off switch. It is asked before the call
// and again when the connection is dialled, and writes an audit line for every decision (ORCH-3080).
package policy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/llama-orch/llama-orch/service/task"
)

// Action says what a call is for.
type Action string

// The actions.
const (
	Download Action = "download" // of a model or an engine
	Adapter  Action = "adapter"  // an engine that the configuration or a registered worker names
	Tool     Action = "tool"     // on behalf of a task
)

// Actions lists every action.
func Actions() []Action { return []Action{Download, Adapter, Tool} }

// decision is the result that the audit line and the counter show.
type decision string

const (
	allowed   decision = "allow"
	denied    decision = "deny"
	wouldDeny decision = "would_deny" // a dry run let it go
)

func decisions() []decision { return []decision{allowed, denied, wouldDeny} }

// Rules are the operator's choice. The zero value allows all calls to public addresses.
type Rules struct {
	// Off lets nothing leave the machine. Only loopback remains, under the rules below.
	Off bool
	// Allow and Deny hold rules `[scheme://]host[:port]`. Deny wins. If Allow is empty, everything that is not denied is allowed.
	Allow, Deny []string
	// DryRun reports what the two lists would refuse, and lets it go. The off switch and the guard of addresses still refuse.
	DryRun bool
}

// Options of a Policy.
type Options struct {
	Rules      Rules
	Loopback   bool // loopback addresses need no rule, whatever the action: for tests, and for a mirror on the same machine
	Log        *zap.Logger
	Registerer prometheus.Registerer
	TLS        *tls.Config // of Transport; nil: the system's authorities
	Resolver   Resolver    // nil: the system's
	// Dial connects to an address that was allowed; nil: net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Resolver turns a name into addresses; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Policy decides. It is safe for concurrent use.
type Policy struct {
	rules    atomic.Pointer[ruleSet]
	o        Options
	log      *zap.Logger
	counters map[Action]map[decision]prometheus.Counter // made once, read only
	routine  routine
}

// routine remembers which calls of adapters were allowed. An engine is called every few seconds: only the first line about it is for people;
// later ones are at level debug.
type routine struct {
	mu   sync.Mutex
	seen map[string]bool
}

const maxRoutine = 1024

// again reports whether a call was noted before, and notes it.
func (r *routine) again(target, rule string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := target + " " + rule
	if r.seen[key] {
		return true
	}
	if r.seen == nil || len(r.seen) >= maxRoutine {
		r.seen = map[string]bool{}
	}
	r.seen[key] = true
	return false
}

// Check returns an error that says what is wrong with the rules.
func Check(r Rules) error {
	_, err := compile(r)
	return err
}

// New makes a policy. It refuses rules that it cannot read.
func New(o Options) (*Policy, error) {
	if o.Log == nil || o.Registerer == nil {
		return nil, errors.New("the policy needs a logger and a registerer: a decision that nobody can see is none")
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	p := &Policy{o: o, log: o.Log.Named("policy")}
	if err := p.Replace(o.Rules); err != nil {
		return nil, err
	}
	var err error
	p.counters, err = newCounters(o.Registerer)
	return p, err
}

// Replace puts other rules in force for all later decisions. If something is wrong with them, it returns an error and changes nothing.
func (p *Policy) Replace(r Rules) error {
	set, err := compile(r)
	if err != nil {
		return err
	}
	p.rules.Store(set)
	return nil
}

type actorKey struct{}

// self is the actor of a call that the daemon makes by itself.
const self = "orchestratord"

// WithActor says on whose behalf the calls under ctx are made. The actor is an identity as package gate spells it, never a token. If it is
// empty, the daemon makes them by itself.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

func actorOf(ctx context.Context) string {
	if actor, ok := ctx.Value(actorKey{}).(string); ok && actor != "" {
		return actor
	}
	return self
}

// Decide returns nil if the call may be made. Otherwise it returns POLICY_DENIED, which names the rule and says what to do. Whoever makes a call
// that leaves the process must ask first; Transport and Client do so by themselves.
func (p *Policy) Decide(ctx context.Context, a Action, t Target) error {
	v := verdict{denied, "unknown action", "The actions are download, adapter and tool."}
	if _, known := p.counters[a]; known {
		v = p.rules.Load().request(a, t, p.o.Loopback)
	}
	return p.report(ctx, a, t, v, "request")
}

// verdict is a decision with the rule that made it.
type verdict struct {
	decision decision
	rule     string
	todo     string // what to do about a refusal
}

// report logs and counts a verdict, and turns a refusal into an error.
func (p *Policy) report(ctx context.Context, a Action, t Target, v verdict, stage string) error {
	if counter, ok := p.counters[a][v.decision]; ok {
		counter.Inc()
	}
	level := zapcore.InfoLevel
	switch {
	case v.decision != allowed:
		level = zapcore.WarnLevel
	case a == Adapter && p.routine.again(t.String(), v.rule):
		level = zapcore.DebugLevel
	}
	if line := p.log.Check(level, "an outbound call was decided"); line != nil {
		line.Write(zap.String("actor", actorOf(ctx)), zap.String("action", string(a)), zap.String("target", t.String()),
			zap.String("decision", string(v.decision)), zap.String("rule", v.rule), zap.String("stage", stage))
	}
	if v.decision != denied {
		return nil
	}
	return task.Errorf(task.PolicyDenied, "the policy does not let this server call %s (%s): rule `%s`. %s", t, a, v.rule, v.todo)
}
