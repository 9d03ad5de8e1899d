// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// SessionCookie is the name of the cookie that a browser has in place of the token (LO-604).
const SessionCookie = "llorch_session"

const (
	sessionAge  = 7 * 24 * time.Hour
	maxSessions = 4096 // that were ended before their time
	sessionHead = 8 + 16
	sessionSize = sessionHead + sha256.Size
)

// sessions are the cookies that stand for the token. Each holds its end, a random number and a MAC over both, so none has to be kept
// but those that were ended before their time.
type sessions struct {
	key [sha256.Size]byte // made from the token
	now func() time.Time

	mu    sync.Mutex
	ended map[string]time.Time // by the cookie's value: when it would have ended by itself
}

func newSessions(token string, now func() time.Time) *sessions {
	return &sessions{key: sha256.Sum256([]byte("llama-orch session\x00" + token)), now: now, ended: map[string]time.Time{}}
}

func (s *sessions) mac(head []byte) []byte {
	m := hmac.New(sha256.New, s.key[:])
	m.Write(head)
	return m.Sum(nil)
}

// begin makes the value of a cookie.
func (s *sessions) begin() (value string, ends time.Time) {
	ends = s.now().Add(sessionAge).Truncate(time.Second)
	head := binary.BigEndian.AppendUint64(nil, uint64(ends.Unix()))
	head = append(head, make([]byte, sessionHead-len(head))...)
	_, _ = rand.Read(head[8:]) // it never fails
	return base64.RawURLEncoding.EncodeToString(append(head, s.mac(head)...)), ends
}

// holds reports whether a value is that of a session that goes on, and until when.
func (s *sessions) holds(value string) (ends time.Time, ok bool) {
	if base64.RawURLEncoding.DecodedLen(len(value)) != sessionSize {
		return ends, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(value) // one spelling alone, by which it can be ended
	if err != nil || !hmac.Equal(raw[sessionHead:], s.mac(raw[:sessionHead])) {
		return ends, false
	}
	ends = time.Unix(int64(binary.BigEndian.Uint64(raw)), 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, over := s.ended[value]
	return ends, !over && s.now().Before(ends)
}

// end ends a session. Where too many were ended before their time, it forgets the one that would end first.
func (s *sessions) end(value string) {
	ends, ok := s.holds(value)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ended) >= maxSessions {
		first := ""
		for v, at := range s.ended {
			if first == "" || at.Before(s.ended[first]) {
				first = v
			}
		}
		delete(s.ended, first)
	}
	s.ended[value] = ends
}

// Login returns a cookie in place of the token. Errors are those of Authenticate.
func (a *Auth) Login(r *http.Request, token string) (*http.Cookie, error) {
	if err := samePage(r); err != nil {
		return nil, err
	}
	if _, err := a.Authenticate("Bearer "+token, false); err != nil {
		return nil, err
	}
	value, ends := a.sessions.begin()
	c := cookie(r, value)
	c.Expires = ends
	return c, nil
}

// Logout ends the session of a request, and returns the cookie that takes its own away.
func (a *Auth) Logout(r *http.Request) (*http.Cookie, error) {
	if err := samePage(r); err != nil {
		return nil, err
	}
	if c, err := r.Cookie(SessionCookie); err == nil {
		a.sessions.end(c.Value)
	}
	c := cookie(r, "")
	c.MaxAge = -1
	return c, nil
}

func cookie(r *http.Request, value string) *http.Cookie {
	return &http.Cookie{
		Name: SessionCookie, Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	}
}

// session returns the identity behind a request's cookie; empty: it has none that counts. What it returns besides tells later whether the session goes
// on. An error says that a page of another site sent the request.
func (a *Auth) session(r *http.Request) (id string, goesOn func() bool, err error) {
	if !a.set {
		return "", nil, nil
	}
	c, err := r.Cookie(SessionCookie)
	if err != nil {
		return "", nil, nil //nolint:nilerr // there is no cookie
	}
	value := c.Value
	goesOn = func() bool {
		_, ok := a.sessions.holds(value)
		return ok
	}
	if !goesOn() {
		return "", nil, nil
	}
	if err := samePage(r); err != nil {
		return "", nil, err
	}
	return a.identity, goesOn, nil
}

// samePage refuses what a page of another site may have sent (LO-605). Every browser says so of what changes something.
func samePage(r *http.Request) error {
	origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case origin != "" && !sameOrigin(origin, r.Host), site != "" && site != "same-origin" && site != "none":
		return task.Errorf(task.PolicyDenied, "a page of another site sent this request: open the status page of this server, or send the token in the header Authorization")
	case !reads && origin == "" && site != "same-origin":
		return task.Errorf(task.PolicyDenied, "nothing says which page sent this request: use a browser that sends Origin, or send the token in the header Authorization")
	}
	return nil
}
