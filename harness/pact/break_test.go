// SPDX-License-Identifier: GPL-3.0-or-later

//go:build pact

package pact

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBrokenContract makes sure that TestProvider fails if pact and provider differ. It runs TestProvider on pacts of one interaction, each broken in
// one way. A provider that has changed in that way would look the same.
//
// ORCH-3050
func TestBrokenContract(t *testing.T) {
	for name, b := range map[string]struct {
		interaction string
		change      func(interaction object)
		says        string // empty: the pact holds
	}{
		"as it is": {"a submit", func(object) {}, ""},
		"another status": {"a submit", func(i object) {
			at(i, "response")["status"] = 201
		}, "expected 201 but was 202"},
		"a field of the answer with another name": {"a submit", func(i object) {
			rename(at(i, "response", "body", "content"), "pool_id", "pool")
		}, "missing the following keys: pool"},
		"a field of the answer of another type": {"a look at a pool", func(i object) {
			at(i, "response", "body", "content", "pool")["ready"] = "yes"
		}, "$.pool.ready"},
		"a header of the answer with another name": {"a submit", func(i object) {
			rename(at(i, "response", "headers"), "Location", "X-Location")
		}, "Expected a header 'X-Location' but was missing"},
		"another error code": {"a submit to a full queue", func(i object) {
			at(i, "response", "body", "content")["code"] = "QUEUE_FULL"
		}, "ADMISSION_REJECT"},
		"a field of the request that the provider does not know": {"a submit", func(i object) {
			rename(at(i, "request", "body", "content"), "max_tokens", "max_new_tokens")
		}, "expected 202 but was 400"},
		"another path": {"a look at a pool", func(i object) {
			at(i, "request")["path"] = "/v1/pools/default/state"
		}, "expected 200 but was 404"},
		"a stream without receipts": {"a stream from the start", func(i object) {
			rule := at(i, "response", "matchingRules", "body", "$")["matchers"].([]any)[0].(object)
			rule["regex"] = startedIs("sdk-stream") + tokensAre + `+id: [0-9a-f-]+\nevent: end\ndata: \{"tokens_in":[0-9]+\}\n\n$`
		}, "to match '^id: 0-"},
		"a provider state without a seeding": {"a submit", func(i object) {
			i["providerStates"].([]any)[0].(object)["name"] = "the moon is full"
		}, `there is no provider state "the moon is full"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := verify(t, b.interaction, b.change)
			if b.says == "" {
				require.NoError(t, err, out)
				return
			}
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "the gate lets it pass:\n%s", out)
			require.Contains(t, out, b.says)
			require.Contains(t, out, "There were 1 pact failures")
		})
	}
}

// verify changes one interaction of the SDK's pact, and runs TestProvider on it in a process of its own.
func verify(t *testing.T, name string, change func(object)) (output string, err error) {
	const file = "llama-orch-sdk-" + providerName + ".json"
	data, err := os.ReadFile(filepath.Join(pactDir, file))
	require.NoError(t, err)
	var pact object
	require.NoError(t, json.Unmarshal(data, &pact))
	var only []any
	for _, i := range pact["interactions"].([]any) {
		if i.(object)["description"] == name {
			change(i.(object))
			only = append(only, i)
		}
	}
	require.Len(t, only, 1, name)
	pact["interactions"] = only
	data, err = json.Marshal(pact)
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, file), data, 0o600))

	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProvider$")
	cmd.Env = append(os.Environ(), pactsEnv+"="+dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// at descends into an object.
func at(o object, names ...string) object {
	for _, name := range names {
		o = o[name].(object)
	}
	return o
}

func rename(o object, from, to string) {
	o[to] = o[from]
	delete(o, from)
}
