// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const page = "http://homeassistant.local:8123"

func withOrigins(t *testing.T, origins ...string) func(*Options) {
	t.Helper()
	auth, err := NewAuth(AuthOptions{Token: token, OptionalOnLoopback: true, Origins: origins})
	require.NoError(t, err)
	return func(o *Options) { o.Auth = auth }
}

// cors are the headers of CORS that an answer has.
func corsOf(h http.Header) (names []string) {
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			names = append(names, name)
		}
	}
	return names
}

// LO-829
func TestPreflights(t *testing.T) {
	front := &dialect{name: "native", route: Route{Methods: []string{"GET", "POST"}}}
	for _, c := range []struct {
		name    string
		origins []string
		origin  string
		status  int
		allowed string // Access-Control-Allow-Origin
	}{
		{"none is configured", nil, page, 403, ""},
		{"one that is named", []string{"https://a.lan", page}, page, 204, page},
		{"another", []string{page}, "http://evil.example", 403, ""},
		{"another scheme", []string{page}, "https://homeassistant.local:8123", 403, ""},
		{"another port", []string{page}, "http://homeassistant.local", 403, ""},
		{"one that ends like it", []string{"http://a.lan"}, "http://not.a.lan", 403, ""},
		{"a page without an origin", []string{page}, "null", 403, ""},
		{"any", []string{"*"}, "http://evil.example", 204, "*"},
		{"any, without an origin", []string{"*"}, "null", 204, "*"},
		{"a star from outside", []string{page}, "*", 403, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGate(t, map[string]Front{"/": front}, withOrigins(t, c.origins...))
			res, body := ask(g, http.MethodOptions, "/v1/tasks", "", "Origin", c.origin, "Access-Control-Request-Method", "POST",
				"Access-Control-Request-Headers", "authorization,content-type", "Access-Control-Request-Private-Network", "true")
			require.Equal(t, c.status, res.StatusCode)
			require.NotEmpty(t, res.Header.Get(CorrelationHeader))
			require.Equal(t, c.allowed, res.Header.Get("Access-Control-Allow-Origin"))
			require.Empty(t, res.Header.Get("Access-Control-Allow-Credentials"))
			if c.status == http.StatusForbidden {
				require.Equal(t, "native POLICY_DENIED", body)
				require.Empty(t, corsOf(res.Header))
				return
			}
			require.Equal(t, "GET, HEAD, OPTIONS, POST", res.Header.Get("Access-Control-Allow-Methods"))
			require.Contains(t, res.Header.Get("Access-Control-Allow-Headers"), "Authorization, Content-Type, ")
			require.Equal(t, "600", res.Header.Get("Access-Control-Max-Age"))
			require.Equal(t, "true", res.Header.Get("Access-Control-Allow-Private-Network"))
			require.Contains(t, res.Header.Values("Vary"), "Origin")
		})
	}
}

// The preflights of the official SDKs in a browser, as Chrome writes them, and of one that lists User-Agent as Firefox does.
//
// LO-829
func TestPreflightsOfSDKs(t *testing.T) {
	const stainless = "x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime," +
		"x-stainless-runtime-version,x-stainless-timeout"
	front := &dialect{name: "openai", route: Route{Methods: []string{"POST"}}}
	preflight := func(origins, asked string) *http.Response {
		g := newGate(t, map[string]Front{"/": front}, withOrigins(t, origins))
		res, _ := ask(g, http.MethodOptions, "/v1/chat/completions", "", "Origin", page, "Access-Control-Request-Method", "POST",
			"Access-Control-Request-Headers", asked)
		return res
	}
	for name, asked := range map[string]string{
		"openai":                 "authorization,content-type,openai-organization,openai-project," + stainless,
		"openai, a stream":       "authorization,content-type,openai-beta,x-stainless-helper-method," + stainless,
		"openai with a key":      "authorization,content-type,idempotency-key," + stainless,
		"openai in Firefox":      "authorization,content-type,user-agent," + stainless,
		"anthropic":              "anthropic-dangerous-direct-browser-access,anthropic-version,content-type,x-api-key," + stainless,
		"anthropic, a beta":      "anthropic-beta,anthropic-dangerous-direct-browser-access,anthropic-version,authorization,content-type,x-api-key," + stainless,
		"ollama":                 "authorization,content-type",
		"vercel":                 "authorization, content-type, user-agent",
		"written with capitals":  "Authorization, Content-Type, X-Stainless-Lang, OpenAI-Project",
		"nothing but what it is": "",
	} {
		for _, origins := range []string{page, AnyOrigin} {
			res := preflight(origins, asked)
			require.Equal(t, http.StatusNoContent, res.StatusCode, name)
			allowed := map[string]bool{"": true}
			for one := range strings.SplitSeq(res.Header.Get("Access-Control-Allow-Headers"), ",") {
				allowed[strings.ToLower(strings.TrimSpace(one))] = true
			}
			for one := range strings.SplitSeq(asked, ",") {
				require.True(t, allowed[strings.ToLower(strings.TrimSpace(one))], "%s: %s", name, one)
			}
		}
	}
	other := preflight(page, "authorization,x-evil,x-stainless-a b,x-stainless-\"q\",cookie,xopenai-a").Header.Get("Access-Control-Allow-Headers")
	require.Equal(t, sendable, other, "what nobody sends is not allowed")
	require.Less(t, len(preflight(page, strings.Repeat("x-stainless-a,", 1000)).Header.Get("Access-Control-Allow-Headers")), len(sendable)+maxSendable*20)
	require.Empty(t, corsOf(preflight("https://a.lan", "authorization,"+stainless).Header), "another page hears nothing")
}

