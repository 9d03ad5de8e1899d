// SPDX-License-Identifier: GPL-3.0-or-later

// Package pool keeps the replicas of the pools running: it spawns their worker processes, waits until the model answered a
// probe, leases their slots, and starts again what died. One supervisor goroutine a replica is the sole writer of its
// state.
package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// Mode says where a pool's workers come from (ORCH-3200).
type Mode string

// The modes.
const (
	Builtin  Mode = "builtin"  // this program again, as `worker`
	Binary   Mode = "binary"   // a llama-server on this machine
	External Mode = "external" // engines that somebody else runs, by URL
)

// Spec is one pool as configured.
type Spec struct {
	ID       string
	Engine   string // engine kind, e.g. llamacpp
	ModelID  string
	ModelRef string // a label; only ModelPath is opened
	// ModelPath is the model's file. Empty for external pools.
	ModelPath string
	Device    string // "cpu", "auto" (every GPU), or a mask of GPU indices: "0", "0,1"
	Replicas  int    // default 1; external pools have one replica a URL
	Slots     int    // default 1; the built-in worker has one
	Ctx       int    // tokens a slot's context holds; 0: the engine's default
	// Threads that decode. Default: 1 for a model file under 64 MB, where more threads cost more than they give, else half
	// the logical cores, at least 1.
	Threads    int
	Workload   task.Workload // default completion
	Pace       float64       // built-in worker: at most this many tokens a second; 0: no bound
	Mode       Mode
	BinaryPath string   // of llama-server; a bare name is looked up in PATH
	BinaryArgs []string // put after the pool's own
	URLs       []string // base URLs of an external pool
	LibsDir    string   // folder of the engine's libraries
	// ModelDigest is the expected digest, "sha256:<hex>"; a model file with another one is refused. Empty: none expected.
	ModelDigest string
}

// State is where a replica is on its way to serve.
type State string

// The states. Backoff and failed replicas are tried again at Info.NextTry; failed ones need somebody to change something
// first, as Info.LastError says.
const (
	Provisioning State = "provisioning" // model, libraries and device are checked
	Loading      State = "loading"      // the worker process starts and loads the model
	Probing      State = "probing"      // the model answers its first request
	Ready        State = "ready"
	Backoff      State = "backoff"
	Draining     State = "draining"
	Stopped      State = "stopped"
	Failed       State = "failed"
)

// States lists every state.
func States() []State {
	return []State{Provisioning, Loading, Probing, Ready, Backoff, Draining, Stopped, Failed}
}

// Info is a replica as seen from outside. Its slices must not be changed.
type Info struct {
	ID, PoolID            string
	State                 State
	Engine, EngineVersion string // the version is empty until the engine told it
	ModelID, ModelDigest  string // the digest is "sha256:<hex>"; empty until computed, and for external pools
	Fingerprint           string // empty until ready for the first time
	Device                string
	Ctx, Slots            int // as the engine says once it was ready; before that, as configured
	EngineSlots           int // the engine's own, which may be more than are used here
	Active                int // leases held
	FreeVRAM              int64
	PID                   int // 0 where no process runs
	Restarts              int
	LastError             string   // why the replica is not, or was last not, ready
	LogTail               []string // the worker's last lines, as of the last change of state
	Since                 time.Time
	NextTry               time.Time // zero unless backoff or failed
}

// Options set a Manager up. Zero durations mean the defaults.
type Options struct {
	Specs     []Spec
	WorkerExe string // the program that is run as `WorkerExe worker …` for builtin pools
	NewEngine func(baseURL, apiKey string) engine.Engine
	// OnChange is called after any change of a replica's state and after any release of a slot, without locks held, from
	// several goroutines. It must return soon.
	OnChange   func(poolID string)
	Log        *zap.Logger
	Registerer prometheus.Registerer
	// RunDir holds one file a worker process, so that the next start finds what a crash left over. One Manager at a time
	// may use it. Empty: no such files.
	RunDir string
	// CheckGPU returns nil where the device mask can be used. Nil: NVML is asked.
	CheckGPU func(mask string) error

	ProbeTimeout   time.Duration // of the probe's decode; default 60 s
	LoadTimeout    time.Duration // from the spawn to the first good health check; default 10 min
	HealthInterval time.Duration // between health checks of ready replicas, and their timeout; default 5 s
	StopGrace      time.Duration // from SIGTERM to SIGKILL; default 5 s
	BackoffMin     time.Duration // default 250 ms
	BackoffMax     time.Duration // default 30 s
}

// Manager runs the replicas of all pools.
type Manager struct {
	opts     Options
	log      *zap.Logger
	metrics  *metrics
	digests  digests
	launcher *launcher
	order    []string // pool ids as configured
	pools    map[string][]*replica
	replicas map[string]*replica
	turn     atomic.Uint32 // of Engines

	mu       sync.Mutex
	started  bool
	stopping bool
	stopped  bool
	runDir   *runDir // nil without RunDir

	run  context.Context // ends when replicas are to stop
	stop context.CancelCauseFunc
	kill context.Context // ends when their processes get no more time
	hard context.CancelFunc
	wg   sync.WaitGroup // supervisors
}

// errStopping is the cause of everything that ends because of Stop.
var errStopping = errors.New("the orchestrator is stopping")

