// SPDX-License-Identifier: GPL-3.0-or-later

package vram

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/keptfile"
)

const (
	// fileVersion is the version of the file's form. A file of another version is set aside.
	fileVersion = 1
	// keptLoads is how many loads are kept over a restart: those seen last.
	keptLoads = 512
)

// learnedFile is what was learned of memory, as it is kept over a restart (LO-501).
type learnedFile struct {
	Version int     `json:"version"`
	Loads   []entry `json:"loads"`
}

// entry is what the workers of one load were seen to take.
type entry struct {
	Model    string           `json:"model_digest"`
	Ctx      int              `json:"ctx"`
	Slots    int              `json:"slots"`
	Cards    int              `json:"cards"`
	Seen     int64            `json:"seen"`           // when that was, in seconds since the epoch
	Observed map[string]int64 `json:"observed_bytes"` // by device class
}

// Recall reads what an earlier run learned. If the file cannot be used, it is renamed, and everything is learned anew.
func (l *Learned) Recall(path string, now time.Time, log *zap.Logger) error {
	if path == "" {
		return nil
	}
	l.path = path
	kept, err := keptfile.Recall(path, "what was learned of the models' memory", learnedFile.check, now, log)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range kept.Loads {
		lesson := l.lesson(Load{Model: m.Model, Ctx: m.Ctx, Slots: m.Slots, Cards: m.Cards})
		lesson.observed, lesson.seen = m.Observed, time.Unix(m.Seen, 0)
	}
	return nil
}

// check refuses what makes no sense.
func (f learnedFile) check() error {
	if f.Version != fileVersion {
		return fmt.Errorf("it is of version %d, and this program writes %d", f.Version, fileVersion)
	}
	for i, m := range f.Loads {
		if m.Model == "" || m.Ctx < 0 || m.Slots < 1 || m.Cards < 0 || len(m.Observed) == 0 {
			return fmt.Errorf("its load %d makes no sense", i)
		}
		for class, taken := range m.Observed {
			if class == "" || taken <= 0 || taken > 1<<50 {
				return fmt.Errorf("what its load %d took makes no sense", i)
			}
		}
	}
	return nil
}

// keep writes what is known, whole or not at all. It holds a lock for as long as it writes, so that an older state never replaces a
// newer one.
func (l *Learned) keep() error {
	if l.path == "" {
		return nil
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	return keptfile.Keep(l.path, learnedFile{fileVersion, l.known()})
}

// known are the loads that were seen last, the newest first.
func (l *Learned) known() []entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	loads := []entry{}
	for of, lesson := range l.loads {
		if len(lesson.observed) == 0 {
			continue
		}
		loads = append(loads, entry{
			Model: of.Model, Ctx: of.Ctx, Slots: of.Slots, Cards: of.Cards, Seen: lesson.seen.Unix(), Observed: maps.Clone(lesson.observed),
		})
	}
	slices.SortFunc(loads, func(a, b entry) int {
		return cmp.Or(cmp.Compare(b.Seen, a.Seen), cmp.Compare(a.Model, b.Model), cmp.Compare(a.Ctx, b.Ctx), cmp.Compare(a.Slots, b.Slots), cmp.Compare(a.Cards, b.Cards))
	})
	return loads[:min(len(loads), keptLoads)]
}