// A page of an allowed origin can read every answer, also a refusal; nobody else can.
//
// LO-829
func TestPagesReadAnswers(t *testing.T) {
	front := &dialect{name: "native"}
	front.serve = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Access-Control-Expose-Headers", "X-Correlation-Id") // as gen's encoders do, for any page
		w.WriteHeader(http.StatusTeapot)
	}
	for _, c := range []struct {
		name    string
		origins []string
		header  []string
		status  int
		allowed string
	}{
		{"nobody asks", nil, nil, 418, ""},
		{"no page", []string{page}, nil, 418, ""},
		{"a named page on loopback needs no token", []string{page}, []string{"Origin", page, "Sec-Fetch-Site", "cross-site"}, 418, page},
		{"its bad token is told to it", []string{page}, []string{"Origin", page, "Authorization", "Bearer x"}, 401, page},
		{"another page without a token", []string{page}, []string{"Origin", "http://evil.example"}, 403, ""},
		{"another page with the token", []string{page}, []string{"Origin", "http://evil.example", "Authorization", "Bearer " + token}, 418, ""},
		{"any page with the token", []string{"*"}, []string{"Origin", page, "Authorization", "Bearer " + token}, 418, "*"},
		{"any page without it", []string{"*"}, []string{"Origin", page}, 403, "*"},
		{"any page without it, from a frame without an origin", []string{"*"}, []string{"Origin", "null"}, 403, "*"},
		{"a load of another site that names no origin", []string{page}, []string{"Sec-Fetch-Site", "cross-site"}, 403, ""},
		{"a named page behind a proxy", []string{page}, []string{"Origin", page, "X-Forwarded-For", "10.0.0.7"}, 403, page},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGate(t, map[string]Front{"/": front}, withOrigins(t, c.origins...))
			res, _ := ask(g, http.MethodPost, "/v1/tasks", "", c.header...)
			require.Equal(t, c.status, res.StatusCode)
			require.Equal(t, c.allowed, res.Header.Get("Access-Control-Allow-Origin"))
			require.Empty(t, res.Header.Get("Access-Control-Allow-Credentials"))
			if len(c.origins) > 0 {
				require.Equal(t, "Origin", res.Header.Get("Vary"))
			} else {
				require.Empty(t, res.Header.Values("Vary"))
			}
			if c.allowed == "" {
				require.Empty(t, corsOf(res.Header))
				return
			}
			for _, name := range []string{
				CorrelationHeader, "Retry-After", "X-Backoff-Ms", "X-Task-Id", "X-Queue-Position", "X-Request-Id", "Request-Id", "Retry-After-Ms", "X-Should-Retry",
			} {
				require.Contains(t, res.Header.Get("Access-Control-Expose-Headers"), name)
			}
		})
	}
	g := newGate(t, map[string]Front{"/": front}, withOrigins(t, page))
	_, err := g.o.Auth.Check(&http.Request{RemoteAddr: "127.0.0.1:1", Host: "evil.example", Header: http.Header{"Origin": {page}}}, false)
	require.Error(t, err, "the name of an origin does not help a name that leads here by rebinding")
}

// LO-828
func TestOptionsWithoutAPage(t *testing.T) {
	front := &dialect{name: "native", route: Route{Methods: []string{"POST", "GET"}}}
	g := newGate(t, map[string]Front{"/": front}, withOrigins(t))
	for _, c := range []struct {
		target, allow string
		header        []string
	}{
		{"/v1/tasks", "GET, HEAD, OPTIONS, POST", nil},
		{"/v1/tasks", "GET, HEAD, OPTIONS, POST", []string{"Origin", "http://evil.example"}},
		{"*", everyMethod, nil},
	} {
		front.route.Methods = []string{"POST", "GET"}
		if c.target == "*" {
			front.route.Methods = nil
		}
		res, body := ask(g, http.MethodOptions, c.target, "", c.header...)
		require.Equal(t, http.StatusNoContent, res.StatusCode)
		require.Equal(t, c.allow, res.Header.Get("Allow"))
		require.Empty(t, body)
		require.Empty(t, corsOf(res.Header))
	}
	require.Equal(t, "OPTIONS, POST", Allow([]string{"POST"}))
}

// LO-828
func TestAFrontSeesPlainRequests(t *testing.T) {
	var method, path, raw string
	var head bool
	front := &dialect{name: "native"}
	front.serve = func(_ http.ResponseWriter, r *http.Request) {
		method, path, raw, head = r.Method, r.URL.Path, r.URL.EscapedPath(), CallFrom(r.Context()).Head
	}
	g := newGate(t, map[string]Front{"/": front})
	for _, c := range []struct {
		method, target  string
		path, raw, seen string
	}{
		{"HEAD", "/v1/tasks", "/v1/tasks", "/v1/tasks", "GET"},
		{"GET", "/v1/tasks/", "/v1/tasks", "/v1/tasks", "GET"},
		{"POST", "/v1/tasks/?a=b/", "/v1/tasks", "/v1/tasks", "POST"},
		{"GET", "/v1/tasks//", "/v1/tasks/", "/v1/tasks/", "GET"},
		{"GET", "/", "/", "/", "GET"},
		{"GET", "/v1/tasks/a%2Fb/", "/v1/tasks/a/b", "/v1/tasks/a%2Fb", "GET"},
		{"GET", "/v1/tasks/a%2F", "/v1/tasks/a/", "/v1/tasks/a%2F", "GET"},
	} {
		ask(g, c.method, c.target, "")
		require.Equal(t, []any{c.seen, c.path, c.raw, c.method == "HEAD"}, []any{method, path, raw, head}, c.target)
	}
}