// New checks the specs and makes a Manager. It starts nothing.
func New(opts Options) (*Manager, error) {
	if opts.NewEngine == nil {
		return nil, errors.New("pool: Options.NewEngine is missing")
	}
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	if opts.OnChange == nil {
		opts.OnChange = func(string) {}
	}
	if opts.CheckGPU == nil {
		opts.CheckGPU = checkNVML
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&opts.ProbeTimeout, time.Minute},
		{&opts.LoadTimeout, 10 * time.Minute},
		{&opts.HealthInterval, 5 * time.Second},
		{&opts.StopGrace, 5 * time.Second},
		{&opts.BackoffMin, 250 * time.Millisecond},
		{&opts.BackoffMax, 30 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	m := &Manager{
		opts: opts, log: opts.Log.Named("pool"),
		pools: map[string][]*replica{}, replicas: map[string]*replica{},
	}
	m.run, m.stop = context.WithCancelCause(context.Background())
	m.kill, m.hard = context.WithCancel(context.Background())
	var err error
	if m.metrics, err = newMetrics(opts.Registerer); err != nil {
		return nil, err
	}
	for _, spec := range opts.Specs {
		if err := spec.complete(opts); err != nil {
			return nil, fmt.Errorf("pool %q: %w", spec.ID, err)
		}
		if _, ok := m.pools[spec.ID]; ok {
			return nil, fmt.Errorf("pool %q is configured twice", spec.ID)
		}
		m.order = append(m.order, spec.ID)
		m.metrics.model(spec.ModelID)
		for i := range spec.Replicas {
			r := newReplica(m, spec, i)
			m.pools[spec.ID] = append(m.pools[spec.ID], r)
			m.replicas[r.id] = r
		}
	}
	return m, nil
}

// complete fills the defaults in and refuses what cannot work.
func (s *Spec) complete(opts Options) error {
	if s.ID == "" {
		return errors.New("the pool has no id")
	}
	if s.Workload == "" {
		s.Workload = task.Completion
	}
	if s.Device == "" {
		s.Device = "cpu"
	}
	s.Replicas, s.Slots = max(s.Replicas, 1), max(s.Slots, 1)
	switch s.Mode {
	case Builtin:
		if s.Slots != 1 {
			return errors.New("the built-in worker has one slot; raise `replicas` instead of `slots`")
		}
		if s.Workload == task.Rerank {
			return errors.New("the built-in worker does not rerank; use provisioning mode `binary` or `external`")
		}
		if opts.WorkerExe == "" {
			return errors.New("Options.WorkerExe is missing")
		}
	case Binary:
		if s.BinaryPath == "" {
			return errors.New("provisioning mode `binary` needs the `path` of a llama-server")
		}
	case External:
		if len(s.URLs) == 0 {
			return errors.New("provisioning mode `external` needs at least one of `urls`")
		}
		s.Replicas, s.Device = len(s.URLs), "external"
		return nil
	default:
		return fmt.Errorf("unknown provisioning mode %q; one of builtin, binary, external", s.Mode)
	}
	if s.ModelPath == "" {
		return errors.New("the pool's model has no file")
	}
	return nil
}

// Start reaps what an earlier run left over and starts the supervisors. It returns at once; replicas get ready later.
func (m *Manager) Start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started || m.stopping {
		return errors.New("pool: a Manager starts once")
	}
	if m.opts.RunDir != "" {
		dir, err := openRunDir(m.opts.RunDir)
		if err != nil {
			return err
		}
		for _, left := range dir.reap() {
			m.log.Warn("a worker left over from an earlier run was ended",
				zap.Int("pid", left.PID), zap.String("replica_id", left.Replica))
		}
		m.runDir = dir
	}
	m.started = true
	m.launcher = startLauncher()
	for _, id := range m.order {
		for _, r := range m.pools[id] {
			if r.index == 0 && r.spec.Mode != External && r.spec.Device == "cpu" {
				m.log.Warn("this pool decodes on the CPU, because its configuration says `device: cpu`", zap.String("pool_id", id))
			}
			m.wg.Go(r.supervise)
		}
	}
	return nil
}

// Stop ends every worker, by SIGTERM and, after StopGrace or when ctx ends, by SIGKILL, and joins every goroutine. It
// returns ctx's error where that cut the workers' time short.
func (m *Manager) Stop(ctx context.Context) error {
	m.mu.Lock()
	m.stopping = true
	m.mu.Unlock()
	cut := context.AfterFunc(ctx, m.hard)
	m.stop(errStopping)
	m.wg.Wait()
	inTime := cut()
	m.hard()

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return nil
	}
	m.stopped = true
	if m.launcher != nil {
		m.launcher.stop()
	}
	if m.runDir != nil {
		if err := m.runDir.close(); err != nil {
			return err
		}
	}
	if !inTime && ctx.Err() != nil && m.started {
		return fmt.Errorf("stop the pools' workers: %w", context.Cause(ctx))
	}
	return nil
}

// Pools lists the pool ids as configured.
func (m *Manager) Pools() []string { return append([]string(nil), m.order...) }

// Infos returns the pool's replicas in order of their index, nil for an unknown pool. It takes no lock.
func (m *Manager) Infos(poolID string) []Info {
	replicas := m.pools[poolID]
	if replicas == nil {
		return nil
	}
	infos := make([]Info, len(replicas))
	for i, r := range replicas {
		infos[i] = r.info()
	}
	return infos
}

// Engines returns the engines of the ready replicas, for what needs the model but no slot: counting tokens, and templates.
// It begins with another one each time, so that they share that work.
func (m *Manager) Engines(poolID string) (ready []engine.Engine) {
	replicas := m.pools[poolID]
	first := int(m.turn.Add(1) % uint32(max(len(replicas), 1)))
	for i := range replicas {
		if w := replicas[(first+i)%len(replicas)].serving(); w != nil {
			ready = append(ready, w.engine)
		}
	}
	return ready
}
