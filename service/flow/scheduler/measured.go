// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"fmt"
	"maps"
	"math"
	"reflect"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/keptfile"
	"github.com/llama-orch/llama-orch/service/lifecycle"
)

const (
	// measuredVersion is the version of the file's form. A file of another version is set aside.
	measuredVersion = 1
	// measuredEvery is how often the file follows what is measured. A process that is killed loses no more than that.
	measuredEvery = 30 * time.Second
)

// measuredFile is what was measured of the pools, as it is kept over a restart (ORCH-2001).
type measuredFile struct {
	Version int                     `json:"version"`
	Pools   map[string]measuredPool `json:"pools"`
}

// measuredPool is what rates hold. A figure that was not measured is 0.
type measuredPool struct {
	Task     float64                 `json:"seconds_a_task"`
	Answer   float64                 `json:"tokens_an_answer"`
	Replicas map[string]measuredPace `json:"replicas"`
}

// measuredPace is in seconds a token.
type measuredPace struct {
	Fingerprint string  `json:"fingerprint"`
	Prefill     float64 `json:"prefill"`
	Decode      float64 `json:"decode"`
}

// check refuses what makes no sense.
func (f measuredFile) check() error {
	if f.Version != measuredVersion {
		return fmt.Errorf("it is of version %d, and this program writes %d", f.Version, measuredVersion)
	}
	for id, p := range f.Pools {
		figures := []float64{p.Task, p.Answer}
		for _, r := range p.Replicas {
			figures = append(figures, r.Prefill, r.Decode)
		}
		for _, v := range figures {
			if !(v >= 0 && v < 1e9) {
				return fmt.Errorf("a figure of its pool '%.128s' makes no sense", id)
			}
		}
	}
	return nil
}

// recall gives the lanes what an earlier process measured.
func (s *Scheduler) recall() {
	if s.o.MeasuredFile == "" {
		return
	}
	kept, err := keptfile.Recall(s.o.MeasuredFile, "what was measured of the pools", measuredFile.check, s.o.Now(), s.o.Log)
	if err != nil {
		s.o.Log.Warn("what was measured of the pools is measured anew", zap.Error(err))
	}
	for id, l := range *s.lanes.Load() {
		if p, ok := kept.Pools[id]; ok {
			l.rates.recall(p)
		}
	}
}

// keepMeasured writes what is measured until ctx ends, and then once more.
func (s *Scheduler) keepMeasured(ctx context.Context) {
	if s.o.MeasuredFile == "" {
		return
	}
	var written map[string]measuredPool
	failed := false
	for more := true; more; {
		more = lifecycle.Pause(ctx, measuredEvery)
		pools := map[string]measuredPool{}
		for id, l := range *s.lanes.Load() {
			if p := l.rates.measured(); p.Task > 0 {
				pools[id] = p
			}
		}
		if len(pools) == 0 || reflect.DeepEqual(pools, written) {
			continue
		}
		err := keptfile.Keep(s.o.MeasuredFile, measuredFile{measuredVersion, pools})
		switch {
		case err == nil:
			written = pools
		case !failed:
			s.o.Log.Warn("what was measured of the pools cannot be kept, so the next start may predict from older figures", zap.Error(err), zap.String("file", s.o.MeasuredFile))
		}
		failed = err != nil
	}
}

// recall takes what an earlier process measured. Replicas get their part when they are met.
func (r *rates) recall(p measuredPool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.service, r.answer = known(p.Task), known(p.Answer)
	r.recalled = p.Replicas
}

// known is a mean that is 0 where nothing was measured.
func known(v float64) mean { return mean{value: v, measured: v > 0} }

// meet gives replicas what an earlier process measured of them, if they still compute the same. What was measured of other models counts for nothing.
// The caller holds mu.
func (r *rates) meet(ready []placement.Replica) {
	if len(r.recalled) == 0 {
		return
	}
	same, other := false, false
	for i := range ready {
		was, ok := r.recalled[ready[i].ID]
		if !ok {
			continue
		}
		delete(r.recalled, ready[i].ID)
		if was.Fingerprint != ready[i].Fingerprint {
			other = true
			continue
		}
		same = true
		if p := r.pace(ready[i].ID); *p == (pace{}) {
			*p = pace{of: was.Fingerprint, prefill: known(was.Prefill), decode: known(was.Decode)}
		}
	}
	if other && !same && !r.counted {
		r.service, r.answer = mean{}, mean{}
	}
}

// measured is what is known, with what was recalled of replicas that were not met.
func (r *rates) measured() measuredPool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := measuredPool{Task: finite(r.service.value), Answer: finite(r.answer.value), Replicas: map[string]measuredPace{}}
	maps.Copy(p.Replicas, r.recalled)
	for id, is := range r.replicas {
		p.Replicas[id] = measuredPace{Fingerprint: is.of, Prefill: finite(is.prefill.value), Decode: finite(is.decode.value)}
	}
	return p
}

// finite leaves out what JSON cannot hold, and what a clock that was set back made of a time.
func finite(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return 0
	}
	return v
}
