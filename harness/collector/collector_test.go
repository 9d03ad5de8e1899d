// SPDX-License-Identifier: GPL-3.0-or-later

package collector_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/collector"
)

func TestWhatIsNoExport(t *testing.T) {
	c := collector.New()
	for _, path := range []string{"/v1/traces", "/v1/metrics"} {
		w := httptest.NewRecorder()
		c.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader("{}")))
		require.Equal(t, http.StatusBadRequest, w.Code)
	}
	require.Empty(t, c.Spans())
}
