// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzCredentials: whatever a stranger sends to be let in, it is no way in.
//
// AUTH-1001, LO-604, LO-861
func FuzzCredentials(f *testing.F) {
	now := time.Unix(1_000_000, 0)
	a, err := NewAuth(AuthOptions{Token: token, Now: func() time.Time { return now }})
	require.NoError(f, err)
	other := newSessions("another token", a.sessions.now)
	value, _ := other.begin()
	f.Add("Bearer nonsense", SessionCookie+"="+value, "http://h")
	f.Add("bearer  ", SessionCookie+"=;"+SessionCookie+"=a", "null")
	f.Add("Basic YTpi", "a=b; \"", "http://[::1%25]:x")
	f.Fuzz(func(t *testing.T, authorization, cookies, origin string) {
		if strings.Contains(authorization, token) {
			return
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://h/", http.NoBody)
		for name, value := range map[string]string{"Authorization": authorization, "Cookie": cookies, "Origin": origin} {
			r.Header.Set(name, value)
		}
		id, _, _ := a.session(r)
		require.Empty(t, id)
		_, err := a.Authenticate(authorization, false)
		require.Error(t, err)
		_ = samePage(r)
	})
}
