// SPDX-License-Identifier: GPL-3.0-or-later

// Package leasemodel is a model of the protocol by which daemons that share a PostgreSQL ledger hold a pool's queue (LO-702, LO-711, LO-714, LO-718), and a
// search through all orders in which the daemons' steps, the database's and the clock's can come (LO-749).
//
// It follows service/record/ledger/postgres (claim.go, writer.go) and service/host/lease. Each step of the model names the code that it stands for. There is one
// pool, which all daemons can serve, and one task, which has tokens without end until somebody records its end. Who reads the task's stream, reads it at
// all daemons at once.
//
// What the model takes for granted: the clocks of the machines run equally fast, PostgreSQL keeps its promises about locks and commits, and what a daemon looks at
// and then writes to a client is one step: a process that is stopped right between the two may send the one write that it had decided on.
package leasemodel

const (
	// Daemons is how many there are.
	Daemons = 3

	claims = 4 // that can be in the database at a time
)

// Fault is a mistake that can be planted, to see that the search finds it.
type Fault uint

// The faults.
const (
	NoFence       Fault = 1 << iota // a write looks neither whether its claim is there, nor whose the task is
	NoLook                          // tokens go out without a look at the lease
	WallClock                       // the lease is looked at by a clock that somebody can set back
	NoWait                          // who takes a claim does not wait for the commit that its holder is in
	FromTheAnswer                   // a lease counts from when the database answered, not from when it was asked
	NoSecondLook                    // a claim that was over when it was looked at is ended, though it was renewed since
	LeaveTheTasks                   // a pool is taken, and its tasks are not
)

// status is what a daemon's process is doing.
type status uint8

const (
	dead status = iota
	up          // one that was stopped, or whose machine sleeps, is one that takes no step while the others do
)

// phase is how far the transaction of a daemon is.
type phase uint8

const (
	idle     phase = iota
	open           // its first batch is in the database: it has the shared lock of its claim, if that is there
	waiting        // a claim that has picked what it takes, and waits for the locks of those
	answered       // it is committed, and the answer is on its way
)

// kind is what the transaction is for.
type kind uint8

const (
	none kind = iota
	renew
	claim
	accept
	end
)

// fence is the number of a claim. Numbers are never compared but for being the same, so the model uses small ones again.
type fence = uint8

const (
	noFence fence = 0
	gone    fence = 15 // of a claim that is not in the database any more
)

// op is a transaction.
type op struct {
	kind  kind
	phase phase
	fence fence // with which it writes; 0: its claim was not there when it began
	left  uint8 // ticks of the lease that it gives, since it was sent
	picks uint8 // the claims that it takes, as bits
	kept  bool  // of what it answers: the claim is there, or the pool is held
	runs  bool  // of what it answers: the task came with it
}

// daemon is what one of them knows.
type daemon struct {
	status status
	fence  fence // of its claim, as far as it knows
	left   uint8 // ticks that its lease runs for sure, by its own clock
	holds  bool  // the pool's queue, as far as it knows
	runs   bool  // the task
	late   bool  // its claim is gone, and clients have heard of the task from another daemon since
	op     op
}

// row is a claim in the database.
type row struct {
	fence fence // 0: there is none
	owner uint8
	left  uint8 // ticks until it is over, by the database's clock
}

// life is what the database has of the task.
type life uint8

const (
	absent life = iota
	live
	ended
)

// State is a state of the whole.
type State struct {
	daemons [Daemons]daemon
	rows    [claims]row
	pool    fence // that holds its queue
	task    life
	of      fence // that holds the task
}

// Model says which protocol it is.
type Model struct {
	Lease  uint8 // in ticks of the clock
	Faults Fault // that are planted
	// Busy is how many transactions can be open in the database at a time.
	Busy int
}

func (m Model) has(f Fault) bool { return m.Faults&f != 0 }

// Step is what happened, and what came of it.
type Step struct {
	Daemon int // who did it; -1: the clock
	What   string
	To     State
	Bad    string // what must not be; empty: nothing
}

func (s *State) row(f fence) *row {
	for i := range s.rows {
		if f != noFence && s.rows[i].fence == f {
			return &s.rows[i]
		}
	}
	return nil
}

func (s *State) remove(f fence) {
	if r := s.row(f); r != nil {
		*r = row{}
	}
}

// add makes a claim, with a number that nobody has.
func (s *State) add(owner int, left uint8) (fence, bool) {
	for i := range s.rows {
		if s.rows[i].fence != noFence {
			continue
		}
		used := func(f fence) bool {
			for j := range s.daemons {
				if s.daemons[j].fence == f || s.daemons[j].op.fence == f {
					return true
				}
			}
			return s.row(f) != nil || s.pool == f || s.of == f
		}
		f := fence(1)
		for used(f) {
			f++
		}
		s.rows[i] = row{f, uint8(owner), left}
		return f, true
	}
	return noFence, false
}

// claiming reports whether somebody has the lock that claims are made under.
func (s *State) claiming() bool {
	for i := range s.daemons {
		if o := &s.daemons[i].op; o.kind == claim && o.phase == waiting {
			return true
		}
	}
	return false
}

