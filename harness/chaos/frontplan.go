// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// frontScale says how much a run does on the fronts.
type frontScale struct {
	chats, messages, responses int
	batches, lines             int // lines of each batch that can be run
	engineCuts                 int
}

// frontPlans are what the clients of fronts do.
type frontPlans struct {
	chats     []chatPlan // messages too
	responses []responsePlan
	batches   []batchPlan
}

// chatPlan is a request that is answered by a text, and those who send it.
type chatPlan struct {
	at      time.Duration
	id      string
	kind    string // of dialects
	strict  bool   // as the pools of its model make it
	key     string // empty: it has none
	request map[string]any
	clients []clientPlan // more than one only with a key: the others join
	other   *otherPlan   // nil: nobody uses its key for something else
}

// clientPlan is one client of a request. It repeats the request until it has an answer.
type clientPlan struct {
	late   time.Duration
	cuts   []int // it hangs up after so many frames of a try
	pause  time.Duration
	leaves bool // it hangs up for good, as it hangs up
}

// responsePlan is a response in the background.
type responsePlan struct {
	at      time.Duration
	id      string
	strict  bool
	key     string
	request map[string]any
	cuts    []int // of the client that creates it, where it reads the stream of its own request
	readers []responseReaderPlan
	polls   time.Duration // from one look at it to the next; 0: nobody looks
	cancel  time.Duration // after its id is known; 0: nobody cancels it
	next    *otherPlan    // goes on from it; nil: nothing does
}

// responseReaderPlan is another client of a response's stream.
type responseReaderPlan struct {
	late  time.Duration
	cuts  []int
	pause time.Duration
	fresh bool // after a break it reads the whole again
	joins bool // it begins by sending the request again, with its key
}

// batchPlan is a batch: a file, and what is done with it.
type batchPlan struct {
	at       time.Duration
	id       string
	kind     string // of its lines
	lines    []linePlan
	cancelAt int // so many lines have ended; 0: it is not canceled
}

// linePlan is a line of a file.
type linePlan struct {
	customID string
	strict   bool
	request  map[string]any
	broken   string // the line as it is, of one that cannot be run
	names    bool   // a broken one that still has its custom_id
}

// drawFronts adds to a schedule what happens on the fronts. It draws from a source of its own, so that native tasks stay as they were.
func (p *schedule) drawFronts() {
	r := rand.New(rand.NewPCG(p.seed, 0x66726f6e7473)) // a schedule has to repeat
	s := p.scale.fronts
	for i := range s.chats + s.messages {
		c := chatPlan{at: p.someTime(r, 0, 0.95), kind: chat, id: fmt.Sprintf("chat-%d-%03d", p.seed, i)}
		if i >= s.chats {
			c.kind = message
		}
		c.strict, c.request = drawRequest(r, c.kind)
		c.request["stream"] = chance(r, 0.65)
		clients := 1
		if chance(r, 0.55) {
			c.key, clients = "key of "+c.id, 1+r.IntN(3)
		}
		for n := range clients {
			c.clients = append(c.clients, drawClient(r, n, c.key != ""))
		}
		if c.key != "" && chance(r, 0.6) {
			c.other = drawOther(r, c.kind)
			c.other.request["stream"] = chance(r, 0.5)
		}
		p.chats = append(p.chats, c)
	}
	for i := range s.responses {
		one := drawResponse(r, p.someTime(r, 0, 0.9), fmt.Sprintf("response-%d-%03d", p.seed, i))
		for i < conversing && (!one.strict || one.cancel > 0) {
			one = drawResponse(r, p.someTime(r, 0, 0.5), one.id)
		}
		if i < conversing || one.strict && one.at < p.scale.span/2 && chance(r, 0.4) {
			one.next = drawOther(r, response)
			one.request["max_output_tokens"] = shortAnswer // the context holds the whole conversation
		}
		p.responses = append(p.responses, one)
	}
	for i := range s.batches {
		b := batchPlan{at: p.someTime(r, 0, 0.4), kind: []string{chat, response, message}[i%3], id: fmt.Sprintf("batch-%d-%02d", p.seed, i)}
		if i%4 == 2 {
			b.cancelAt = 1 + r.IntN(s.lines/2)
		}
		b.lines = drawLines(r, b.kind, s.lines)
		p.batches = append(p.batches, b)
	}
	answered := []time.Duration{p.someTime(r, 0.03, 1)} // a cut is best where a best-effort answer is asked for
	for _, c := range p.chats {
		if !c.strict {
			answered = append(answered, c.at)
		}
	}
	for _, one := range p.responses {
		if !one.strict {
			answered = append(answered, one.at)
		}
	}
	for range s.engineCuts {
		p.fault(r, cutEngine, answered[r.IntN(len(answered))]+300*time.Millisecond+upTo(r, 1500*time.Millisecond))
	}
	byTime := func(a, b time.Duration) int { return int(a - b) }
	slices.SortStableFunc(p.chats, func(a, b chatPlan) int { return byTime(a.at, b.at) })
	slices.SortStableFunc(p.responses, func(a, b responsePlan) int { return byTime(a.at, b.at) })
}

// looseModel is the model of the pool whose tasks are best-effort.
const looseModel = "loose"

