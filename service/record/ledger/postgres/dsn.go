// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The bounds of what is asked of the database.
const (
	connectWithin = 3 * time.Second
	readWithin    = 30 * time.Second
)

// config reads the DSN. Its errors do not quote it, since it holds a password.
func (o *Options) config() (*pgxpool.Config, error) {
	o.where = "of ledger.postgres"
	if strings.TrimSpace(o.DSN) == "" {
		return nil, &Error{Fault: Unread, Where: o.where, What: "has no DSN", Remedy: "put it into the variable that ledger.postgres.dsn_env names, such as postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full"}
	}
	c, err := pgxpool.ParseConfig(o.DSN)
	if err != nil {
		return nil, &Error{Fault: Unread, Where: o.where, What: "has a DSN that cannot be read", Remedy: "write postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full, with special characters of the password as %XX"} //nolint:gosec // an example
	}
	conn := &c.ConnConfig.Config
	o.where = places(conn)
	if err := o.secure(conn); err != nil {
		return nil, err
	}
	c.MaxConns, c.MinConns = int32(max(o.Connections-1, 1)), 0
	c.ConnConfig.ConnectTimeout = connectWithin
	maps.Copy(conn.RuntimeParams, map[string]string{
		"application_name": "orchestratord", "search_path": quoted(o.Schema), "statement_timeout": strconv.FormatInt(readWithin.Milliseconds(), 10),
		"default_transaction_isolation": "read committed", "client_min_messages": "warning", "timezone": "UTC",
	})
	return c, nil
}

// writing are the settings of the connection that writes. Its statements find each row by an index, whatever the planner knows of tables that were empty
// a moment ago. A daemon that hangs within a commit is not waited for longer than its lease lasts.
func (o Options) writing() map[string]string {
	return map[string]string{
		"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off",
		"idle_in_transaction_session_timeout": strconv.FormatInt(max(o.Lease, time.Second).Milliseconds(), 10),
		"lock_timeout":                        strconv.FormatInt((2 * max(o.Lease, time.Second)).Milliseconds(), 10),
	}
}

// quoted is a name as SQL has it.
func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// places names the hosts and the database.
func places(c *pgconn.Config) string {
	hosts := []string{c.Host + ":" + strconv.Itoa(int(c.Port))}
	for _, f := range c.Fallbacks {
		if at := f.Host + ":" + strconv.Itoa(int(f.Port)); hosts[len(hosts)-1] != at {
			hosts = append(hosts, at)
		}
	}
	return fmt.Sprintf("%s, database %s", strings.Join(hosts, ", "), c.Database)
}

// local reports whether a host is this machine.
func local(host string) bool {
	if strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || host == "localhost" {
		return true
	}
	at, err := netip.ParseAddr(host)
	return err == nil && at.IsLoopback()
}

// secure takes out the ways that would leave this machine without TLS, which libpq's `prefer` has.
func (o Options) secure(c *pgconn.Config) error {
	ways := append([]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}, c.Fallbacks...)
	var kept []*pgconn.FallbackConfig
	hosts := map[string]bool{}
	for _, w := range ways {
		if w.TLSConfig != nil || local(w.Host) {
			kept = append(kept, w)
			hosts[w.Host] = true
		}
	}
	for _, w := range ways {
		if !hosts[w.Host] {
			return &Error{
				Fault: Plain, Where: o.where, What: fmt.Sprintf("would be reached at %s without TLS, so that prompts and the password could be read on the way", w.Host),
				Remedy: "put sslmode=verify-full into the DSN, with sslrootcert=FILE where the certificate is your own",
			}
		}
	}
	c.Host, c.Port, c.TLSConfig, c.Fallbacks = kept[0].Host, kept[0].Port, kept[0].TLSConfig, kept[1:]
	return nil
}

// Secrets are what of a DSN must not be in a log: all of it, and its password in the ways it may be written.
func Secrets(dsn string) []string {
	if dsn == "" {
		return nil
	}
	c, err := pgconn.ParseConfig(dsn)
	if err != nil || c.Password == "" {
		return []string{dsn}
	}
	return []string{dsn, c.Password, url.QueryEscape(c.Password), url.PathEscape(c.Password)}
}
