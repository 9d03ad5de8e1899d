// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

const token = "correct horse battery staple"

func code(t *testing.T, err error) task.Code {
	t.Helper()
	var e *task.Error
	require.ErrorAs(t, err, &e)
	require.NotContains(t, e.Error()+e.Hint, token)
	return e.Code
}

// AUTH-1001, AUTH-1003, AUTH-1004, AUTH-1005, AUTH-1006, AUTH-1007
func TestAuthenticate(t *testing.T) {
	for _, c := range []struct {
		name     string
		opts     AuthOptions
		header   string
		loopback bool
		identity string
		code     task.Code
	}{
		{"token from afar", AuthOptions{Token: token}, "Bearer " + token, false, "token:c4bbcb", ""},
		{"token on loopback", AuthOptions{Token: token, OptionalOnLoopback: true}, "Bearer " + token, true, "token:c4bbcb", ""},
		{"scheme in any case", AuthOptions{Token: token}, "bearer " + token, false, "token:c4bbcb", ""},
		{"none from afar", AuthOptions{Token: token, OptionalOnLoopback: true}, "", false, "", task.MissingToken},
		{"none on loopback, optional", AuthOptions{Token: token, OptionalOnLoopback: true}, "", true, Localhost, ""},
		{"none on loopback, required", AuthOptions{Token: token}, "", true, "", task.MissingToken},
		{"wrong from afar", AuthOptions{Token: token}, "Bearer wrong", false, "", task.BadToken},
		{"wrong on loopback", AuthOptions{Token: token, OptionalOnLoopback: true}, "Bearer wrong", true, "", task.BadToken},
		{"prefix of the token", AuthOptions{Token: token}, "Bearer " + token[:5], false, "", task.BadToken},
		{"empty token", AuthOptions{Token: token}, "Bearer ", false, "", task.BadToken},
		{"another scheme", AuthOptions{Token: token}, "Basic " + token, false, "", task.BadToken},
		{"a token where none is set", AuthOptions{OptionalOnLoopback: true}, "Bearer x", true, Localhost, ""},
		{"an empty token where none is set", AuthOptions{OptionalOnLoopback: true}, "Bearer ", true, Localhost, ""},
		{"another scheme where none is set", AuthOptions{OptionalOnLoopback: true}, "Basic dXNlcjpwYXNz", true, Localhost, ""},
		{"a token where none is set, from afar", AuthOptions{OptionalOnLoopback: true}, "Bearer x", false, "", task.MissingToken},
		{"none set, from afar", AuthOptions{OptionalOnLoopback: true}, "", false, "", task.MissingToken},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := NewAuth(c.opts)
			require.NoError(t, err)
			id, err := a.Authenticate(c.header, c.loopback)
			if c.code == "" {
				require.NoError(t, err)
				require.Equal(t, c.identity, id)
				return
			}
			require.Equal(t, c.code, code(t, err))
			require.Empty(t, id)
		})
	}
}

// A credential that means nothing does not lift what guards a caller without one.
//
// AUTH-1003, AUTH-1008, LO-824
func TestACredentialIsNoneWhereNoTokenIsSet(t *testing.T) {
	a, err := NewAuth(AuthOptions{OptionalOnLoopback: true})
	require.NoError(t, err)
	for name, c := range map[string]struct {
		host   string
		header string
		value  string
		always bool
		code   task.Code
	}{
		"a client with a dummy key": {host: "127.0.0.1:8080"},
		"DNS rebinding":             {host: "evil.example:8080", code: task.PolicyDenied},
		"a page of another site":    {host: "127.0.0.1:8080", header: "Origin", value: "https://evil.example", code: task.PolicyDenied},
		"a proxy":                   {host: "127.0.0.1:8080", header: "X-Forwarded-For", value: "10.0.0.7", code: task.PolicyDenied},
		"worker registration":       {host: "127.0.0.1:8080", always: true, code: task.MissingToken},
	} {
		r := httptest.NewRequest(http.MethodPost, "/v1/tasks", nil)
		r.RemoteAddr, r.Host = "127.0.0.1:5000", c.host
		r.Header.Set("Authorization", "Bearer sk-dummy")
		if c.header != "" {
			r.Header.Set(c.header, c.value)
		}
		id, err := a.Check(r, c.always)
		if c.code == "" {
			require.NoError(t, err, name)
			require.Equal(t, Localhost, id)
			continue
		}
		require.Equal(t, c.code, code(t, err), name)
	}
}

// AUTH-1005, AUTH-1006
func TestNumericCodesAreInTheHint(t *testing.T) {
	a, err := NewAuth(AuthOptions{Token: token})
	require.NoError(t, err)
	_, err = a.Authenticate("", false)
	require.True(t, strings.HasPrefix(task.AsError(err).Hint, "40101"))
	_, err = a.Authenticate("Bearer no", false)
	require.True(t, strings.HasPrefix(task.AsError(err).Hint, "40102"))
}

