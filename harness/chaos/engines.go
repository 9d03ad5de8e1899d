// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"fmt"
	"net/http/httptest"
	"strings"

	"github.com/llama-orch/llama-orch/harness/scripted"
)

// looseWords are what the engines of the loose pool answer to everything, word by word. Each of them comes once, so that a text that was repeated or
// left out is seen.
var looseWords = func() (words []string) {
	for i := range 50 {
		words = append(words, fmt.Sprintf("word%d ", i))
	}
	return words
}()

// looseText is the whole answer.
var looseText = strings.Join(looseWords, "")

// wordEvery is the milliseconds from one word to the next.
const wordEvery = 40

// looseScript is how the engines answer. Of a chat whose answer has begun they say the rest.
func looseScript() (s scripted.Script) {
	for n := len(looseWords); n >= 0; n-- {
		rule := scripted.Rule{Contains: "<|im_start|>assistant\n" + strings.Join(looseWords[:n], "")}
		for _, word := range looseWords[n:] {
			rule.Play = append(rule.Play, scripted.Step{Text: word}, scripted.Step{PauseMS: wordEvery})
		}
		s.Rules = append(s.Rules, rule)
	}
	return s
}

// engines serve the loose pool. They run in this process, and outlive the daemon.
type engines []looseEngine

type looseEngine struct {
	*scripted.Engine
	*httptest.Server
}

func startEngines() (e engines) {
	for range loose.replicas {
		engine := scripted.New(scripted.Options{Slots: 2, Script: looseScript()})
		e = append(e, looseEngine{engine, httptest.NewServer(engine)})
	}
	return e
}

// choose chooses the one whose connections are cut, as its death would cut them: any, or one that answers.
func (e engines) choose(p faultPlan) int {
	at := int(p.pick) % len(e)
	if other := (at + 1) % len(e); p.busy && e[at].Busy() < e[other].Busy() {
		at = other
	}
	return at
}

func (e engines) close() {
	for _, server := range e {
		server.CloseClientConnections()
		server.Close()
	}
}

// urls are their addresses, as the daemon's configuration has them.
func (e engines) urls() string {
	var all []string
	for _, server := range e {
		all = append(all, fmt.Sprintf("%q", server.URL))
	}
	return strings.Join(all, ", ")
}
