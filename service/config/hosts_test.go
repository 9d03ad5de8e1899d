// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// LO-713: hosts needs a database, and an address that others reach has TLS.
func TestHowAHostShowsItself(t *testing.T) {
	parse := func(database bool, hosts string) (Config, error) {
		ledger := ""
		if database {
			ledger = "ledger: {postgres: {dsn_env: DSN}}\n"
		}
		return Parse("c.yaml", fmt.Appendf(nil, "data_dir: /d\n%s%s\npools:\n  - {id: p, model: {id: m, ref: x}, provisioning: {mode: external, urls: [\"http://127.0.0.1:1\"]}}\n", ledger, hosts),
			func(string) string { return "" })
	}
	c, err := parse(false, "")
	require.NoError(t, err)
	require.Equal(t, Hosts{Lease: 5 * time.Second}, c.Hosts)
	c, err = parse(true, "hosts: {name: attic, address: \"https://attic.lan:8443/\", lease: 10s, ca: root.pem}")
	require.NoError(t, err)
	require.Equal(t, "https://attic.lan:8443", c.Hosts.Address)
	require.Equal(t, 10*time.Second, c.Hosts.Lease)
	for _, address := range []string{"http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"} {
		_, err = parse(true, fmt.Sprintf("hosts: {address: %q}", address))
		require.NoError(t, err, address)
	}
	_, err = parse(false, "hosts: {name: attic}")
	require.ErrorContains(t, err, "ledger.postgres is not")
	for hosts, wrong := range map[string]string{
		"lease: 10ms": "hosts.lease is 10ms", "lease: 1h": "hosts.lease is 1h", `address: "attic.lan:8443"`: "no address", `address: "ftp://a"`: "no address",
		`address: "https://a/v1"`: "no address", `address: "https://u:p@a"`: "no address", `address: "http://attic.lan:8080"`: "no TLS", `address: "http://10.0.0.7:8080"`: "no TLS",
	} {
		_, err = parse(true, "hosts: {"+hosts+"}")
		require.ErrorContains(t, err, wrong, hosts)
	}
}