// AUTH-1002, HME-002
func TestRequireToken(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:8080", "localhost:8080", "[::1]:8080", "127.8.9.1:80", "[::ffff:127.0.0.1]:80"} {
		require.NoError(t, RequireToken(addr, ""), addr)
	}
	for _, addr := range []string{":8080", "0.0.0.0:8080", "[::]:8080", "192.168.1.2:8080", "example.com:80", "localhost.example.com:80", ""} {
		require.ErrorContains(t, RequireToken(addr, ""), "LLORCH_API_TOKEN", addr)
		require.NoError(t, RequireToken(addr, token), addr)
	}
	_, err := NewAuth(AuthOptions{})
	require.ErrorContains(t, err, "LLORCH_API_TOKEN")
}

// AUTH-1003, AUTH-1008, LO-824
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name    string
		remote  string
		host    string
		headers map[string]string
		always  bool
		code    task.Code
	}{
		{name: "plain", remote: "127.0.0.1:5000", host: "127.0.0.1:8080"},
		{name: "IPv6", remote: "[::1]:5000", host: "[::1]:8080"},
		{name: "by name", remote: "127.0.0.1:5000", host: "localhost:8080"},
		{name: "own page", remote: "127.0.0.1:5000", host: "localhost:8080", headers: map[string]string{"Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin"}},
		{name: "a header cannot claim loopback", remote: "10.0.0.7:5000", host: "localhost", headers: map[string]string{"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"}, code: task.MissingToken},
		{name: "worker registration", remote: "127.0.0.1:5000", host: "localhost", always: true, code: task.MissingToken},
		{name: "DNS rebinding", remote: "127.0.0.1:5000", host: "evil.example:8080", code: task.PolicyDenied},
		{name: "no host", remote: "127.0.0.1:5000", code: task.PolicyDenied},
		{name: "a proxy on this machine", remote: "127.0.0.1:5000", host: "127.0.0.1:8080", headers: map[string]string{"X-Forwarded-For": "10.0.0.7"}, code: task.PolicyDenied},
		{name: "another proxy", remote: "127.0.0.1:5000", host: "127.0.0.1:8080", headers: map[string]string{"Forwarded": "for=10.0.0.7"}, code: task.PolicyDenied},
		{name: "one that says only its own name", remote: "127.0.0.1:5000", host: "localhost", headers: map[string]string{"Via": "1.1 proxy"}, code: task.PolicyDenied},
		{name: "one that names the client alone", remote: "127.0.0.1:5000", host: "localhost", headers: map[string]string{"X-Real-IP": "10.0.0.7"}, code: task.PolicyDenied},
		{name: "a proxy with the token", remote: "127.0.0.1:5000", host: "box.lan", headers: map[string]string{"X-Forwarded-For": "10.0.0.7", "Authorization": "Bearer " + token}},
		{name: "foreign origin", remote: "127.0.0.1:5000", host: "localhost:8080", headers: map[string]string{"Origin": "https://evil.example"}, code: task.PolicyDenied},
		{name: "other local origin", remote: "127.0.0.1:5000", host: "localhost:8080", headers: map[string]string{"Origin": "http://localhost:3000"}, code: task.PolicyDenied},
		{name: "opaque origin", remote: "127.0.0.1:5000", host: "localhost:8080", headers: map[string]string{"Origin": "null"}, code: task.PolicyDenied},
		{name: "cross-site load", remote: "127.0.0.1:5000", host: "localhost:8080", headers: map[string]string{"Sec-Fetch-Site": "cross-site"}, code: task.PolicyDenied},
		{name: "a token lifts it", remote: "127.0.0.1:5000", host: "box.lan", headers: map[string]string{"Origin": "https://page.lan", "Authorization": "Bearer " + token}},
		{name: "wrong token on loopback", remote: "127.0.0.1:5000", host: "localhost", headers: map[string]string{"Authorization": "Bearer x"}, code: task.BadToken},
		{name: "unknown remote", remote: "@", host: "localhost", code: task.MissingToken},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := NewAuth(AuthOptions{Token: token, OptionalOnLoopback: true})
			require.NoError(t, err)
			r := httptest.NewRequest(http.MethodPost, "/v1/tasks", nil)
			r.RemoteAddr, r.Host = c.remote, c.host
			for k, v := range c.headers {
				r.Header.Set(k, v)
			}
			_, err = a.Check(r, c.always)
			if c.code == "" {
				require.NoError(t, err)
				return
			}
			require.Equal(t, c.code, code(t, err))
		})
	}
}
