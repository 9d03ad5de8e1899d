// SPDX-License-Identifier: GPL-3.0-or-later

package fronts_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/scripted"
)

// torn is a script by which the engine is lost once in the middle of each answer. Of a plain one it goes on when it is told what was sent; one with
// tools has another beginning the second time.
func torn() scripted.Script {
	pause := scripted.Step{PauseMS: 300}
	tools := true
	return scripted.Script{Rules: []scripted.Rule{
		{Tools: &tools, Times: 1, Play: []scripted.Step{
			{Text: "Let me look."}, {Call: &scripted.Call{Name: "weather"}}, {Call: &scripted.Call{Arguments: `{"ci`}}, pause, {Die: true},
		}},
		{Tools: &tools, Play: []scripted.Step{{Text: "I look."}, {Call: &scripted.Call{Name: "weather"}}, {Call: &scripted.Call{Arguments: `{"city":"Bern"}`}}}},
		{Contains: "It is twe", Play: []scripted.Step{{Text: "lve degrees."}}},
		{Play: []scripted.Step{{Text: "It is "}, {Text: "twe"}, pause, {Die: true}}},
	}}
}

// plain are requests of all dialects, with the ends that make them whole and streamed, and how their answers name a text.
var plain = map[string]struct{ path, body, whole, streamed, text string }{
	"chat":       {"/v1/chat/completions", `{"model":"coder","messages":[{"role":"user","content":"The weather?"}]`, `}`, `,"stream":true}`, "content"},
	"completion": {"/v1/completions", `{"model":"coder","prompt":"The weather?"`, `}`, `,"stream":true}`, "text"},
	"response":   {"/v1/responses", `{"model":"coder","input":"The weather?"`, `}`, `,"stream":true}`, "(?:delta|text)"},
	"message":    {"/v1/messages", `{"model":"coder","max_tokens":50,"messages":[{"role":"user","content":"The weather?"}]`, `}`, `,"stream":true}`, "text"},
	"ollama":     {"/api/chat", `{"model":"coder","messages":[{"role":"user","content":"The weather?"}]`, `,"stream":false}`, `}`, "content"},
	"generate":   {"/api/generate", `{"model":"coder","prompt":"The weather?"`, `,"stream":false}`, `}`, "response"},
}

// The engine of best-effort tasks is lost in the middle of each answer, and no client is told.
//
// LO-209, LO-404
func TestBestEffortAnswersGoOn(t *testing.T) {
	engine := scripted.New(scripted.Options{Slots: 2})
	server := httptest.NewServer(engine)
	t.Cleanup(server.Close)
	lab, err := daemon.NewLab(t.Context(), t.TempDir(), "../..")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	file := filepath.Join(lab.Dir, "c.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, scriptedConfig, server.URL), 0o600))
	d, err := lab.Serve(t.Context(), daemon.Options{Config: file, Options: process.Options{Args: []string{"--no-self-test"}, Env: lab.Env(lab.Dir, nil)}})
	require.NoError(t, err)
	_, err = d.Idle(t.Context(), "only")
	require.NoError(t, err)
	send := func(t *testing.T, path, body string) (*http.Response, string) {
		b := box{t, d}
		engine.SetScript(torn())
		res := b.ask(t.Context(), path, body)
		data, err := io.ReadAll(res.Body)
		if strings.Contains(body, `"tools"`) && (strings.Contains(body, `"stream":true`) || path == "/api/chat" && !strings.Contains(body, `"stream"`)) {
			require.Error(t, err, "a stream that broke off does not end cleanly")
		} else {
			require.NoError(t, err)
		}
		require.Equal(t, http.StatusOK, res.StatusCode, "%s", data)
		return res, string(data)
	}
	for name, a := range plain {
		t.Run(name, func(t *testing.T) {
			res, got := send(t, a.path, a.body+a.whole)
			require.Contains(t, got, "It is twelve degrees.")
			require.Equal(t, "best_effort", res.Header.Get("X-Receipt-Determinism"))
			require.Equal(t, "3", res.Header.Get("X-Receipt-Continued-At"))
			_, got = send(t, a.path, a.body+a.streamed)
			var text strings.Builder
			for _, piece := range regexp.MustCompile(`"`+a.text+`":"(It is |twe|lve degrees\.)"`).FindAllStringSubmatch(got, -1) {
				text.WriteString(piece[1])
			}
			require.Equal(t, "It is twelve degrees.", text.String(), got)
			require.Regexp(t, `Continued-At("?:"|=)3`, got)
		})
	}
	const openAIs = `,"tools":[{"type":"function","function":{"name":"weather"}}]`
	for name, tools := range map[string]string{"chat": openAIs, "message": `,"tools":[{"name":"weather","input_schema":{"type":"object"}}]`, "ollama": openAIs} {
		t.Run(name+" with a tool", func(t *testing.T) {
			a := plain[name]
			res, got := send(t, a.path, a.body+tools+a.whole)
			require.Contains(t, got, "I look.", "it was decoded anew, since its client has no byte of it")
			require.NotContains(t, got, "Let me")
			require.Contains(t, strings.ReplaceAll(got, `\`, ""), `{"city":"Bern"}`)
			require.Empty(t, res.Header.Get("X-Receipt-Continued-At"))
			_, got = send(t, a.path, a.body+tools+a.streamed)
			require.Contains(t, got, "Let me look.")
			require.Contains(t, got, "no other one can go on in the middle of this answer")
			require.Contains(t, strings.ToLower(got), "overloaded", "it is worth another try")
		})
	}
}
