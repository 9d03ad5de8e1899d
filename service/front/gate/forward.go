// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"net/http"
	"strings"
)

// ReplicaHeader names the replica whose engine has answered a request that was passed on to it.
const ReplicaHeader = "X-Replica-Id"

// Forward takes out of a request's headers what does not go on to an engine, and adds the key that it asks for; empty: none.
func Forward(h http.Header, key string) {
	for _, name := range []string{
		"Authorization", "X-Api-Key", "Cookie", // who the caller is concerns us alone
		"Origin", "Referer", // an engine would allow or refuse pages by them
		"Upgrade", "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", // of this connection; no other protocol is spoken
		"Content-Encoding", // the gate has decoded the body
		"Expect", CorrelationHeader,
	} {
		h.Del(name)
	}
	for name := range h {
		if strings.HasPrefix(name, "Sec-Fetch-") || strings.HasPrefix(name, "Sec-Websocket-") {
			h.Del(name)
		}
	}
	if key != "" {
		h.Set("Authorization", "Bearer "+key)
	}
}

// oursAlone are the headers that say something of this server, and so are not an engine's to send. Those of CORS are not either.
var oursAlone = []string{
	CorrelationHeader, ReplicaHeader, "Set-Cookie", "Clear-Site-Data", "Service-Worker-Allowed", "Strict-Transport-Security", "Alt-Svc",
}

// Back takes out of the headers of an engine's answer what is not an engine's to send.
func Back(h http.Header) {
	for _, name := range oursAlone {
		h.Del(name)
	}
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			h.Del(name)
		}
	}
	// Whatever the engine wrote, a browser must not run it as a page of ours (LO-605).
	h.Set("Content-Security-Policy", "sandbox")
}
