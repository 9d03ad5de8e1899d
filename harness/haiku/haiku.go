// SPDX-License-Identifier: GPL-3.0-or-later

// Package haiku proves that a server streams what a model computes now (HAIKU-15). It asks for a haiku with a word that nobody could know before, the
// current minute, and then looks at all that an answer leaves behind: the counters, the engine's processes, the source tree, a replay, and what the model
// says when it is given the first half of its own answer.
//
// Everything goes over the public API. Only the CPU time of the engine's processes is read from this machine.
package haiku

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/metrics"
)

// The checks, by name.
const (
	TheMinute   = "the answer holds the minute at which it was asked for"
	TheCounters = "the counters moved by what was streamed"
	TheWork     = "the engine's process worked, and the more the longer the prompt"
	TheTree     = "no file of the source tree holds the answer"
	TheReplay   = "a replay gives the same answer"
	TheHalf     = "the model goes on from its own first line with its own second"
)

const (
	rounds    = 3  // haiku in one run
	tries     = 5  // so often the minute is asked for: a model may leave out a word, and a minute may pass
	maxTokens = 64 // a haiku of the bundled model has 25 to 35
	longer    = 35 // words of the long prompt; the bundled model's context of 256 tokens holds them
	grows     = 2  // so many times the work of a short prompt is expected of the long one, at least
)

// Probe is what a run needs.
type Probe struct {
	Client *client.Client
	Pool   string
	Model  string
	Root   string           // of the source tree
	Now    func() time.Time // the clock whose minute is asked for
	// Processes returns the engine's processes on this machine. A pool whose replicas sit on cards needs none: their use counts too.
	Processes func() ([]int, error)
}

// Check is one thing that was looked at.
type Check struct {
	Name string
	Saw  string // what was seen, with figures
	OK   bool
}

// Report is what a run saw.
type Report struct {
	Haiku   []string // the answers
	Engine  string   // its version, as the receipts have it
	Checks  []Check
	Strict  bool // the receipts promise the same bytes
	Minutes []string
}

// Failed returns the names of the checks that failed.
func (r *Report) Failed() (names []string) {
	for _, c := range r.Checks {
		if !c.OK {
			names = append(names, c.Name)
		}
	}
	return names
}

