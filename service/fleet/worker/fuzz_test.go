// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzBodies: whatever is posted to a worker, it is a request that can be run, or is refused as llama-server does.
//
// ORCH-3054, LO-861
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		`{"prompt":"p","stream":true,"n_predict":3,"stop":["a"],"logit_bias":[[1,2.5],[3,-1]],"seed":7,"samplers":["top_k"]}`,
		`{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]},{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{\"a\":1}"}}]}],"tools":[{}],"chat_template_kwargs":{"x":[1,1.5,1e999]}}`,
		`{"content":["a","b"]}`, `{"logit_bias":[null]}`, `[]`, `{"stop":7}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		request := func() *http.Request {
			return httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(string(body)))
		}
		refused := func(err error) {
			require.Less(t, asAPIError(err).Code, http.StatusInternalServerError, "%v", err)
		}
		var c completion
		if err := decodeBody(request(), &c); err != nil {
			refused(err)
		} else if c.check() == nil {
			require.GreaterOrEqual(t, c.lastN(), int32(0))
			require.LessOrEqual(t, c.NProbs, maxProbs)
		}
		var talk chat
		if err := decodeBody(request(), &talk); err != nil {
			refused(err)
			return
		}
		used, err := talk.used()
		if err != nil {
			refused(err)
			return
		}
		require.True(t, json.Valid(used))
		answer := render(rendering{Source: "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", Chat: used})
		require.Empty(t, answer.Broken)
	})
}
