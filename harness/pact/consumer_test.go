// SPDX-License-Identifier: GPL-3.0-or-later

//go:build pact

package pact

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pact-foundation/pact-go/v2/consumer"
	"github.com/pact-foundation/pact-go/v2/matchers"
	"github.com/pact-foundation/pact-go/v2/models"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite contracts/pacts from what the consumers rely on")

const (
	providerName = "orchestratord"
	pactDir      = "../../contracts/pacts"
	// token is the daemon's token in every interaction, since a pact has to hold for a daemon that asks for one.
	token = "a-token-for-the-pacts"
)

// exchange is one interaction: a request, and the parts of the answer that its consumer relies on.
type exchange struct {
	name     string // unique within the consumer
	state    models.ProviderState
	method   string
	path     string
	query    map[string]string
	header   map[string]matchers.Matcher
	token    string // of the request; empty: none
	body     object // of the request; nil: none
	status   int
	headers  map[string]matchers.Matcher // of the answer
	answer   any                         // its JSON, as matchers
	content  []byte                      // instead of answer: bytes, of this type
	media    string
	stream   string // instead of answer: an event stream
	streamIs string // the regular expression that the provider's stream has to match
}

// object is a JSON object. Its values may be matchers.
type object = map[string]any

// call is something that a consumer does, with the exchanges that it takes.
type call struct {
	name      string
	exchanges []exchange
	do        func(t *testing.T, addr string)
}

// expect runs a call against the mock server and adds its exchanges to the pact in dir, if they went as they should.
func expect(t *testing.T, name, dir string, c call) {
	mock, err := consumer.NewV4Pact(consumer.MockHTTPProviderConfig{Consumer: name, Provider: providerName, PactDir: dir, LogDir: dir})
	require.NoError(t, err)
	var last *consumer.V4InteractionWithResponse
	for _, e := range c.exchanges {
		i := mock.AddInteraction().UponReceiving(e.name)
		if e.state.Name != "" {
			i.GivenWithParameter(e.state)
		}
		last = i.WithRequest(consumer.Method(e.method), e.path, e.request).WillRespondWith(e.status, e.response)
	}
	require.NoError(t, last.ExecuteTest(t, func(at consumer.MockServerConfig) error {
		// This is a test of its own, so that even if it fails, Pact says which requests it did not expect.
		t.Run("call", func(t *testing.T) { c.do(t, fmt.Sprintf("http://%s:%d", at.Host, at.Port)) })
		return nil
	}))
}

func (e exchange) request(b *consumer.V4RequestBuilder) {
	for name, value := range e.query {
		b.Query(name, matchers.S(value))
	}
	for name, value := range e.header {
		b.Header(name, value)
	}
	if e.token != "" {
		b.Header("Authorization", matchers.S("Bearer "+e.token))
	}
	if e.body != nil {
		b.JSONBody(e.body)
	}
}

func (e exchange) response(b *consumer.V4ResponseBuilder) {
	for name, value := range e.headers {
		b.Header(name, value)
	}
	if e.streamIs != "" {
		b.Body("text/event-stream", []byte(e.stream))
		return
	}
	switch {
	case e.content != nil:
		b.Body(e.media, e.content)
	case e.answer != nil: // a 204 has none
		b.JSONBody(e.answer)
	}
}

// canonical returns the pact that the library wrote, in an order that does not depend on the order of the tests, and without the versions of the tools.
// It adds the patterns of the event streams: the library has matchers for text, but pact-go cannot express them.
func canonical(t *testing.T, file string, all []exchange) []byte {
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var pact object
	require.NoError(t, decoder.Decode(&pact))
	pact["metadata"] = object{"pactSpecification": pact["metadata"].(object)["pactSpecification"]}
	interactions := pact["interactions"].([]any)
	byName := map[string]object{}
	for _, i := range interactions {
		byName[i.(object)["description"].(string)] = i.(object)
	}
	require.Len(t, interactions, len(all))
	slices.SortFunc(all, func(a, b exchange) int { return strings.Compare(a.name, b.name) })
	for n, e := range all {
		i := byName[e.name]
		require.NotNil(t, i, e.name)
		interactions[n] = i
		if e.streamIs == "" {
			continue
		}
		response := i["response"].(object)
		rules, _ := response["matchingRules"].(object)
		rules["body"] = object{"$": object{"combine": "AND", "matchers": []object{{"match": "regex", "regex": e.streamIs}}}}
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	require.NoError(t, encoder.Encode(pact))
	return out.Bytes()
}

// TestConsumers runs the consumers' calls, and compares what they relied on with the committed pacts.
//
// ORCH-3050
func TestConsumers(t *testing.T) {
	for name, calls := range map[string][]call{"llama-orch-sdk": sdkCalls(), "llama-orch-cli": cliCalls()} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var all []exchange
			for _, c := range calls {
				t.Run(c.name, func(t *testing.T) { expect(t, name, dir, c) })
				all = append(all, c.exchanges...)
			}
			if t.Failed() {
				return // otherwise it would also report that its pact differs
			}
			file := name + "-" + providerName + ".json"
			t.Run("pact", func(t *testing.T) {
				now := canonical(t, filepath.Join(dir, file), all)
				committed := filepath.Join(pactDir, file)
				if *update {
					require.NoError(t, os.WriteFile(committed, now, 0o644))
					return
				}
				was, err := os.ReadFile(committed)
				require.NoError(t, err)
				require.Equal(t, string(was), string(now), "the consumer relies on other things than its pact says: run `go tool mage gen:pacts`")
			})
		})
	}
}
