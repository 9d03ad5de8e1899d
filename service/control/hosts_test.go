// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
)

// LO-713: what is announced is what is configured, or where the daemon listens if the token may go there.
func TestTheAddressOfAHost(t *testing.T) {
	secure := config.TLS{Cert: "c", Key: "k"}
	for _, c := range []struct {
		hosts   config.Hosts
		tls     config.TLS
		listens string
		want    string
	}{
		{listens: "127.0.0.1:8080", want: "http://127.0.0.1:8080"},
		{listens: "[::1]:8080", want: "http://[::1]:8080"},
		{listens: "192.168.1.2:8080"},
		{listens: "[::]:8080"},
		{listens: "192.168.1.2:8443", tls: secure, want: "https://192.168.1.2:8443"},
		{listens: "[::]:8443", hosts: config.Hosts{Address: "https://attic:1"}, want: "https://attic:1"},
	} {
		require.Equal(t, c.want, HostAddress(config.Config{Hosts: c.hosts, TLS: c.tls}, c.listens), c.listens)
	}
	require.NotEmpty(t, HostName(config.Config{}))
	require.Equal(t, "attic", HostName(config.Config{Hosts: config.Hosts{Name: "attic"}}))
}

// LO-717
func TestABudgetOfATokenIsNotShared(t *testing.T) {
	require.Empty(t, Alone(config.Config{Budgets: config.Budgets{Session: config.Budget{Tokens: 1}}}))
	for _, b := range []config.TokenBudget{{Tokens: 1}, {TimeMS: 1}, {Cost: 1}, {Joules: 1}} {
		require.Contains(t, Alone(config.Config{Budgets: config.Budgets{Token: b}}), "budgets.token")
	}
}
