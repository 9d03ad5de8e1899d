// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"time"

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

// answersWithin is how long a cut waits for an engine that answers. Other faults wait too, so it is short.
const answersWithin = 400 * time.Millisecond

// choose chooses the one whose connections are cut, as its death would cut them: any, or one that answers.
func (e engines) choose(ctx context.Context, p faultPlan) (at int) {
	for limit := time.Now().Add(answersWithin); ; {
		for at = range e {
			if p.busy && e[at].Busy() > 0 {
				return at
			}
		}
		if !p.busy || time.Now().After(limit) || !pause(ctx, 20*time.Millisecond) {
			return int(p.pick) % len(e)
		}
	}
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
