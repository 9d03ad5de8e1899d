// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Localhost is the identity of a caller without a token on loopback.
const Localhost = "localhost"

// The numeric codes that MISSING_TOKEN and BAD_TOKEN carry in their hint.
const (
	missingTokenHint = "40101: send the header `Authorization: Bearer <token>`; the token is the server's LLORCH_API_TOKEN"
	badTokenHint     = "40102: compare your token with the server's LLORCH_API_TOKEN"
)

// AuthOptions configure an Auth.
type AuthOptions struct {
	Token              string // empty: no token is configured
	OptionalOnLoopback bool   // callers from loopback need no token
	// Origins are those whose web pages may read answers, as browsers write them, or AnyOrigin. Pages of those that are
	// named count as local where callers from loopback need no token.
	Origins []string
	Now     func() time.Time // default time.Now
}

// Auth decides who may call: whoever has the one bearer token, and callers on loopback, where the configuration says that they
// need none (AUTH-1001…1008). It logs nothing, and none of its errors holds a token.
type Auth struct {
	digest   [sha256.Size]byte // of the token; to compare digests takes the same time, however long the offered token is
	identity string
	set      bool
	optional bool
	pages    pages
	sessions *sessions
}

// NewAuth returns an Auth. It refuses options under which nobody could ever call.
func NewAuth(o AuthOptions) (*Auth, error) {
	if o.Token == "" && !o.OptionalOnLoopback {
		return nil, errors.New("a token is required on loopback too (auth.optional_on_loopback is false), but none is set: " +
			"set LLORCH_API_TOKEN, or auth.optional_on_loopback to true")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &Auth{set: o.Token != "", optional: o.OptionalOnLoopback, pages: newPages(o.Origins), sessions: newSessions(o.Token, o.Now)}
	if a.set {
		a.digest = sha256.Sum256([]byte(o.Token))
		a.identity = "token:" + hex.EncodeToString(a.digest[:3])
	}
	return a, nil
}

// RequireToken returns an error, which says what to do, when a server on bindAddr has no token and can be reached from another
// machine: such a server must not start (AUTH-1002).
func RequireToken(bindAddr, token string) error {
	if token != "" || loopbackBind(bindAddr) {
		return nil
	}
	return fmt.Errorf("bind_addr %s can be reached from other machines, so a token is required: set LLORCH_API_TOKEN, or bind to 127.0.0.1", bindAddr)
}

func loopbackBind(bindAddr string) bool {
	host, _, err := net.SplitHostPort(bindAddr)
	if err != nil {
		host = bindAddr
	}
	return loopbackHost(host)
}

// loopbackHost accepts only spellings that always mean loopback. A name that resolves to loopback now may resolve to another
// address the next time.
func loopbackHost(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.Unmap().IsLoopback()
}

// Authenticate returns the identity behind an Authorization header: `localhost`, or `token:<first 6 hex of its SHA-256>`.
// Errors are *task.Error MISSING_TOKEN or BAD_TOKEN. A token that is offered is always checked, on loopback too. Where none is configured there is
// nothing to compare it with, and it is ignored: many clients always send one.
func (a *Auth) Authenticate(header string, remoteLoopback bool) (string, error) {
	if header == "" || !a.set {
		if remoteLoopback && a.optional {
			return Localhost, nil
		}
		e := task.Errorf(task.MissingToken, "this call needs a bearer token and has none")
		e.Hint = missingTokenHint
		if !a.set {
			e.Message = "this call needs a bearer token, and this server has none set: set LLORCH_API_TOKEN for it and restart it"
		}
		return "", e
	}
	scheme, token, _ := strings.Cut(header, " ")
	offered := sha256.Sum256([]byte(strings.TrimSpace(token)))
	same := subtle.ConstantTimeCompare(offered[:], a.digest[:]) == 1
	if same && strings.EqualFold(scheme, "Bearer") {
		return a.identity, nil
	}
	e := task.Errorf(task.BadToken, "the token is not this server's")
	e.Hint = badTokenHint
	if !strings.EqualFold(scheme, "Bearer") {
		e.Message = "the Authorization header is not of the form `Bearer <token>`"
	}
	return "", e
}

// Identity is that of the callers with the token; empty: there is no token.
func (a *Auth) Identity() string { return a.identity }

// Check authenticates a request, by its header or by the cookie of a session (LO-604). The connection's remote address says whether the caller is on loopback; no header can claim it.
// With always, a caller on loopback needs the token too.
//
// A caller without a token might be a web page of another site in the user's browser. Its requests carry that site's Host (DNS
// rebinding) or Origin (cross-site), and Check refuses them with POLICY_DENIED, unless the configuration names that origin (LO-829).
// So it does where a proxy forwards the request (LO-824).
func (a *Auth) Check(r *http.Request, always bool) (string, error) {
	id, _, err := a.admit(r, always)
	return id, err
}

// admit is Check. Where a session let the caller in, goesOn tells whether it still would.
func (a *Auth) admit(r *http.Request, always bool) (id string, goesOn func() bool, err error) {
	credential := offered(r.Header)
	if credential == "" && !always {
		if id, goesOn, err = a.session(r); id != "" || err != nil {
			return id, goesOn, err
		}
	}
	id, err = a.byHeader(r, credential, always)
	return id, nil, err
}

func (a *Auth) byHeader(r *http.Request, credential string, always bool) (string, error) {
	id, err := a.Authenticate(credential, remoteLoopback(r.RemoteAddr) && !always)
	if err != nil || id != Localhost {
		return id, err
	}
	if name := forwarded(r.Header); name != "" {
		return "", task.Errorf(task.PolicyDenied, "a call that a proxy forwards (it has the header %s) needs the token, since its caller may be on any machine", name)
	}
	if !loopbackBind(r.Host) {
		return "", task.Errorf(task.PolicyDenied, "a call without a token must name the server as localhost or a loopback address, not %q; "+
			"use http://127.0.0.1:PORT, or send the token", r.Host)
	}
	origin := r.Header.Get("Origin")
	if a.pages.named[origin] {
		return id, nil
	}
	if origin != "" && !sameOrigin(origin, r.Host) {
		return "", task.Errorf(task.PolicyDenied, "calls from web pages of other origins (%q) need the token, or `cors.origins` of the configuration has to name the origin",
			task.Clip(origin, maxOrigin))
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return "", task.Errorf(task.PolicyDenied, "calls from web pages of other sites need the token")
	}
	return id, nil
}

// offered is the credential of a request. Some clients send their key in a header of its own (LO-409).
func offered(h http.Header) string {
	credential := h.Get("Authorization")
	if key := h.Get("X-Api-Key"); credential == "" && key != "" {
		return "Bearer " + key
	}
	return credential
}

// forwarded names a header that a proxy has put in, if there is one. A proxy on this machine makes every caller look local.
func forwarded(h http.Header) string {
	for name := range h {
		switch {
		case strings.HasPrefix(name, "X-Forwarded-"), strings.HasPrefix(name, "X-Original-"):
			return name
		}
		switch name {
		case "Forwarded", "Via", "X-Forwarded", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip", "Fastly-Client-Ip":
			return name
		}
	}
	return ""
}

func remoteLoopback(remoteAddr string) bool {
	ap, err := netip.ParseAddrPort(remoteAddr)
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

func sameOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}