// drawRequest draws what a model is asked, in the words of a dialect. Of a message nobody can set the seed, so it is decoded greedily.
func drawRequest(r *rand.Rand, kind string) (strict bool, request map[string]any) {
	question := fmt.Sprintf("Write a haiku about %s containing %q.\n\n", topics[r.IntN(len(topics))], words[r.IntN(len(words))])
	asked := []map[string]any{{"role": "user", "content": question}}
	seed, most, long := r.Uint32N(1<<31), 40+r.IntN(80), chance(r, 0.5)
	if strict = chance(r, 0.7); !strict {
		most = 2 * len(looseWords)
	}
	switch kind {
	case message:
		request = map[string]any{"messages": asked, "max_tokens": most, "temperature": 0}
	case response:
		request = map[string]any{"input": question, "max_output_tokens": most, "seed": seed}
	default:
		request = map[string]any{"messages": asked, "max_completion_tokens": most, "seed": seed}
	}
	if long && kind != message { // see drawTask
		maps.Copy(request, map[string]any{"temperature": 3, "top_p": 1, "top_k": -1, "min_p": 0})
	}
	if request["model"] = "haiku"; !strict {
		request["model"] = looseModel
	}
	return strict, request
}

func drawClient(r *rand.Rand, n int, keyed bool) clientPlan {
	p := clientPlan{pause: upTo(r, 500*time.Millisecond), leaves: n == 0 && chance(r, 0.12)}
	if n > 0 {
		p.late = upTo(r, 8*time.Second)
	}
	for (keyed || p.leaves) && chance(r, 0.4) {
		p.cuts = append(p.cuts, 2+r.IntN(30))
	}
	return p
}

func drawResponse(r *rand.Rand, at time.Duration, id string) responsePlan {
	p := responsePlan{at: at, id: id}
	p.strict, p.request = drawRequest(r, response)
	if p.strict {
		p.request["max_output_tokens"] = 100 + r.IntN(100)
	}
	p.request["background"], p.request["stream"] = true, chance(r, 0.7)
	if chance(r, 0.5) {
		p.key = "key of " + id
	}
	for chance(r, 0.4) {
		p.cuts = append(p.cuts, 3+r.IntN(30))
	}
	for range 1 + r.IntN(3) {
		reader := responseReaderPlan{late: upTo(r, 4*time.Second), pause: upTo(r, 500*time.Millisecond), fresh: chance(r, 0.25), joins: p.key != "" && chance(r, 0.3)}
		for chance(r, 0.45) {
			reader.cuts = append(reader.cuts, 1+r.IntN(30))
		}
		p.readers = append(p.readers, reader)
	}
	if chance(r, 0.6) {
		p.polls = 100*time.Millisecond + upTo(r, 300*time.Millisecond)
	}
	if chance(r, 0.15) {
		p.cancel = upTo(r, 2*time.Second)
	}
	return p
}

// drawLines draws the lines of a file: so many that can be run, and some that cannot.
func drawLines(r *rand.Rand, kind string, n int) (lines []linePlan) {
	for i := range n {
		l := linePlan{customID: fmt.Sprintf("line %d", i)}
		if kind == message {
			l.customID = fmt.Sprintf("line-%d", i)
		}
		l.strict, l.request = drawRequest(r, kind)
		lines = append(lines, l)
	}
	again := lines[0].text(kind)
	if kind == message { // one that is torn, or there twice, is refused with its batch
		broken := strings.NewReplacer("line-0", "no-model", `"haiku"`, `"nobody"`, `"loose"`, `"nobody"`).Replace(again)
		return slices.Insert(lines, r.IntN(n), linePlan{broken: broken, customID: "no-model", names: true})
	}
	lines = append(lines,
		linePlan{broken: `{"custom_id":"torn","method":"POST"`},
		linePlan{broken: again}, // the custom_id is another line's
		linePlan{broken: strings.NewReplacer("line 0", "no model", `"haiku"`, `"nobody"`, `"loose"`, `"nobody"`).Replace(again), customID: "no model", names: true})
	r.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	if first := slices.IndexFunc(lines, func(l linePlan) bool { return l.broken == again }); first < slices.IndexFunc(lines, func(l linePlan) bool { return l.customID == "line 0" }) {
		slices.Reverse(lines) // so that the second one is the broken one
	}
	return lines
}

// text is a line as it stands in a file.
func (l linePlan) text(kind string) string {
	if l.broken != "" {
		return l.broken
	}
	if kind == message {
		return string(encode(map[string]any{"custom_id": l.customID, "params": l.request}))
	}
	return string(encode(map[string]any{"custom_id": l.customID, "method": "POST", "url": dialects[kind].path, "body": l.request}))
}

// file is the batch's file. Requests of messages are sent in one body.
func (p batchPlan) file() string {
	if p.kind == message {
		var all []string
		for _, l := range p.lines {
			all = append(all, l.text(p.kind))
		}
		return `{"requests":[` + strings.Join(all, ",") + `]}`
	}
	var b strings.Builder
	for _, l := range p.lines {
		b.WriteString(l.text(p.kind) + "\n")
	}
	return b.String()
}

// runnable is how many lines of the batch can be run.
func (p batchPlan) runnable() (n int) {
	for _, l := range p.lines {
		if l.broken == "" {
			n++
		}
	}
	return n
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // texts and numbers always encode
		panic(err)
	}
	return b
}
