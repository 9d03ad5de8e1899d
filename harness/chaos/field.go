// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/harness/daemon"
)

// field is the daemon under test, one life after the other. One goroutine makes all its faults.
type field struct {
	lab     *daemon.Lab
	config  string
	disk    *disk
	full    bool // the disk
	driver  *driver
	fronts  *frontDriver
	engines engines

	mu      sync.Mutex
	daemon  *server // nil between two lives
	h       *history
	changed chan struct{} // closed and replaced when daemon changes

	refusedStarts int // on a full disk
	orphans       []string
}

// at waits for a daemon that serves, and returns it with the number of its life.
func (f *field) at(ctx context.Context) (*server, int, bool) {
	for {
		f.mu.Lock()
		d, life, changed := f.daemon, len(f.h.lives)-1, f.changed
		f.mu.Unlock()
		if ctx.Err() != nil {
			return nil, 0, false
		}
		if d != nil {
			return d, life, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, 0, false
		}
	}
}

func (f *field) change(d *server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if d != nil {
		f.h.lives = append(f.h.lives, life{serving: now})
	} else if n := len(f.h.lives); n > 0 && f.h.lives[n-1].over.IsZero() {
		f.h.lives[n-1].over = now
	}
	f.daemon = d
	close(f.changed)
	f.changed = make(chan struct{})
}

// start begins a life. If a daemon cannot start because the disk is full, it gets room first.
func (f *field) start(ctx context.Context) error {
	d, err := serve(ctx, f.lab, f.config)
	if err != nil && f.full {
		f.refusedStarts++
		if err := f.relieve(); err != nil {
			return err
		}
		d, err = serve(ctx, f.lab, f.config)
	}
	if err != nil {
		return err
	}
	f.change(d)
	return nil
}

// end ends a life with SIGKILL, or with SIGTERM, and waits until its workers have followed it.
func (f *field) end(kill bool) (well bool) {
	f.mu.Lock()
	d := f.daemon
	f.mu.Unlock()
	if d == nil {
		return true
	}
	workers := d.Workers()
	if kill {
		d.kill()
		well = true
	} else {
		well = d.stop()
	}
	f.change(nil)
	limit := time.Now().Add(5 * time.Second)
	for _, w := range workers {
		for w.Alive() && time.Now().Before(limit) {
			pause(context.Background(), 10*time.Millisecond)
		}
		if w.Alive() {
			f.orphans = append(f.orphans, fmt.Sprintf("worker %d of daemon %d", w.Pid, d.Pid()))
			w.Kill()
		}
	}
	return well
}

func (f *field) relieve() error {
	f.full = false
	return f.disk.empty()
}

// faults makes the schedule's faults happen, one after the other.
func (f *field) faults(ctx context.Context, began time.Time, plans []faultPlan) error {
	for _, p := range plans {
		if !pause(ctx, time.Until(began.Add(p.at))) {
			return nil
		}
		if err := f.fault(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", p.kind, err)
		}
	}
	return nil
}

func (f *field) fault(ctx context.Context, p faultPlan) error {
	done := fault{kind: p.kind, at: time.Now()}
	switch p.kind {
	case killWorker:
		victim, ok := f.victim(ctx, p, &done)
		if !ok {
			return nil
		}
		done.at = time.Now()
		victim.Kill()
	case killDaemon, stopDaemon:
		done.hits = f.within()
		f.end(p.kind == killDaemon)
		if err := f.start(ctx); err != nil {
			return err
		}
	case cutEngine:
		done.pool = loose.id
		at := f.engines.choose(ctx, p)
		if d, _, ok := f.at(ctx); ok {
			if id := f.streaming(ctx, d)[fmt.Sprintf("%s-%d", loose.id, at)]; id != "" {
				done.hits = append(done.hits, id)
			}
		}
		done.at = time.Now()
		f.engines[at].CloseClientConnections()
	case fillDisk:
		f.full = true
		if err := f.disk.fill(); err != nil {
			return err
		}
	case emptyDisk:
		if !f.full {
			return nil
		}
		if err := f.relieve(); err != nil {
			return err
		}
	}
	f.mu.Lock()
	f.h.faults = append(f.h.faults, done)
	f.mu.Unlock()
	return nil
}

// within returns the tasks that clients see in mid-stream.
func (f *field) within() []string { return append(f.driver.within(), f.fronts.reading()...) }

// streaming returns the tasks that are in mid-stream, by their replica.
func (f *field) streaming(ctx context.Context, d *server) map[string]string {
	streams := map[string]string{}
	for _, id := range f.within() {
		if s, err := statusOf(ctx, d, id); err == nil && s.State == "running" {
			streams[s.ReplicaID] = id
		}
	}
	return streams
}

// victim chooses a worker: any worker, or one whose task's client sees the task in mid-stream.
func (f *field) victim(ctx context.Context, p faultPlan, done *fault) (daemon.Worker, bool) {
	d, _, ok := f.at(ctx)
	if !ok {
		return daemon.Worker{}, false
	}
	streams := f.streaming(ctx, d)
	all, replicas := d.Workers(), daemon.Noted(f.disk.path)
	busy := slices.DeleteFunc(slices.Clone(all), func(w daemon.Worker) bool { return streams[replicas[w.Pid]] == "" })
	if p.busy && len(busy) > 0 {
		all = busy
	}
	if len(all) == 0 {
		return daemon.Worker{}, false
	}
	w := all[int(p.pick)%len(all)]
	for _, pool := range pools {
		for i := range pool.replicas {
			if replicas[w.Pid] == fmt.Sprintf("%s-%d", pool.id, i) {
				done.pool = pool.id
			}
		}
	}
	if done.pool == "" { // the daemon could not note which pool it belongs to, so nobody could judge the fault
		return daemon.Worker{}, false
	}
	if hit := streams[replicas[w.Pid]]; hit != "" {
		done.hits = append(done.hits, hit)
	}
	return w, true
}

func statusOf(ctx context.Context, d *server, id string) (*status, error) {
	call, stop := context.WithTimeout(ctx, callWithin)
	defer stop()
	data, err := d.Client.Get(call, "/v1/tasks/"+id)
	if err != nil {
		return nil, err
	}
	s := &status{}
	return s, decode(string(data), s)
}

func decode(text string, into any) error {
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("decode %.200q: %w", text, err)
	}
	return nil
}

// leftFiles are those in the data folder that a stopped daemon has no use for. No task leaves a file: its proof bundle is a view
// of the ledger's record.
// A folder that groups artifacts stays where it was.
func leftFiles(dirs ...string) (left []string) {
	needed := []string{"lock", "host-id", "state.db", "state.db-tip", "run", "run/lock", "engines.json", "models", "models/files", "learned-memory.json", "measured-rates.json", "fingerprints.json", "audit.log", "audit.log.1", "artifacts", "artifacts/sha256", "artifacts/tmp"}
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			name, _ := filepath.Rel(dir, path)
			group, _ := filepath.Match("artifacts/sha256/??", name)
			if err == nil && path != dir && !slices.Contains(needed, name) && (!group || !entry.IsDir()) {
				left = append(left, name)
			}
			return nil
		})
	}
	return left
}
