// SPDX-License-Identifier: GPL-3.0-or-later

package blueprint

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
	"github.com/llama-orch/llama-orch/internal/plainjson"
)

// A run's folder has:
//
//	kept.log           results of steps, by the digest of the applet and its inputs; all runs share them. A line each: DIGEST SUM JSON
//	journal.jsonl      what the last run did, a line a step
//	result.json        what it gave
//	proofs/TASK.json   the proof bundles of its tasks
const (
	keptName    = "kept.log"
	proofsDir   = "proofs"
	journalName = "journal.jsonl"
	resultName  = "result.json"
	lockName    = "lock"
)

// The bounds of what is read back.
const maxLine = 1 << 20

// State is how a step ended.
type State string

// The states of steps, and of runs.
const (
	Began   State = "began"   // of a run
	Done    State = "done"    // it ran
	Kept    State = "kept"    // its result was there
	Skipped State = "skipped" // its condition did not hold
	Failed  State = "failed"
)

// Entry is a line of the journal: a step that ended, or the run itself, whose path is empty.
type Entry struct {
	Path   string   `json:"path,omitempty"` // such as months[3].draft, or refine#2 for the second time of a loop
	State  State    `json:"state"`
	Use    string   `json:"use,omitempty"`
	Digest string   `json:"digest,omitempty"` // of the applet and its inputs; of a run: of the blueprint and its inputs
	Tries  int      `json:"tries,omitempty"`
	Micros int64    `json:"us,omitempty"` // how long it took
	Tasks  []string `json:"tasks,omitempty"`
	Error  string   `json:"error,omitempty"`
	Name   string   `json:"name,omitempty"` // of the blueprint, at the beginning of a run
}

// kept is a result on the disk. Its line has the SHA-256 of this before it: a line that a crash cut off is no result.
type kept struct {
	Tasks []string        `json:"tasks,omitempty"`
	Out   json.RawMessage `json:"out"`
}

// store is a run's folder. Its methods may be called from several goroutines.
type store struct {
	root    *os.Root
	lock    *os.File
	journal *os.File
	before  map[string]string // the digests of what the run that goes on has done, by path

	mu    sync.Mutex // of what follows, and of writing
	kept  *os.File
	size  int64           // of kept
	where map[string]span // results, by digest
}

// span is where a result stands among those kept.
type span struct {
	at, length int64
	sum        string
}

// BusyError says that another run works in the folder.
type BusyError struct{ Dir string }

func (e *BusyError) Error() string {
	return fmt.Sprintf("another run works in %s: wait until it has ended, or take another folder", e.Dir)
}

// open opens a run's folder. Where its last run is the same and did not end, this one goes on with it.
func open(dir, name, digest string) (s *store, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the run's folder: %w", err)
	}
	s = &store{before: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.root, err = os.OpenRoot(dir); err != nil {
		return s, fmt.Errorf("open the run's folder: %w", err)
	}
	if s.lock, err = s.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return s, fmt.Errorf("lock the run's folder: %w", err)
	}
	if err = unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return s, &BusyError{Dir: dir}
	}
	if err = s.root.MkdirAll(proofsDir, 0o755); err != nil {
		return s, fmt.Errorf("make the run's folder: %w", err)
	}
	if err = s.load(); err != nil {
		return s, fmt.Errorf("read what is kept: %w", err)
	}
	entries, err := s.entries()
	if err != nil {
		return s, err
	}
	goesOn := len(entries) > 0 && entries[0].Path == "" && entries[0].Digest == digest
	for i, e := range entries {
		if i > 0 && e.Path == "" && e.State == Done {
			goesOn = false
		}
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if !goesOn {
		flags |= os.O_TRUNC
	}
	if s.journal, err = s.root.OpenFile(journalName, flags, 0o644); err != nil {
		return s, fmt.Errorf("open the journal: %w", err)
	}
	if goesOn {
		for _, e := range entries {
			if e.State == Done || e.State == Kept {
				s.before[e.Path] = e.Digest
			}
		}
		_, err = s.journal.WriteString("\n") // a line that was cut off ends here
		return s, err
	}
	return s, s.note(Entry{State: Began, Name: name, Digest: digest})
}