// String is the report for people.
func (r *Report) String() string {
	var b strings.Builder
	for i, text := range r.Haiku {
		fmt.Fprintf(&b, "%s:\n    %s\n", r.Minutes[i], strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    "))
	}
	for _, c := range r.Checks {
		word := "yes"
		if !c.OK {
			word = "NO"
		}
		fmt.Fprintf(&b, "%-3s %s: %s\n", word, c.Name, c.Saw)
	}
	return b.String()
}

// asked is a task that has ended.
type asked struct {
	id, prompt, text string
	tokens           int
	receipt          client.Receipt
}

// Run asks for haiku and looks at what they leave behind. An error means that this could not be done; what failed of the checks is in the report.
func (p *Probe) Run(ctx context.Context) (*Report, error) {
	r := &Report{}
	before, err := p.counted(ctx)
	if err != nil {
		return nil, err
	}
	all, err := p.haiku(ctx, r)
	if err != nil {
		return nil, err
	}
	streamed := 0
	for _, a := range all {
		streamed += a.tokens
	}
	after, err := p.counted(ctx)
	if err != nil {
		return nil, err
	}
	r.add(TheCounters, after-before == float64(streamed) && streamed > 0, "%d token events, tokens_out_total rose by %g", streamed, after-before)
	for _, look := range []func(context.Context, *Report, []asked) error{p.work, p.tree, p.replay, p.half} {
		if err := look(ctx, r, all[len(all)-rounds:]); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *Report) add(name string, ok bool, saw string, args ...any) {
	r.Checks = append(r.Checks, Check{Name: name, OK: ok, Saw: fmt.Sprintf(saw, args...)})
}

// haiku asks until there are as many haiku with their minute as wanted, or too many without. It returns every task; those of the report are the last.
func (p *Probe) haiku(ctx context.Context, r *Report) (all []asked, err error) {
	missed := 0
	var good []asked
	for len(good) < rounds {
		minute := Minute(p.Now().Minute())
		a, err := p.ask(ctx, map[string]any{
			"prompt": fmt.Sprintf("Write a haiku about %s containing %q.\n\n", Topic(), minute), "max_tokens": maxTokens,
			"params": map[string]any{"temperature": 0},
		})
		if err != nil {
			return nil, err
		}
		if !hasWords(a.text, minute) && missed < tries-1 {
			missed++
			all = append(all, a)
			continue
		}
		good = append(good, a)
		r.Haiku, r.Minutes = append(r.Haiku, a.text), append(r.Minutes, minute)
		r.Engine, r.Strict = a.receipt.EngineVersion, a.receipt.Determinism == "strict"
	}
	with := 0
	for i, text := range r.Haiku {
		if hasWords(text, r.Minutes[i]) {
			with++
		}
	}
	r.add(TheMinute, with == rounds, "%d of %d answers; %d more had no such word", with, rounds, missed)
	return append(all, good...), nil
}

// hasWords reports whether a text holds words as whole words. Upper case and line breaks do not matter.
func hasWords(text, words string) bool {
	apart := func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' }
	in := strings.Join(strings.FieldsFunc(strings.ToLower(text), apart), " ")
	return strings.Contains(" "+in+" ", " "+words+" ")
}

// ask runs a task to its end. A task that fails is an error.
func (p *Probe) ask(ctx context.Context, body map[string]any) (a asked, err error) {
	a.id = fmt.Sprintf("haiku-%016x", rand.Uint64())
	body["task_id"], body["model_ref"], body["placement"] = a.id, p.Model, map[string]any{"mode": "pin", "pool_id": p.Pool}
	a.prompt, _ = body["prompt"].(string)
	request, err := json.Marshal(body)
	if err != nil {
		return a, fmt.Errorf("write the task: %w", err)
	}
	if _, err := p.Client.Submit(ctx, request); err != nil {
		return a, fmt.Errorf("submit a task: %w", err)
	}
	stream, err := p.Client.Open(ctx, a.id)
	if err != nil {
		return a, fmt.Errorf("stream task %s: %w", a.id, err)
	}
	if err := stream.Rest(); err != nil {
		return a, fmt.Errorf("stream task %s: %w", a.id, err)
	}
	if stream.Fail != nil {
		return a, fmt.Errorf("task %s failed: %s: %s", a.id, stream.Fail.Code, stream.Fail.Message)
	}
	a.text, a.tokens, a.receipt = stream.Text(), len(stream.Tokens), stream.End.Receipt
	return a, nil
}

// counted is the sum of tokens_out_total of the pool.
func (p *Probe) counted(ctx context.Context) (sum float64, err error) {
	text, err := p.Client.Get(ctx, "/metrics")
	if err != nil {
		return 0, fmt.Errorf("ask for the counters: %w", err)
	}
	scrape, err := metrics.Parse(text)
	if err != nil {
		return 0, err
	}
	for _, m := range scrape["tokens_out_total"].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "pool_id" && l.GetValue() == p.Pool {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum, nil
}

// work compares what the engine computes for a short and for a long prompt. Each begins with words that were never asked before, so that no cache has it.
func (p *Probe) work(ctx context.Context, r *Report, _ []asked) error {
	pids, err := p.Processes()
	if err != nil {
		return err
	}
	var short, long []time.Duration
	used := false
	for range rounds {
		for words, took := range map[int]*[]time.Duration{1: &short, longer: &long} {
			before, err := cpu(pids)
			if err != nil {
				return err
			}
			if _, err := p.ask(ctx, map[string]any{"prompt": made(words), "max_tokens": 1}); err != nil {
				return err
			}
			after, err := cpu(pids)
			if err != nil {
				return err
			}
			*took = append(*took, after-before)
			busy, err := p.cardsBusy(ctx)
			if err != nil {
				return err
			}
			used = used || busy
		}
	}
	slices.Sort(short)
	slices.Sort(long)
	few, many := short[rounds/2], long[rounds/2]
	saw := fmt.Sprintf("%.1f ms of CPU for a prompt of %d made-up words, %.1f ms for one of 1, in %d processes", milli(many), longer, milli(few), len(pids))
	if used {
		saw += "; a card that the pool sits on was in use"
	}
	r.add(TheWork, used || few > 0 && many >= grows*few, "%s", saw)
	return nil
}

func milli(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// made makes up words of five letters.
func made(words int) string {
	all := make([]string, words)
	for i := range all {
		word := make([]byte, 5)
		for at := range word {
			word[at] = byte('a' + rand.IntN(26))
		}
		all[i] = string(word)
	}
	return strings.Join(all, " ")
}

// cardsBusy reports whether a card that a replica of the pool sits on is in use.
func (p *Probe) cardsBusy(ctx context.Context) (bool, error) {
	var health struct {
		Replicas []struct {
			Cards []int `json:"cards"`
		} `json:"replicas"`
	}
	if err := p.get(ctx, "/v1/pools/"+p.Pool+"/health", &health); err != nil {
		return false, err
	}
	var cards []int
	for _, replica := range health.Replicas {
		cards = append(cards, replica.Cards...)
	}
	if len(cards) == 0 {
		return false, nil
	}
	var list struct {
		GPUs []struct {
			Index       int     `json:"index"`
			Utilization float64 `json:"utilization"`
		} `json:"gpus"`
	}
	if err := p.get(ctx, "/v1/gpus", &list); err != nil {
		return false, err
	}
	for _, card := range list.GPUs {
		if card.Utilization > 0 && slices.Contains(cards, card.Index) {
			return true, nil
		}
	}
	return false, nil
}

func (p *Probe) get(ctx context.Context, path string, into any) error {
	answer, err := p.Client.Get(ctx, path)
	if err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}

// tree looks for the answers in the source tree.
func (p *Probe) tree(_ context.Context, r *Report, good []asked) error {
	var found []string
	for _, a := range good {
		files, err := holding(p.Root, a.text)
		if err != nil {
			found = append(found, err.Error())
			continue
		}
		found = append(found, files...)
	}
	if len(found) > 0 {
		r.add(TheTree, false, "%s", strings.Join(found, ", "))
		return nil
	}
	r.add(TheTree, true, "looked for all %d", len(good))
	return nil
}

// replay has the server answer the last task again.
func (p *Probe) replay(ctx context.Context, r *Report, good []asked) error {
	first := good[len(good)-1]
	again, err := p.ask(ctx, map[string]any{"replay_of": first.id, "max_tokens": maxTokens, "seed": first.receipt.Seed, "params": map[string]any{"temperature": 0}})
	if err != nil {
		return err
	}
	r.add(TheReplay, again.text == first.text && again.id != first.id, "%d tokens, SHA-256 %.12s and %.12s", again.tokens,
		first.receipt.TranscriptSHA256, again.receipt.TranscriptSHA256)
	return nil
}

// half gives the model its own first line, and expects its own second one: who answers from a list begins anew. An engine may compute a token of a prompt
// a little differently from one that it decoded, so one of the answers may differ.
func (p *Probe) half(ctx context.Context, r *Report, good []asked) error {
	same := 0
	var others []string
	for _, a := range good {
		first, rest, two := strings.Cut(a.text, "\n")
		if !two {
			others = append(others, fmt.Sprintf("%q is one line", a.text))
			continue
		}
		on, err := p.ask(ctx, map[string]any{
			"prompt": a.prompt + first + "\n", "max_tokens": maxTokens, "params": map[string]any{"temperature": 0},
		})
		if err != nil {
			return err
		}
		want, _, _ := strings.Cut(rest, "\n")
		if got, _, _ := strings.Cut(on.text, "\n"); got == want && want != "" {
			same++
		} else {
			others = append(others, fmt.Sprintf("%q instead of %q", got, want))
		}
	}
	r.add(TheHalf, same >= rounds-1, "%d of %d went on the same%s", same, rounds, strings.Join(append([]string{""}, others...), "; "))
	return nil
}
