// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-640: a certificate and its key belong together, and are looked for beside the file.
func TestTLSOfAConfiguration(t *testing.T) {
	dir := t.TempDir()
	load := func(line string) (Config, error) {
		at := filepath.Join(dir, "c.yaml")
		require.NoError(t, os.WriteFile(at, []byte("data_dir: /tmp/data\n"+line+"\npools: [{id: a, model: {ref: file:a.gguf}}]\n"), 0o600))
		return Load(at, func(string) string { return "" })
	}
	c, err := load("tls: {cert: a.pem, key: /etc/b.pem}")
	require.NoError(t, err)
	require.Equal(t, TLS{Cert: filepath.Join(dir, "a.pem"), Key: "/etc/b.pem"}, c.TLS)
	require.Contains(t, c.Describe(), "with TLS;")
	_, err = load("tls: {cert: a.pem}")
	require.ErrorContains(t, err, "set both tls.cert and tls.key")
	c, err = load("")
	require.NoError(t, err)
	require.Empty(t, c.TLS)
}
