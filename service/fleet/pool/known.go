// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/keptfile"
)

const (
	// knownVersion is the version of the file's form. A file of another version is set aside.
	knownVersion = 1
	// keptFingerprints is how many fingerprints are kept: those seen last.
	keptFingerprints = 256
	// knownAfresh is after how long the time at which a fingerprint was seen is written again.
	knownAfresh = 24 * time.Hour
)

// Known is what a fingerprint stands for.
type Known struct {
	Facts Facts     `json:"facts"`
	Seen  time.Time `json:"seen"` // when a replica with it got ready last
}

// known are the fingerprints that replicas have had, also before a restart (LO-942).
type known struct {
	path string // empty: nothing is kept over a restart

	writing sync.Mutex // held while the file is written, so that an older state never replaces a newer one
	mu      sync.Mutex
	by      map[string]Known
}

type knownFile struct {
	Version int     `json:"version"`
	Known   []Known `json:"known"`
}

func (f knownFile) check() error {
	if f.Version != knownVersion {
		return fmt.Errorf("it is of version %d, and this program writes %d", f.Version, knownVersion)
	}
	for _, k := range f.Known {
		if k.Facts.Engine == "" || k.Seen.IsZero() {
			return errors.New("a fingerprint in it makes no sense")
		}
	}
	return nil
}

// recall reads what an earlier run knew.
func (k *known) recall(path string, now time.Time, log *zap.Logger) error {
	k.path = path
	k.mu.Lock()
	defer k.mu.Unlock()
	k.by = map[string]Known{}
	if path == "" {
		return nil
	}
	file, err := keptfile.Recall(path, "what fingerprints stand for", knownFile.check, now, log)
	if err != nil {
		return err
	}
	for _, one := range file.Known {
		k.by[Fingerprint(one.Facts)] = one
	}
	return nil
}

// learn remembers what a replica that got ready is.
func (k *known) learn(facts Facts, now time.Time) error {
	id := Fingerprint(facts)
	k.writing.Lock()
	defer k.writing.Unlock()
	k.mu.Lock()
	before := k.by[id]
	k.by[id] = Known{Facts: facts, Seen: now.UTC()}
	list := slices.SortedFunc(maps.Values(k.by), func(a, b Known) int {
		return cmp.Or(b.Seen.Compare(a.Seen), cmp.Compare(Fingerprint(a.Facts), Fingerprint(b.Facts)))
	})
	for len(list) > keptFingerprints {
		delete(k.by, Fingerprint(list[len(list)-1].Facts))
		list = list[:len(list)-1]
	}
	k.mu.Unlock()
	if k.path == "" || now.Sub(before.Seen) < knownAfresh {
		return nil
	}
	return keptfile.Keep(k.path, knownFile{knownVersion, list})
}

// Fingerprint returns what a fingerprint stands for.
func (m *Manager) Fingerprint(id string) (Known, bool) {
	m.known.mu.Lock()
	defer m.known.mu.Unlock()
	found, ok := m.known.by[id]
	return found, ok
}
