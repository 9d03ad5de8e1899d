// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// window is a browser that shows a page of the server.
type window struct {
	auth *Auth
	now  time.Time
}

func newWindow(t *testing.T, secret string) *window {
	w := &window{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	var err error
	w.auth, err = NewAuth(AuthOptions{Token: secret, OptionalOnLoopback: secret == "", Now: func() time.Time { return w.now }})
	require.NoError(t, err)
	return w
}

// sends is a request from another machine, as the page sends it.
func sends(method string, cookie *http.Cookie, header ...string) *http.Request {
	r := httptest.NewRequest(method, "http://box:8080/v1/tasks", nil)
	r.RemoteAddr = "192.0.2.7:5000"
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if cookie != nil {
		r.AddCookie(cookie)
	}
	return r
}

var own = []string{"Origin", "http://box:8080", "Sec-Fetch-Site", "same-origin"}

func (w *window) login(t *testing.T) *http.Cookie {
	c, err := w.auth.Login(sends(http.MethodPost, nil, own...), token)
	require.NoError(t, err)
	return c
}

// LO-604: a cookie stands for the token until its time is over, it was ended, or the token is another one. It holds no token.
func TestACookieStandsForTheToken(t *testing.T) {
	w := newWindow(t, token)
	c := w.login(t)
	require.True(t, c.HttpOnly)
	require.Equal(t, http.SameSiteStrictMode, c.SameSite)
	require.False(t, c.Secure, "the request came by plain HTTP")
	require.NotContains(t, c.Value, token)
	id, err := w.auth.Check(sends(http.MethodGet, c), false)
	require.NoError(t, err)
	require.Equal(t, w.auth.Identity(), id)

	_, err = w.auth.Check(sends(http.MethodGet, c), true)
	require.Equal(t, task.MissingToken, code(t, err), "what always needs the token takes no cookie")
	_, err = w.auth.Check(sends(http.MethodGet, c, "Authorization", "Bearer wrong"), false)
	require.Equal(t, task.BadToken, code(t, err), "a credential counts before the cookie")

	restarted := newWindow(t, token)
	_, err = restarted.auth.Check(sends(http.MethodGet, c), false)
	require.NoError(t, err, "it outlives a restart")
	_, err = newWindow(t, token+"2").auth.Check(sends(http.MethodGet, c), false)
	require.Equal(t, task.MissingToken, code(t, err), "another token ends it")

	w.now = c.Expires.Add(-time.Second)
	_, err = w.auth.Check(sends(http.MethodGet, c), false)
	require.NoError(t, err)
	w.now = c.Expires
	_, err = w.auth.Check(sends(http.MethodGet, c), false)
	require.Equal(t, task.MissingToken, code(t, err), "its time is over, whatever the browser keeps")

	tls := sends(http.MethodPost, nil, append(own, "X-Forwarded-Proto", "https")...)
	secure, err := w.auth.Login(tls, token)
	require.NoError(t, err)
	require.True(t, secure.Secure)
}

// LO-604: no other value counts, such as one with a later end.
func TestNoOtherValueOfTheCookieCounts(t *testing.T) {
	w := newWindow(t, token)
	c := w.login(t)
	for i := range c.Value {
		changed := []byte(c.Value)
		changed[i] = "AB"[map[bool]int{true: 1, false: 0}[changed[i] == 'A']]
		_, ok := w.auth.sessions.holds(string(changed))
		require.False(t, ok, "letter %d", i)
	}
	for _, value := range []string{"", "A", strings.Repeat("A", len(c.Value)), c.Value + "A", strings.Repeat("x", 1<<16), c.Value[:len(c.Value)-1]} {
		_, ok := w.auth.sessions.holds(value)
		require.False(t, ok, value)
	}
	_, err := newWindow(t, "").auth.Login(sends(http.MethodPost, nil, own...), "")
	require.Equal(t, task.MissingToken, code(t, err), "there is no token to have a cookie for")
	_, err = w.auth.Login(sends(http.MethodPost, nil, own...), "wrong")
	require.Equal(t, task.BadToken, code(t, err))
}

// LO-604: a logout ends this session alone, and what is remembered of those is bounded.
func TestALogoutEndsTheSession(t *testing.T) {
	w := newWindow(t, token)
	c, other := w.login(t), w.login(t)
	gone, err := w.auth.Logout(sends(http.MethodPost, c, own...))
	require.NoError(t, err)
	require.Negative(t, gone.MaxAge)
	_, err = w.auth.Check(sends(http.MethodGet, c), false)
	require.Equal(t, task.MissingToken, code(t, err))
	_, err = w.auth.Check(sends(http.MethodGet, other), false)
	require.NoError(t, err)
	_, err = w.auth.Logout(sends(http.MethodPost, nil, own...))
	require.NoError(t, err, "who is out stays out")
	w.now = w.now.Add(time.Second)
	for range maxSessions {
		value, _ := w.auth.sessions.begin()
		w.auth.sessions.end(value)
	}
	require.Len(t, w.auth.sessions.ended, maxSessions)
	require.NotContains(t, w.auth.sessions.ended, c.Value, "the one that would end first is forgotten first")
}

// LO-605: pages of other sites send the cookie in vain.
func TestTheCookieIsForTheOwnPage(t *testing.T) {
	w := newWindow(t, token)
	c := w.login(t)
	for _, r := range []struct {
		method string
		header []string
		in     bool
	}{
		{http.MethodGet, nil, true},
		{http.MethodGet, []string{"Sec-Fetch-Site", "none"}, true},
		{http.MethodGet, []string{"Sec-Fetch-Site", "same-origin"}, true},
		{http.MethodGet, []string{"Sec-Fetch-Site", "cross-site"}, false},
		{http.MethodGet, []string{"Sec-Fetch-Site", "same-site"}, false},
		{http.MethodGet, []string{"Origin", "http://box:8081"}, false},
		{http.MethodGet, []string{"Origin", "null"}, false},
		{http.MethodPost, own, true},
		{http.MethodPost, []string{"Origin", "http://box:8080"}, true},
		{http.MethodPost, []string{"Sec-Fetch-Site", "same-origin"}, true},
		{http.MethodPost, nil, false},
		{http.MethodPost, []string{"Sec-Fetch-Site", "none"}, false},
		{http.MethodDelete, []string{"Origin", "http://elsewhere.example"}, false},
	} {
		_, err := w.auth.Check(sends(r.method, c, r.header...), false)
		if r.in {
			require.NoError(t, err, "%+v", r)
			continue
		}
		require.Equal(t, task.PolicyDenied, code(t, err), "%+v", r)
	}
	for _, call := range []func(*http.Request) (*http.Cookie, error){
		w.auth.Logout, func(r *http.Request) (*http.Cookie, error) { return w.auth.Login(r, token) },
	} {
		_, err := call(sends(http.MethodPost, c, "Origin", "http://elsewhere.example"))
		require.Equal(t, task.PolicyDenied, code(t, err))
	}
}

// LO-605
func TestWhatAnEngineAnswersIsNoPageOfOurs(t *testing.T) {
	h := http.Header{"Content-Security-Policy": {"script-src *"}, "Set-Cookie": {SessionCookie + "=x"}}
	Back(h)
	require.Equal(t, http.Header{"Content-Security-Policy": {"sandbox"}}, h)
}
