// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// scale says how much a run does.
type scale struct {
	name        string
	span        time.Duration // in which tasks are sent
	tasks       int           // sent one by one; bursts come in addition
	bursts      int
	workerKills int
	daemonKills int
	stops       int // SIGTERM and a new start
	fills       int // of the disk
	fronts      frontScale
}

var (
	short = scale{name: "short", span: 30 * time.Second, tasks: 75, bursts: 2, workerKills: 9, daemonKills: 6, stops: 1, fills: 1, fronts: frontScale{
		chats: 20, messages: 4, responses: 12, batches: 3, lines: 8, engineCuts: 10,
	}}
	long = scale{name: "long", span: 330 * time.Second, tasks: 640, bursts: 10, workerKills: 44, daemonKills: 36, stops: 5, fills: 4, fronts: frontScale{
		chats: 260, messages: 40, responses: 80, batches: 12, lines: 40, engineCuts: 80,
	}}
)

// poolPlan is a pool of the daemon under test. Its queue is small, so that bursts fill it.
type poolPlan struct {
	id       string
	replicas int
	capacity int
	policy   string
}

const (
	reject  = "reject"
	dropLRU = "drop-lru"
)

var pools = []poolPlan{{"wide", 2, 12, reject}, {"narrow", 1, 12, dropLRU}}

// loose is the pool whose tasks are best-effort on fronts too, since its engines have two slots. They are scripted ones, and no workers.
var loose = poolPlan{"loose", 2, 10, reject}

// pace is the workers' tokens a second. So a task takes from a third of a second to two, and most kills hit one within its stream.
const pace = 80

const burstTasks = 16 // more than any pool takes at once

// schedule says what a run does, and when. Equal seeds and scales give equal schedules. What the faults hit depends on the machine.
type schedule struct {
	seed   uint64
	scale  scale
	tasks  []taskPlan
	faults []faultPlan
	frontPlans
}

type taskPlan struct {
	at       time.Duration
	id       string
	pool     string
	priority string
	request  map[string]any // without id, pool and priority
	strict   bool           // asked for
	deadline time.Duration  // 0: none
	twice    bool           // sent twice at once, as an impatient client may do
	readers  []readerPlan
	cancel   *cancelPlan
}

// readerPlan is a client that reads the task's stream to its end, on as many connections as it takes.
type readerPlan struct {
	late  time.Duration // after the 202
	cuts  []int         // it hangs up after each of these numbers of events
	pause time.Duration // between hanging up and coming back
	slow  time.Duration // for each event
	fresh bool          // it comes back without naming its last event
	query bool          // it names its last event with ?after=
}

type cancelPlan struct {
	events int           // once the first reader has so many
	after  time.Duration // and so long after that
	times  int
}

type faultKind string

const (
	killWorker faultKind = "worker SIGKILL"
	killDaemon faultKind = "daemon SIGKILL"
	stopDaemon faultKind = "daemon SIGTERM"
	fillDisk   faultKind = "disk filled"
	emptyDisk  faultKind = "disk emptied"
	cutEngine  faultKind = "engine cut off"
)

type faultPlan struct {
	at   time.Duration
	kind faultKind
	pick uint32 // chooses among what it may hit
	busy bool   // prefers a worker that is in mid-stream
}

var (
	topics = []string{"rain", "GPUs", "coffee", "winter", "a queue", "spring", "unit tests", "snow", "autumn", "summer"}
	words  = []string{"nine", "fifty-nine", "thirty-five", "twenty-six", "five", "forty-four", "fifty-two", "twenty-one", "eleven", "three"}
)

// draw makes the schedule of a seed.
func draw(seed uint64, s scale) schedule {
	r := rand.New(rand.NewPCG(seed, 0x6368616f73)) // a schedule has to repeat
	p := schedule{seed: seed, scale: s}
	for range s.tasks {
		p.tasks = append(p.tasks, drawTask(r, p.someTime(r, 0, 1), ""))
	}
	for i := range s.bursts {
		at, pool := p.someTime(r, 0.05, 0.95), pools[i%len(pools)].id
		for range burstTasks {
			p.tasks = append(p.tasks, drawTask(r, at, pool))
		}
	}
	slices.SortStableFunc(p.tasks, func(a, b taskPlan) int { return int(a.at - b.at) })
	for i := range p.tasks {
		p.tasks[i].id = fmt.Sprintf("chaos-%d-%04d", seed, i)
	}

	// The daemon is left alone at the end, so that its last life is long enough to leak something.
	for range s.workerKills {
		p.fault(r, killWorker, p.someTime(r, 0.03, 1))
	}
	for range s.daemonKills {
		p.fault(r, killDaemon, p.someTime(r, 0.06, 0.9))
	}
	for range s.stops {
		p.fault(r, stopDaemon, p.someTime(r, 0.06, 0.9))
	}
	for i := range s.fills {
		at := p.someTime(r, 0.15, 0.8)
		p.fault(r, stopDaemon, at) // a ledger that was just closed has no free room in its write-ahead log
		p.fault(r, fillDisk, at+400*time.Millisecond)
		if i%2 == 0 {
			p.fault(r, killDaemon, at+1500*time.Millisecond)
		}
		p.fault(r, emptyDisk, at+2500*time.Millisecond)
	}
	p.drawFronts()
	slices.SortStableFunc(p.faults, func(a, b faultPlan) int { return int(a.at - b.at) })
	return p
}

