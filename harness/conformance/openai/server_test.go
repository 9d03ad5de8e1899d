// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-458: a server takes what OpenAI's document has and what it documents itself, and refuses everything else by name.
func TestWhatNobodyDocumentsIsRefused(t *testing.T) {
	for name, takes := range map[string][]string{
		"vllm": {`"top_k":-1`, `"min_p":0.1`, `"repetition_penalty":1`, `"structured_outputs":{"grammar":"g"}`}, "sglang": {`"ebnf":"g"`, `"top_k":4`},
		"ollama": {`"seed":1`}, "lmstudio": {`"top_k":4`, `"repeat_penalty":1`}, "llama-server": {`"grammar":"g"`, `"min_p":0.1`}, "unknown": {`"stop":["a"]`},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := New(Options{As: name})
			require.NoError(t, err)
			ask := func(path, fields string) (int, string) {
				w := httptest.NewRecorder()
				body := `{"model":"m","messages":[{"role":"user","content":"a"}],` + fields + `}`
				if path == "/v1/completions" {
					body = `{"model":"m","prompt":"a",` + fields + `}`
				}
				s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
				return w.Code, w.Body.String()
			}
			for _, path := range []string{"/v1/chat/completions", "/v1/completions"} {
				for _, field := range takes {
					status, said := ask(path, field)
					require.Equal(t, http.StatusOK, status, said)
				}
				for _, field := range []string{"n_predict", "typical_p", "guided_json"} {
					status, said := ask(path, `"`+field+`":1`)
					require.Equal(t, http.StatusBadRequest, status)
					require.Contains(t, said, field)
				}
				status, _ := ask(path, `"temperature":-1`)
				require.Equal(t, http.StatusBadRequest, status)
			}
			require.Len(t, s.Requests(), 2*(len(takes)+4))
		})
	}
}
