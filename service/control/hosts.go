// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/task"
)

// Hosts are the daemons that share the ledger.
type Hosts struct {
	Here string // the id of this one
	// All are those that share it, as they are now; nil: this one has it for itself.
	All func(ctx context.Context) ([]task.Host, error)
	// Self is this one, since it is alone.
	Self func() task.Host
}

// Hosts implements api.Pools.
func (f views) Hosts(ctx context.Context) ([]api.SharerView, error) {
	all := []task.Host{}
	if f.hosts.All == nil {
		self := f.hosts.Self()
		self.Up, self.Seen = true, f.now()
		for i := range self.Pools {
			self.Pools[i].Holds = true
		}
		all = append(all, self)
	} else {
		var err error
		if all, err = f.hosts.All(ctx); err != nil {
			return nil, task.Errorf(task.LedgerUnavailable, "the database does not say which hosts share it: try again in a moment; the orchestrator's log has the cause").
				Retry(time.Second).Because(err)
		}
	}
	views := make([]api.SharerView, len(all))
	for i, h := range all {
		v := api.SharerView{ID: h.ID, Name: h.Name, Address: h.Address, Version: h.Version, Here: h.ID == f.hosts.Here, Up: h.Up, Since: h.Since, Seen: h.Seen}
		for _, p := range h.Pools {
			v.Pools = append(v.Pools, api.SharedPoolView{ID: p.ID, Engine: p.Engine, ModelID: p.Model, Digest: p.Digest, Holds: p.Holds && h.Up})
		}
		views[i] = v
	}
	return views, nil
}

// Serving says which pools of this daemon a model's name means.
func (f Fleet) Serving(s *scheduler.Scheduler) func(model string) []string {
	named := candidates{f, s, &slowness{}}
	return func(model string) (pools []string) {
		now := f.config()
		q, err := named.resolve(now, task.Request{ModelRef: model})
		if err != nil {
			return nil
		}
		for _, p := range serving(now, q.ModelRef) {
			pools = append(pools, p.ID)
		}
		return pools
	}
}

// dialWithin is how long another host has to take a connection.
const dialWithin = 3 * time.Second

// HostTransport is the way to the other hosts; nil: the policy lets nothing leave this machine.
func HostTransport(c config.Config) (*http.Transport, error) {
	if c.Policy.Outbound == "off" {
		return nil, nil
	}
	t := &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialWithin}).DialContext, TLSHandshakeTimeout: dialWithin, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 64,
		DisableCompression: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if c.Hosts.CA == "" {
		return t, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	pem, err := os.ReadFile(c.Hosts.CA)
	if err != nil {
		return nil, fmt.Errorf("read hosts.ca: %w", err)
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read hosts.ca: %s has no certificate in PEM's form", c.Hosts.CA)
	}
	t.TLSClientConfig.RootCAs = roots
	return t, nil
}

// HostPools are the pools as this daemon announces them to those that share its ledger, those too that are no longer configured but still have tasks.
func (f Fleet) HostPools() []task.HostPool {
	served := f.served()
	pools := make([]task.HostPool, len(served))
	for i, p := range served {
		pools[i] = task.HostPool{ID: p.ID, Engine: p.Engine, Model: p.Model.ID, Ref: p.Model.Canonical, Digest: cmp.Or(f.summary(p).digest, p.Model.Digest)}
	}
	return pools
}

// Alone says why a daemon with this configuration cannot share its ledger with others; empty: it can (LO-717).
func Alone(c config.Config) string {
	if t := c.Budgets.Token; t.Tokens > 0 || t.TimeMS > 0 || t.Cost > 0 || t.Joules > 0 {
		return "budgets.token is set, and each host would let it be spent once: leave it out, or stop the other host"
	}
	return ""
}

// HostName is what this daemon is called among those that share its ledger.
func HostName(c config.Config) string {
	name := c.Hosts.Name
	if name == "" {
		name, _ = os.Hostname()
	}
	return cmp.Or(name, "localhost")
}

// HostAddress is where the others reach this daemon, which listens at an address; empty: nowhere that is safe. Where the configuration says nothing, it is that address,
// if it is this machine's alone or has TLS.
func HostAddress(c config.Config, listens string) string {
	if c.Hosts.Address != "" {
		return c.Hosts.Address
	}
	host, port, err := net.SplitHostPort(listens)
	if err != nil {
		return ""
	}
	ip := net.ParseIP(host)
	if ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return ""
		}
	}
	scheme := "http"
	if c.TLS.Cert != "" {
		scheme = "https"
	}
	if scheme == "http" && (ip == nil || !ip.IsLoopback()) {
		return ""
	}
	return (&url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}).String()
}
