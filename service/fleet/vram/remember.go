// SPDX-License-Identifier: GPL-3.0-or-later

package vram

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/atomicfile"
)

const (
	// fileVersion is the version of the file's form. A file of another version is set aside.
	fileVersion = 1
	// keptLoads is how many loads are kept over a restart: those seen last.
	keptLoads = 512
	// fileBytes bounds what is read of the file.
	fileBytes = 4 << 20
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
	data, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var loads []entry
	if err == nil {
		loads, err = parse(data)
	}
	if err != nil {
		aside := path + ".aside-" + now.UTC().Format("20060102T150405.000Z")
		log.Warn("what was learned of the models' memory cannot be read, so it is set aside and learned anew", zap.String("moved_to", aside), zap.Error(err))
		if err := os.Rename(path, aside); err != nil {
			return fmt.Errorf("set %s aside: %w; let the user who runs orchestratord write the folder", path, err)
		}
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range loads {
		lesson := l.lesson(Load{Model: m.Model, Ctx: m.Ctx, Slots: m.Slots, Cards: m.Cards})
		lesson.observed, lesson.seen = m.Observed, time.Unix(m.Seen, 0)
	}
	return nil
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, fileBytes+1))
	if err == nil && len(data) > fileBytes {
		err = fmt.Errorf("it has more than %d bytes", fileBytes)
	}
	return data, err
}

// parse reads the file's content, and refuses what makes no sense.
func parse(data []byte) ([]entry, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var f learnedFile
	if err := decoder.Decode(&f); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows its content")
	}
	if f.Version != fileVersion {
		return nil, fmt.Errorf("it is of version %d, and this program writes %d", f.Version, fileVersion)
	}
	for i, m := range f.Loads {
		if m.Model == "" || m.Ctx < 0 || m.Slots < 1 || m.Cards < 0 || len(m.Observed) == 0 {
			return nil, fmt.Errorf("its load %d makes no sense", i)
		}
		for class, taken := range m.Observed {
			if class == "" || taken <= 0 || taken > 1<<50 {
				return nil, fmt.Errorf("what its load %d took makes no sense", i)
			}
		}
	}
	return f.Loads, nil
}

// keep writes what is known, whole or not at all. It holds a lock for as long as it writes, so that an older state never replaces a
// newer one.
func (l *Learned) keep() error {
	if l.path == "" {
		return nil
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	data, err := json.MarshalIndent(learnedFile{fileVersion, l.known()}, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.Write(l.path, append(data, '\n'), 0o600)
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
