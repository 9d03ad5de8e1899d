// SPDX-License-Identifier: GPL-3.0-or-later

package voice

import (
	"encoding/json"
	"net/http"
)

// Answer answers a request with JSON.
func Answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that has gone does not need it
}
