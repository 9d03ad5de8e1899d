// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// Each body says the same as the one in its plain form, and is another one for a repeated submit.
//
// LO-844
func TestABodyIsTakenByItsMeaning(t *testing.T) {
	f := setup(t)
	var got []task.Request
	f.tasks.submit = func(r task.Request) (task.Admission, error) {
		got = append(got, r)
		return task.Admission{TaskID: "t1", PoolID: "p", Determinism: task.Strict}, nil
	}
	for body, plain := range map[string]string{
		`{"model_ref":"m","prompt":"x","seed":null,"max_tokens":null}`:                               `{"model_ref":"m","prompt":"x"}`,
		`{"model_ref":"m","prompt":null,"messages":[{"role":"user","content":"null 1.0"}]}`:          `{"model_ref":"m","messages":[{"role":"user","content":"null 1.0"}]}`,
		`{"model_ref":"m","prompt":"x","params":{"temperature":null,"top_k":40.0,"stop":null}}`:      `{"model_ref":"m","prompt":"x","params":{"top_k":40}}`,
		`{"model_ref":"m","prompt":"x","params":null,"placement":null,"session_id":null}`:            `{"model_ref":"m","prompt":"x"}`,
		`{"model_ref":"m","prompt":"\"null\\","placement":{"mode":null,"pool_id":"p","avoid":null}}`: `{"model_ref":"m","prompt":"\"null\\","placement":{"pool_id":"p"}}`,
		`{"model_ref":"m","prompt":"x","seed":42.0,"max_tokens":1e2,"ctx":2.56E+2}`:                  `{"model_ref":"m","prompt":"x","seed":42,"max_tokens":100,"ctx":256}`,
		` { "prompt" : "1e5" , "model_ref" : "m" , "deadline_ms" : 30000e-1 } `:                      `{"model_ref":"m","prompt":"1e5","deadline_ms":3000}`,
		`{"model_ref":"m","prompt":"x","seed":-0.0}`:                                                 `{"model_ref":"m","prompt":"x","seed":0}`,
		`{"model_ref":"m","prompt":"x","params":{"temperature":0.5,"top_p":1e-1}}`:                   `{"model_ref":"m","prompt":"x","params":{"temperature":0.5,"top_p":0.1}}`,
		`{"model_ref":"m","workload":"embedding","inputs":["null","1.5"],"prompt":null}`:             `{"model_ref":"m","workload":"embedding","inputs":["null","1.5"]}`,
	} {
		got = nil
		for _, b := range []string{body, plain} {
			require.Equal(t, http.StatusAccepted, f.do("POST", "/v1/tasks", b).StatusCode, b)
		}
		if body != plain && !strings.Contains(body, "1e-1") {
			require.NotEqual(t, got[0].BodySHA256, got[1].BodySHA256, "it is compared as it was sent")
		}
		for i := range got {
			got[i].BodySHA256, got[i].CorrelationID = [32]byte{}, ""
		}
		require.Equal(t, got[1], got[0], body)
	}
	res := f.do("POST", "/v1/pools/default/drain", `{"deadline_ms":1e3}`)
	require.Equal(t, http.StatusAccepted, res.StatusCode, "every operation with a body does likewise")
	e := envelope(t, f.do("POST", "/v1/pools/default/drain", `{"deadline_ms":null}`))
	require.Equal(t, gen.ErrorCodeINVALIDPARAMS, e.Code)
	require.Contains(t, e.Message, "not null")
}

// LO-844
func TestAnIntegerHasManyForms(t *testing.T) {
	for number, want := range map[string]string{
		"42": "42", "42.0": "42", "1e2": "100", "1E+2": "100", "0.042e3": "42", "4200e-2": "42", "-7.0": "-7", "0.0": "0", "-0": "0", "0e999999999999": "0",
		"42.5": "42.5", "1e-1": "1e-1", "1e999": "1e999", "1e99999999999999999999": "1e99999999999999999999", "425e-1": "425e-1",
		"9007199254740993.0": "9007199254740993",
	} {
		require.Equal(t, want, whole(number), number)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`-?(0|[1-9][0-9]{0,9})(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "number")
		exact, ok := new(big.Rat).SetString(text)
		require.True(t, ok)
		got, ok := new(big.Rat).SetString(whole(text))
		require.True(t, ok)
		require.Zero(t, exact.Cmp(got), "%s became %s", text, whole(text))
		if exact.IsInt() && len(exact.Num().String()) < maxDigits {
			require.NotContains(t, whole(text), ".")
			require.NotContains(t, strings.ToLower(whole(text)), "e")
		}
	})
}

// What an ordinary body says is not written anew, and costs nothing.
//
// LO-844
func TestAnOrdinaryBodyStaysAsItIs(t *testing.T) {
	c, err := loadContract()
	require.NoError(t, err)
	s := c.byName[gen.CreateTaskOperation].shape
	for body, other := range map[string]bool{
		`{"model_ref":"null","prompt":"1.5e7 \" null"}`: false, `{"a":true,"b":false,"c":[1,-2]}`: false, `{"a\\":"\\","e":1}`: false,
		`{"a":null}`: true, `{"a":1.0}`: true, `{"a":1e1}`: true, `{"a":1E1}`: true, `{"a\"":null}`: true,
	} {
		require.Equal(t, other, unusual([]byte(body)), body)
	}
	body := []byte(`{"model_ref":"m","prompt":"` + strings.Repeat(`say null \" 1.5e3 `, 1000) + `","seed":7}`)
	require.Zero(t, testing.AllocsPerRun(10, func() { body = s.normal(body) }))
}

// FuzzNormal: whatever valid JSON comes in, the normal form is valid JSON, and its own normal form.
//
// LO-844
func FuzzNormal(f *testing.F) {
	for _, seed := range []string{goodBody, `null`, `[null]`, `{"seed":null}`, `{"params":{"stop":[null,"a"],"top_k":1e1}}`, `{"seed":1.0,"seed":null}`, `{"\u0073eed":2.0}`} {
		f.Add([]byte(seed))
	}
	c, err := loadContract()
	require.NoError(f, err)
	s := c.byName[gen.CreateTaskOperation].shape
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) {
			return
		}
		once := s.normal(body)
		require.True(t, json.Valid(once), "%s became %s", body, once)
		require.Equal(t, string(once), string(s.normal(once)))
	})
}
