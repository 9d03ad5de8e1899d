// SPDX-License-Identifier: GPL-3.0-or-later

package sdk_test

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/sdk"
)

// LO-640: a server whose certificate a file names is trusted, and no other.
func TestAServerWithACertificateOfItsOwn(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"status":"ok"}`))
	}))
	defer server.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	client, err := sdk.New(sdk.Options{Addr: server.URL, CAFile: file})
	require.NoError(t, err)
	defer client.Close()
	health, err := client.Alive(t.Context())
	require.NoError(t, err)
	require.Equal(t, sdk.HealthStatusOK, health.Status)

	stranger, err := sdk.New(sdk.Options{Addr: server.URL})
	require.NoError(t, err)
	defer stranger.Close()
	_, err = stranger.Alive(t.Context())
	var unreachable *sdk.UnreachableError
	require.ErrorAs(t, err, &unreachable)

	_, err = sdk.New(sdk.Options{Addr: server.URL, CAFile: filepath.Join(dir, "gone")})
	require.ErrorContains(t, err, "cannot be read")
	require.NoError(t, os.WriteFile(file, []byte("nothing"), 0o600))
	_, err = sdk.New(sdk.Options{Addr: server.URL, CAFile: file})
	require.ErrorContains(t, err, "holds no certificate")
}
