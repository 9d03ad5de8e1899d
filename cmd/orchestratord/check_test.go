// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/harness/cert"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// LO-640: `check` warns of a certificate that ends, and takes it.
func TestCheckWarnsOfACertificate(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	file := filepath.Join(dir, "c.yaml")
	require.NoError(t, os.WriteFile(file, []byte("tls: {cert: cert.pem, key: key.pem}\nauth: {optional_on_loopback: true}\npools: [{id: a, engine: vllm, model: {id: m, ref: hf:a/b}, provisioning: {mode: external, urls: [\"http://127.0.0.1:1\"]}}]\n"), 0o600))
	for _, test := range []struct {
		to   time.Duration
		want string
	}{{-time.Hour, "has expired on"}, {10 * 24 * time.Hour, "expires on"}, {60 * 24 * time.Hour, ""}} {
		_, _, err := cert.WriteFor(dir, "box", now.Add(-48*time.Hour), now.Add(test.to))
		require.NoError(t, err)
		text, code := output(t, "check", "--config", file)
		require.Zero(t, code)
		require.Contains(t, text, "with TLS")
		c, err := config.Load(file, os.Getenv)
		require.NoError(t, err)
		warning := control.Warning(c, now)
		require.Equal(t, test.want == "", warning == "")
		require.Contains(t, warning, test.want)
	}
}