// locked reports whether a transaction has the shared lock of a claim.
func (s *State) locked(f fence, but int) bool {
	for i := range s.daemons {
		if o := &s.daemons[i].op; i != but && o.fence == f && f != noFence && f != gone && (o.phase == open || o.phase == waiting) {
			return true
		}
	}
	return false
}

// Next calls each with every step that can come next.
func (m Model) Next(s State, each func(Step)) {
	if s.over() {
		return
	}
	m.tick(s, func(step Step) {
		step.Daemon = -1
		each(step)
	})
	busy := 0
	for i := range s.daemons {
		if s.daemons[i].op.phase != idle {
			busy++
		}
	}
	for i := range s.daemons {
		d := &s.daemons[i]
		each := func(step Step) {
			step.Daemon = i
			each(step)
		}
		switch d.status {
		case dead:
			m.start(s, i, each)
		case up:
			m.signals(s, i, each)
			m.send(s, i, each)
			if d.op.phase == idle && busy < m.Busy {
				m.begin(s, i, each)
			}
			m.proceed(s, i, each)
			m.hear(s, i, each)
		}
		m.breaks(s, i, each)
	}
}

// over reports whether nothing more can happen that counts: the task has ended, and nobody has it.
func (s *State) over() bool {
	for i := range s.daemons {
		if d := &s.daemons[i]; d.runs || d.op.kind == accept || d.op.kind == end || d.op.runs {
			return false
		}
	}
	return s.task == ended
}

// tick lets time pass: leases run out by the database's clock, and by that of each process, stopped or not.
func (m Model) tick(s State, each func(Step)) {
	to := s
	for i := range to.rows {
		to.rows[i].left -= min(to.rows[i].left, 1)
	}
	for i := range to.daemons {
		d := &to.daemons[i]
		d.left -= min(d.left, 1)
		d.op.left -= min(d.op.left, 1)
	}
	if to != s {
		each(Step{What: "time passes", To: to})
	}
}

// start is Ledger.enter: a new life makes its claim, under the lock that claims are made under.
func (m Model) start(s State, i int, each func(Step)) {
	if s.claiming() || s.daemons[i].op.phase != idle {
		return
	}
	to := s
	f, ok := to.add(i, m.Lease)
	if ok {
		to.daemons[i] = daemon{status: up, fence: f, left: m.Lease}
		each(Step{What: "starts", To: to})
	}
}

// signals are those that anybody can send to a process.
func (m Model) signals(s State, i int, each func(Step)) {
	to := s
	to.kill(i)
	each(Step{What: "is killed", To: to})
	if s.daemons[i].op.phase == idle { // Ledger.leave: the writing goroutine has ended
		to = s
		to.remove(to.daemons[i].fence)
		to.kill(i)
		each(Step{What: "ends, and gives its claim up", To: to})
	}
	if m.has(WallClock) && s.daemons[i].left == 0 && s.daemons[i].holds {
		to = s
		to.daemons[i].left = m.Lease
		each(Step{What: "has its clock set back", To: to})
	}
}

// kill ends a process. What its transaction had reached stays in the database for now.
func (s *State) kill(i int) {
	s.daemons[i] = daemon{op: s.daemons[i].op}
	if s.daemons[i].op.phase == answered {
		s.daemons[i].op = op{}
	}
}

// send is the way of a token to clients, behind Keeper.MaySend and Ledger.Holds.
func (m Model) send(s State, i int, each func(Step)) {
	d := &s.daemons[i]
	if !d.runs || !d.holds || d.left == 0 && !m.has(NoLook) {
		return
	}
	to, step := s, Step{What: "sends a token"}
	if d.late {
		step.Bad = "a token of a daemon whose task another one has"
	}
	to.heard(i)
	step.To = to
	each(step)
}

// heard is that clients hear of the task from a daemon.
func (s *State) heard(from int) {
	for i := range s.daemons {
		if d := &s.daemons[i]; i != from && d.runs && s.row(d.fence) == nil {
			d.late = true
		}
	}
}

// begin is the first batch of a commit: writer.transact. It takes the shared lock of its claim, and looks whether that is there.
func (m Model) begin(s State, i int, each func(Step)) {
	d := &s.daemons[i]
	for _, k := range []kind{renew, claim, accept, end} {
		if k == accept && (!d.holds || s.task != absent) || k == end && !d.runs {
			continue
		}
		to := s
		o := op{kind: k, phase: open}
		if k == renew || k == claim {
			o.left = m.Lease
		}
		if s.row(d.fence) != nil {
			o.fence = d.fence
		} else if m.has(NoFence) && (k == accept || k == end) {
			o.fence = d.fence
		}
		to.daemons[i].op = o
		if o.fence == 0 && (k == accept || k == end) { // errGone
			to.daemons[i].op = op{}
			if to == s {
				continue
			}
		}
		each(Step{What: [...]string{renew: "asks to renew", claim: "asks for a claim", accept: "writes an accept", end: "writes the end"}[k], To: to})
	}
}

