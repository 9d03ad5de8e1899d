// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"net/http"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// AnyOrigin stands for the pages of every origin.
const AnyOrigin = "*"

const (
	// shown are the headers that a page may read, beside those that it always may: those that the SDKs of the fronts' dialects read are among them.
	shown = "X-Correlation-Id, Link, Retry-After, Retry-After-Ms, X-Should-Retry, X-Backoff-Ms, Location, ETag, X-Budget-Tokens-Remaining, X-Budget-Time-Remaining-Ms, " +
		"X-Budget-Cost-Remaining, X-Budget-Joules-Remaining, X-Task-Id, X-Queue-Position, X-Durable, X-Request-Id, Request-Id, OpenAI-Processing-Ms, X-Replica-Id, " +
		"X-Receipt-Seed, X-Receipt-Determinism, X-Receipt-Fingerprint, X-Receipt-Request-Digest, X-Receipt-Transcript-Sha256, X-Receipt-Model-Digest, X-Receipt-Continued-At"
	// sendable are the headers that a page may send, beside those that it always may. Not every browser takes User-Agent for one of these.
	sendable = "Authorization, Content-Type, Content-Encoding, Last-Event-ID, X-Correlation-Id, Idempotency-Key, X-Api-Key, If-Match, If-None-Match, If-Range, Range, " +
		"User-Agent, Anthropic-Version, Anthropic-Beta, Anthropic-Dangerous-Direct-Browser-Access"
	// preflightSeconds is how long a browser may remember the answer to a preflight.
	preflightSeconds = "600"
	// everyMethod is what there is on any path.
	everyMethod = "DELETE, GET, HEAD, OPTIONS, POST"
)

// sendableUnder is what the names of further headers begin with that SDKs send. Each version has others, and CORS knows no such pattern, so a
// preflight is told those that it asks for.
var sendableUnder = []string{"x-stainless-", "openai-"}

// maxSendable bounds how many of those one preflight is told.
const maxSendable = 32

// sendableFor are the headers that a page may send which asks for these in its preflight.
func sendableFor(asked []string) string {
	out := []string{sendable}
	for name := range strings.SplitSeq(strings.Join(asked, ","), ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		under := func(begin string) bool { return strings.HasPrefix(name, begin) }
		if len(out) <= maxSendable && slices.ContainsFunc(sendableUnder, under) && !strings.ContainsFunc(name, notInName) {
			out = append(out, name)
		}
	}
	return strings.Join(out, ", ")
}

// notInName reports whether no SDK has a header with that letter in its name.
func notInName(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' }

// pages are the web pages of other origins that may read answers (LO-829).
type pages struct {
	any   bool
	named map[string]bool
}

func newPages(origins []string) pages {
	p := pages{named: make(map[string]bool, len(origins))}
	for _, o := range origins {
		p.any = p.any || o == AnyOrigin
		p.named[o] = o != AnyOrigin
	}
	return p
}

// none reports whether there is nothing to say about origins.
func (p pages) none() bool { return len(p.named) == 0 }

// welcome lets a page of an allowed origin read the answer with these headers. It reports whether the origin is one.
func (p pages) welcome(h http.Header, origin string) bool {
	if p.none() {
		return false
	}
	h.Add("Vary", "Origin")
	switch {
	case origin == "":
		return false
	case p.named[origin]:
		h.Set("Access-Control-Allow-Origin", origin)
	case p.any:
		h.Set("Access-Control-Allow-Origin", AnyOrigin)
	default:
		return false
	}
	return true
}

// options answers OPTIONS: a browser's preflight by the policy about origins, and anything else with the methods of the path.
func (g *Gate) options(w http.ResponseWriter, r *http.Request, front Front, methods string, welcome bool) {
	h := w.Header()
	origin := r.Header.Get("Origin")
	if origin == "" || r.Header.Get("Access-Control-Request-Method") == "" {
		h.Set("Allow", methods)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if !welcome {
		front.Refuse(w, r, task.Errorf(task.PolicyDenied, "web pages of the origin %q may not use this server: name it in `cors.origins` of the configuration",
			task.Clip(origin, maxOrigin)))
		return
	}
	h.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	h.Set("Access-Control-Allow-Methods", methods)
	h.Set("Access-Control-Allow-Headers", sendableFor(r.Header.Values("Access-Control-Request-Headers")))
	h.Set("Access-Control-Max-Age", preflightSeconds)
	if r.Header.Get("Access-Control-Request-Private-Network") == "true" { // the page comes from a public address
		h.Set("Access-Control-Allow-Private-Network", "true")
	}
	w.WriteHeader(http.StatusNoContent)
}

// maxOrigin is how many bytes of an origin a message repeats.
const maxOrigin = 128

// preflight reports whether a request only asks whether a page may send another one.
func preflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// Allow lists a path's methods as the header Allow does: with GET there is HEAD, and there always is OPTIONS.
func Allow(methods []string) string {
	all := append(slices.Clone(methods), http.MethodOptions)
	if slices.Contains(all, http.MethodGet) {
		all = append(all, http.MethodHead)
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ", ")
}