func (s *store) close() error {
	var err error
	for _, f := range []*os.File{s.journal, s.kept, s.lock} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if s.root != nil {
		err = errors.Join(err, s.root.Close())
	}
	return err
}

// note writes a line to the journal.
func (s *store) note(e Entry) error {
	line, err := plainjson.Encode(e)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.journal.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// entries reads the journal. Lines that were cut off are left out.
func (s *store) entries() ([]Entry, error) {
	f, err := s.root.Open(journalName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	defer f.Close()
	var all []Entry
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var e Entry
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.State != "" {
			all = append(all, e)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	return all, nil
}

// load finds out which results are kept, and where.
func (s *store) load() (err error) {
	if s.kept, err = s.root.OpenFile(keptName, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644); err != nil {
		return err
	}
	s.where = map[string]span{}
	lines := bufio.NewReaderSize(s.kept, 1<<16)
	for {
		line, err := lines.ReadBytes('\n')
		if digest, rest, ok := bytes.Cut(line, []byte(" ")); ok && err == nil {
			if sum, text, ok := bytes.Cut(rest, []byte(" ")); ok {
				s.where[string(digest)] = span{at: s.size + int64(len(line)-len(text)), length: int64(len(text)) - 1, sum: string(sum)}
			}
		}
		s.size += int64(len(line))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if s.size == 0 {
		return nil
	}
	n, err := s.kept.WriteString("\n") // a line that was cut off ends here
	s.size += int64(n)
	return err
}

// get returns a kept result. What is not whole is not there.
func (s *store) get(digest string) (k kept, ok bool) {
	s.mu.Lock()
	at, ok := s.where[digest]
	s.mu.Unlock()
	if !ok {
		return k, false
	}
	raw := make([]byte, at.length)
	if _, err := s.kept.ReadAt(raw, at.at); err != nil || sum(raw) != at.sum {
		return k, false
	}
	return k, json.Unmarshal(raw, &k) == nil
}

// put keeps a result. It does not wait for the disk: whoever reads finds out whether it is whole.
func (s *store) put(digest string, out json.RawMessage, tasks []string) error {
	raw, err := plainjson.Encode(kept{Tasks: tasks, Out: out})
	if err != nil {
		return err
	}
	line := slices.Concat([]byte(digest+" "), []byte(sum(raw)+" "), raw, []byte("\n"))
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.kept.Write(line)
	s.where[digest] = span{at: s.size + int64(len(line)-len(raw)) - 1, length: int64(len(raw)), sum: sum(raw)}
	s.size += int64(n)
	if err != nil {
		return fmt.Errorf("keep a result: %w", err)
	}
	return nil
}

// write replaces a file whole.
func (s *store) write(name string, content []byte) error {
	if err := atomicfile.WriteIn(s.root, name, content, 0o644); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	return nil
}

func sum(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Record is what a folder says about its last run.
type Record struct {
	Name   string          `json:"name"`
	State  State           `json:"state"` // Began: it was killed, or still runs
	Error  string          `json:"error,omitempty"`
	Steps  []Entry         `json:"steps"`
	Proofs []string        `json:"proofs,omitempty"` // files, below the folder
	Result json.RawMessage `json:"result,omitempty"`
}

// Show reads what the last run in a folder did.
func Show(dir string) (*Record, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the run's folder: %w", err)
	}
	defer root.Close()
	s := &store{root: root}
	entries, err := s.entries()
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("no blueprint has run in %s: run one there first", dir)
	}
	r := &Record{Name: entries[0].Name, State: Began, Steps: []Entry{}}
	at := map[string]int{}
	for _, e := range entries {
		if e.Path == "" {
			r.State, r.Error = e.State, e.Error
			continue
		}
		if i, ok := at[e.Path]; ok { // it was tried again when the run went on
			r.Steps[i] = e
			continue
		}
		at[e.Path] = len(r.Steps)
		r.Steps = append(r.Steps, e)
		for _, task := range e.Tasks {
			name := filepath.Join(proofsDir, task+".json")
			if _, err := root.Stat(name); err == nil {
				r.Proofs = append(r.Proofs, name)
			}
		}
	}
	if r.State == Done {
		if raw, err := root.ReadFile(resultName); err == nil && json.Valid(raw) {
			r.Result = bytes.TrimSpace(raw)
		}
	}
	return r, nil
}
