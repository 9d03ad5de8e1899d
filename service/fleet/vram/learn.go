// SPDX-License-Identifier: GPL-3.0-or-later

package vram

import (
	"sync"
	"time"
)

const (
	// observedMargin is added to what was observed, because two loads do not take exactly the same.
	observedMargin = 1.05
	// ShortMargin is added to what turned out to be too little.
	ShortMargin = 1.15
	// shortFor is how long that counts. Whatever took the memory may have ended by then.
	shortFor = 15 * time.Minute
)

// Load is what the memory of a worker depends on.
type Load struct {
	Model      string // digest
	Ctx, Slots int
	Cards      int // 0: on the host
}

// Learned is what workers were seen to take. It replaces the estimate.
type Learned struct {
	path    string     // of the file that keeps it over a restart; empty: nothing keeps it. Set before anything is observed
	writing sync.Mutex // held while the file is written; comes before mu

	mu    sync.Mutex
	loads map[Load]*lesson
}

type lesson struct {
	observed map[string]int64 // by device class
	seen     time.Time        // when something was observed last
	short    int64            // what turned out to be too little, and a bit more
	until    time.Time        // when short counts no more
}

func (l *Learned) lesson(of Load) *lesson {
	if l.loads == nil {
		l.loads = map[Load]*lesson{}
	}
	if l.loads[of] == nil {
		l.loads[of] = &lesson{observed: map[string]int64{}}
	}
	return l.loads[of]
}

// Need returns what to reserve for the load on cards of the class. If the class is empty, because no card is chosen yet, it is the most of
// all classes.
func (l *Learned) Need(of Load, class string, estimate int64, now time.Time) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	lesson := l.lesson(of)
	var most int64
	for c, bytes := range lesson.observed {
		if class == "" || c == class {
			most = max(most, bytes)
		}
	}
	need := estimate
	if most > 0 {
		need = int64(float64(most) * observedMargin)
	}
	if now.Before(lesson.until) {
		need = max(need, lesson.short)
	}
	return need
}

// Observe notes what a worker took by the time it had answered its probe. It writes the file only if that is new.
func (l *Learned) Observe(of Load, class string, bytes int64, now time.Time) error {
	if bytes <= 0 || class == "" || of.Model == "" || of.Slots < 1 {
		return nil
	}
	l.mu.Lock()
	lesson := l.lesson(of)
	same := lesson.observed[class] == bytes
	lesson.observed[class], lesson.seen = bytes, now
	l.mu.Unlock()
	if same {
		return nil
	}
	return l.keep()
}

// TooLittle notes that this many bytes were too little, so that the next try asks for more.
func (l *Learned) TooLittle(of Load, bytes int64, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lesson := l.lesson(of)
	lesson.short, lesson.until = int64(float64(bytes)*ShortMargin), now.Add(shortFor)
}