func (p *schedule) someTime(r *rand.Rand, from, to float64) time.Duration {
	return time.Duration((from + r.Float64()*(to-from)) * float64(p.scale.span)).Round(time.Millisecond)
}

func (p *schedule) fault(r *rand.Rand, kind faultKind, at time.Duration) {
	p.faults = append(p.faults, faultPlan{at: at, kind: kind, pick: r.Uint32(), busy: chance(r, 0.85)})
}

func chance(r *rand.Rand, p float64) bool { return r.Float64() < p }

func upTo(r *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(d))).Round(time.Millisecond)
}

func drawTask(r *rand.Rand, at time.Duration, pool string) taskPlan {
	t := taskPlan{at: at, pool: pool, priority: "interactive", strict: chance(r, 0.75), twice: chance(r, 0.06), request: map[string]any{
		"prompt": fmt.Sprintf("Write a haiku about %s containing %q.\n\n", topics[r.IntN(len(topics))], words[r.IntN(len(words))]),
	}}
	if pool == "" {
		t.pool = pools[0].id
		if chance(r, 0.3) {
			t.pool = pools[1].id
		}
	}
	if chance(r, 0.4) {
		t.priority = "batch"
	}
	if chance(r, 0.9) {
		t.request["seed"] = r.Uint32N(1 << 31)
	}
	if chance(r, 0.35) { // near-random tokens hardly ever end by themselves, so this is a long stream
		t.request["max_tokens"] = 50 + r.IntN(100)
		t.request["params"] = map[string]any{"temperature": 3, "top_p": 1, "top_k": 0, "min_p": 0}
	}
	if chance(r, 0.04) {
		t.deadline = 500*time.Millisecond + upTo(r, 5*time.Second)
	}
	for range 1 + r.IntN(6)/3 + r.IntN(8)/7 {
		t.readers = append(t.readers, drawReader(r))
	}
	if chance(r, 0.12) {
		t.cancel = &cancelPlan{events: r.IntN(25), after: upTo(r, 60*time.Millisecond), times: 1 + r.IntN(3)}
		if chance(r, 0.3) { // while it is queued, most likely
			t.cancel.events = 0
		}
	}
	return t
}

func drawReader(r *rand.Rand) readerPlan {
	p := readerPlan{pause: upTo(r, 700*time.Millisecond), fresh: chance(r, 0.15), query: chance(r, 0.3)}
	if chance(r, 0.25) {
		p.late = upTo(r, 2*time.Second)
	}
	for chance(r, 0.35) {
		p.cuts = append(p.cuts, 1+r.IntN(40))
	}
	slices.Sort(p.cuts)
	if chance(r, 0.12) {
		p.slow = 10*time.Millisecond + upTo(r, 60*time.Millisecond)
	}
	return p
}

// body returns the task as it is sent. For the undisturbed run it keeps only what the bytes depend on: it has no deadline, and the seed of the
// admission.
func (t taskPlan) body(undisturbed bool, seed uint32) []byte {
	request := map[string]any{
		"task_id": t.id, "model_ref": "haiku", "priority": t.priority, "determinism": "best_effort",
		"placement": map[string]any{"mode": "pin", "pool_id": t.pool},
	}
	if t.strict {
		request["determinism"] = "strict"
	}
	maps.Copy(request, t.request)
	if t.deadline > 0 && !undisturbed {
		request["deadline_ms"] = t.deadline.Milliseconds()
	}
	if undisturbed {
		request["seed"] = seed
	}
	body, err := json.Marshal(request)
	if err != nil { // texts and numbers always encode
		panic(err)
	}
	return body
}
