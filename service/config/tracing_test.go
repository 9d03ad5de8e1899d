// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-628: a collector's address is one.
func TestACollectorsAddress(t *testing.T) {
	for text, wrong := range map[string]string{
		"": "", "http://127.0.0.1:4318": "", "https://collector.example.org/v1/traces": "",
		"127.0.0.1:4318": "no URL", "grpc://127.0.0.1:4317": "no URL", "http://": "no URL",
		"http://me:hunter2@127.0.0.1:4318": "holds credentials", "http://127.0.0.1:4318?key=1": "more than a path",
	} {
		_, err := Parse("c.yaml", fmt.Appendf(nil, "data_dir: /d\ntracing: {endpoint: %q}\npools:\n  - {id: p, model: {id: m, ref: x}, provisioning: {mode: external, urls: [\"http://127.0.0.1:1\"]}}\n", text),
			func(string) string { return "" })
		if wrong == "" {
			require.NoError(t, err, text)
			continue
		}
		require.ErrorContains(t, err, wrong, text)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
