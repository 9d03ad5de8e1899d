// SPDX-License-Identifier: GPL-3.0-or-later

package gpuprobe

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/llama-orch/llama-orch/service/fleet/gpu"
)

// Options say how to look.
type Options struct {
	LibraryPath string        // of NVML; empty: where the loader finds it
	Samples     int           // how many are taken; at least 2
	Every       time.Duration // from one to the next
}

// Report is what was seen. It is printed as JSON.
type Report struct {
	At        time.Time       `json:"at"`
	Driver    string          `json:"driver"`
	CUDA      string          `json:"cuda"`
	Why       string          `json:"why_no_card,omitempty"`
	Supports  []Support       `json:"supports"`
	Samples   []gpu.Inventory `json:"samples"`
	Counters  [][]gpu.Counter `json:"counters"`
	Events    []gpu.Event     `json:"events"`
	Checks    []Check         `json:"checks"`
	Plausible bool            `json:"plausible"`
}

// Support is what a card's driver can tell beside its figures.
type Support struct {
	Card    int    `json:"card"`
	Events  string `json:"events"` // the types that it sends, as NVML's bits, or why it sends none
	ECC     string `json:"ecc"`    // memory errors that could not be corrected, since the driver was loaded, or why nobody knows
	MIG     string `json:"mig"`    // whether the card is divided
	Persist string `json:"persistence"`
}

// Check is one thing that must hold if the figures are true.
type Check struct {
	Of   string `json:"of"`
	Must string `json:"must"`
	Saw  string `json:"saw"`
	OK   bool   `json:"ok"`
}

// Look takes samples with the daemon's monitor, and checks them.
func Look(ctx context.Context, o Options) (*Report, error) {
	r := &Report{At: time.Now().UTC()}
	var mu sync.Mutex
	m := gpu.NewMonitor(gpu.Options{
		LibraryPath: o.LibraryPath, Interval: time.Hour, // each sample is asked for
		OnEvent: func(e gpu.Event) {
			mu.Lock()
			defer mu.Unlock()
			r.Events = append(r.Events, e)
		},
		OnEnergy: func(c []gpu.Counter) {
			mu.Lock()
			defer mu.Unlock()
			if len(c) > 0 {
				r.Counters = append(r.Counters, c)
			}
		},
	})
	if err := m.Start(ctx); err != nil {
		return nil, fmt.Errorf("start the monitor: %w", err)
	}
	for n := range o.Samples {
		if n > 0 {
			if !pause(ctx, o.Every) {
				return nil, context.Cause(ctx)
			}
			if err := m.Refresh(ctx); err != nil {
				return nil, fmt.Errorf("take a sample: %w", err)
			}
		}
		r.Samples = append(r.Samples, m.Snapshot())
	}
	if err := m.Stop(ctx); err != nil {
		return nil, fmt.Errorf("stop the monitor: %w", err)
	}
	last := r.Samples[len(r.Samples)-1]
	r.Driver, r.CUDA, r.Why = last.Driver, last.CUDA, last.Err
	if r.Why == "" {
		r.Supports = supports(o.LibraryPath)
	}
	r.Checks, r.Plausible = check(r.Samples, r.Counters)
	return r, nil
}

// supports asks the driver itself for what the monitor makes use of but does not show. The monitor has let go of it.
func supports(path string) (all []Support) {
	var options []nvml.LibraryOption
	if path != "" {
		options = append(options, nvml.WithLibraryPath(path))
	}
	lib := nvml.New(options...)
	if lib.Init() != nvml.SUCCESS {
		return nil
	}
	defer func() { _ = lib.Shutdown() }()
	count, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil
	}
	for i := range count {
		device, ret := lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue
		}
		s := Support{Card: i, MIG: "not known to this library", Persist: "not known to this library"}
		types, ret := device.GetSupportedEventTypes()
		s.Events = said(ret, "%#x", types)
		errors, ret := device.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
		s.ECC = said(ret, "%d", errors)
		if lib.Extensions().LookupSymbol("nvmlDeviceGetMigMode") == nil {
			now, next, ret := device.GetMigMode()
			s.MIG = said(ret, "%v", []int{now, next})
		}
		if lib.Extensions().LookupSymbol("nvmlDeviceGetPersistenceMode") == nil {
			mode, ret := device.GetPersistenceMode()
			s.Persist = said(ret, "%d", mode)
		}
		all = append(all, s)
	}
	return all
}

// said is what the driver told, or why it did not.
func said(ret nvml.Return, format string, value any) string {
	if ret != nvml.SUCCESS {
		return fmt.Sprintf("the driver does not tell (NVML error %d)", int(ret))
	}
	return fmt.Sprintf(format, value)
}

// pause waits, and returns false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