// proceed does what a transaction does in the database next.
func (m Model) proceed(s State, i int, each func(Step)) {
	d := &s.daemons[i]
	switch {
	case d.op.phase == open && d.op.kind == claim:
		m.pick(s, i, each)
	case d.op.phase == waiting:
		m.take(s, i, each)
	case d.op.phase == open:
		m.commit(s, i, each)
	}
}

// pick is transaction.claim and the first half of transaction.takeOver: under the lock that claims are made under, the own claim is renewed or another made, and
// those that are over are looked for.
func (m Model) pick(s State, i int, each func(Step)) {
	if s.claiming() {
		return
	}
	to := s
	o := &to.daemons[i].op
	if r := to.row(o.fence); r != nil {
		r.left = m.Lease
	} else {
		f, ok := to.add(i, m.Lease)
		if !ok {
			return
		}
		o.fence = f
	}
	o.phase = waiting
	for n, r := range to.rows {
		if over(to, i, r) {
			o.picks |= 1 << n
		}
	}
	each(Step{What: "picks what is over", To: to})
}

// over is the condition of transaction.takeOver: an earlier claim of the same daemon, or one whose lease is over, with the pool or with none.
func over(s State, i int, r row) bool {
	return r.fence != 0 && r.fence != s.daemons[i].op.fence && (int(r.owner) == i || r.left == 0)
}

// take is the rest of transaction.takeOver, once no commit of those whose claims end is under way.
func (m Model) take(s State, i int, each func(Step)) {
	own := s.daemons[i].op.fence
	to := s
	for n, r := range s.rows {
		if s.daemons[i].op.picks&(1<<n) == 0 || r.fence == 0 {
			continue
		}
		if s.locked(r.fence, i) && !m.has(NoWait) {
			return // it waits
		}
		if over(s, i, r) || m.has(NoSecondLook) {
			to.remove(r.fence)
		}
	}
	if to.row(to.pool) == nil {
		to.pool = own
	}
	if to.task == live && to.row(to.of) == nil && !m.has(LeaveTheTasks) {
		to.of = own
	}
	o := &to.daemons[i].op
	o.phase, o.picks, o.kept, o.runs = answered, 0, to.pool == own, to.task == live && to.of == own
	each(Step{What: "takes, and commits", To: to})
}

// commit is that of a renewal, an accept or an end.
func (m Model) commit(s State, i int, each func(Step)) {
	to, step := s, Step{}
	o := &to.daemons[i].op
	own := o.fence
	switch o.kind {
	default: // a claim, which has a way of its own
		return
	case renew:
		step.What = "commits a renewal"
		if r := to.row(own); r != nil {
			r.left, o.kept = m.Lease, true
		}
	case accept:
		step.What = "commits an accept"
		if to.task != absent { // a repeated submit: it gets the first one's admission
			break
		}
		step.Bad = wrote(s, own)
		to.task, to.of, o.runs = live, own, true
	case end:
		step.What = "commits the end"
		if m.has(NoFence) {
			if to.task == ended {
				step.Bad = "a second outcome"
			}
		} else if to.task != live || to.of != own {
			break
		}
		if step.Bad == "" {
			step.Bad = wrote(s, own)
		}
		to.task, to.of = ended, 0
		to.heard(i)
	}
	o.phase = answered
	step.To = to
	each(step)
}

// wrote says what is wrong with a write of a claim about the pool's tasks.
func wrote(s State, own fence) string {
	switch {
	case s.row(own) == nil:
		return "a write of a claim that another daemon has ended"
	case s.pool != own:
		return "a write about a pool that another claim holds"
	}
	return ""
}

// hear is the answer of a commit, and what a daemon makes of it.
func (m Model) hear(s State, i int, each func(Step)) {
	o := s.daemons[i].op
	if o.phase != answered {
		return
	}
	to := s
	d := &to.daemons[i]
	d.op = op{}
	left := o.left
	if m.has(FromTheAnswer) {
		left = m.Lease
	}
	switch {
	case o.kind == renew && o.kept:
		d.left = left
	case o.kind == renew: // Options.Lost: the daemon ends, and its next life stands by
		to.kill(i)
	case o.kind == claim:
		d.late = d.late && d.fence == o.fence
		d.fence, d.left, d.holds, d.runs = o.fence, left, o.kept, o.kept && (d.runs || o.runs)
	case o.kind == accept:
		d.runs = d.runs || o.runs
	case o.kind == end:
		d.runs = false
	}
	each(Step{What: "hears of its commit", To: to})
}

// breaks is a connection that breaks, with the daemon or without it: what was open is rolled back, and of what was committed nobody hears. The database also
// ends a transaction whose daemon says nothing for as long as a lease, and one of two that wait for each other.
func (m Model) breaks(s State, i int, each func(Step)) {
	d := &s.daemons[i]
	if d.op.phase == idle {
		return
	}
	to := s
	to.daemons[i].op = op{}
	if d.op.kind == end && d.op.phase == answered || d.op.kind == accept && d.op.phase == answered {
		// writer.doubt finds out what became of it, so that nothing is lost but time; a claim and a renewal are just made again.
		return
	}
	each(Step{What: "has its connection cut", To: to})
}
