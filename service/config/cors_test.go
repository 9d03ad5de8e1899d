// SPDX-License-Identifier: GPL-3.0-or-later

package config_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-829
func TestOriginsOfPages(t *testing.T) {
	t.Parallel()
	require.Empty(t, parse(t, minimal).CORS.Origins)
	require.Equal(t, []string{"*"}, parse(t, "cors: {origins: ['*']}\n"+minimal).CORS.Origins)
	for origin, want := range map[string]string{
		"http://a.lan": "http://a.lan", "HTTPS://A.lan:8443": "https://a.lan:8443", "http://a.lan:80": "http://a.lan", "http://[::1]:3000": "http://[::1]:3000",
		"http://127.0.0.1:3000": "http://127.0.0.1:3000", "chrome-extension://abcdef": "chrome-extension://abcdef",
	} {
		require.Equal(t, []string{want}, parse(t, "cors: {origins: ['"+origin+"']}\n"+minimal).CORS.Origins)
	}
	for _, origin := range []string{
		"a.lan", "http://a.lan/", "http://a.lan/page", "http://u:p@a.lan", "http://a.lan?x", "http://a.lan#x", "http://*.a.lan", "null", "http://", "//a.lan", "http://a b",
	} {
		found := problems(t, "cors: {origins: ['"+origin+"']}\n"+minimal)
		require.Len(t, found, 1, origin)
		require.Contains(t, found[0].What, "no origin of a web page", origin)
	}
	found := problems(t, "cors: {origins: ['http://a.lan', '*']}\n"+minimal)
	require.Len(t, found, 1)
	require.Contains(t, found[0].What, "beside other origins")
}
