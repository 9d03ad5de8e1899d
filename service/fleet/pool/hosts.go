// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// hostWithin is how long another host may take to accept a connection.
const hostWithin = 2 * time.Second

// hostWait bounds the wait for a host that is away: to look for it costs little.
const hostWait = 5 * time.Second

// reach connects to another host and hangs up again. The policy about outbound calls may refuse it.
func (m *Manager) reach(ctx context.Context, host string) error {
	ctx, stop := awake.WithTimeout(ctx, hostWithin)
	defer stop()
	var conn net.Conn
	var err error
	if out := m.opts.Outbound; out != nil {
		conn, err = out.Dial(ctx, &url.URL{Scheme: "tcp", Host: host})
	} else {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", host)
	}
	if err != nil {
		return err
	}
	return conn.Close()
}

// away returns those of the hosts that take no connection.
func (m *Manager) away(hosts []string) (away []string) {
	for _, host := range hosts {
		if m.reach(m.run, host) != nil {
			away = append(away, host)
		}
	}
	return away
}

// hosts checks, before a worker starts, that the hosts that are to compute a part may be called and are there: llama-server would end
// without saying whose fault it is, or wait (LO-471).
func (r *replica) hosts(ctx context.Context) error {
	for _, host := range r.spec.Hosts {
		err := r.m.reach(ctx, host)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case task.HasCode(err, task.PolicyDenied):
			return &loss{reason: refused, fixed: true, err: r.typed(err)}
		case err != nil:
			return &loss{reason: hostLost, detail: hostAway([]string{host}), err: err}
		}
	}
	return nil
}

func hostAway(hosts []string) string {
	return fmt.Sprintf("%s, of the pool's `rpc`, takes no connection: start ggml-rpc-server there, or look at the network in between", strings.Join(hosts, " and "))
}

// hostAdvice says which host to look at after a worker was lost for one.
func (m *Manager) hostAdvice(hosts []string) string {
	if away := m.away(hosts); len(away) > 0 {
		return hostAway(away)
	}
	return fmt.Sprintf("the connection to one of the hosts of `rpc` broke off, or what answered there is no ggml-rpc-server of the same version; all of them take connections again (%s)", strings.Join(hosts, ", "))
}

// shares is what the worker has said that it takes of other hosts.
func (r *replica) shares(w *worker) []engine.Share {
	if len(r.spec.Hosts) == 0 || w.proc == nil || r.kind.Start.Shares == nil {
		return nil
	}
	return r.kind.Start.Shares(w.proc.Noted())
}

// notes returns what tells which of a worker's lines are kept for shares; nil: none.
func (r *replica) notes() func(line string) bool {
	read := r.kind.Start.Shares
	if len(r.spec.Hosts) == 0 || read == nil {
		return nil
	}
	return func(line string) bool { return len(read([]string{line})) > 0 }
}
