// SPDX-License-Identifier: GPL-3.0-or-later

// Package pool keeps the replicas of the pools running. It starts their workers, waits until the model has answered a probe, leases
// their slots, and starts a worker again that died. Each replica has one supervisor goroutine, which alone writes its state.
//
// Locks: placing comes before the Manager's mu, and that comes before any replica's mu.
package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/process"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/task"
)

// State is how far a replica has got on its way to serve.
type State string

// The states. A replica in backoff or failed tries again at Info.NextTry. A failed one succeeds only after somebody has changed
// something; Info.LastError says what.
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
	Engine, EngineVersion string // the version is empty until the engine has told it
	ModelID, ModelDigest  string // the digest is "sha256:<hex>"; empty until computed, and for external pools
	Fingerprint           string // empty until ready for the first time
	Device                string
	Ctx, Slots            int // as configured; once it was ready, as the engine says
	EngineSlots           int // of the engine itself; the pool may use fewer
	// Features are what the engine can do of what only some can, as it told last. Until it was ready, they are what such an engine can have.
	Features []task.Feature
	Strict   bool  // it gives the same bytes again. Until it was ready, as far as the configuration tells
	Piece    int   // in how many tokens at once prompts are computed, where strict tasks may reuse whole pieces; 0: they start cold
	Active   int   // slots in use, by leases and by the liveness probe
	Load     *Load // as the ready engine told with its last health check; nil: it does not tell
	PID      int   // 0 where no process runs
	// Owner is the name under which the replica holds memory in Options.VRAM. It is not the ID where the replica took another's place.
	Owner string
	// Cards are the indices of the GPUs that the worker was granted.
	Cards         []int
	Shares        []engine.Share // of other hosts, as the ready worker has said (LO-470)
	EstimateBytes int64          // memory that the model should take, on the cards or on the host; 0: not estimated yet
	ObservedBytes int64          // memory that the ready worker really took; 0: not seen
	NeedBytes     int64          // memory that the next worker will ask for, by the estimate and by what was learned; 0: not known yet
	// Wanted says that a worker should run. It is false after a drain or an unload, and before the first Load of an on-demand pool.
	Wanted bool
	// While the replica waits for its model to be fetched, FetchedBytes of FetchTotal are on the disk; FetchTotal is 0 while nobody
	// knows it.
	FetchedBytes, FetchTotal int64
	// Progress is how far the worker is with its load, as its output tells; empty where it does not, and where nothing loads.
	Progress string
	// LoadTime is how long the last load took, from the first check to ready, without the fetch of the model; 0: none yet.
	LoadTime  time.Duration
	Restarts  int
	LastError string   // why the replica is not ready, or was not ready before
	Short     bool     // it waits for memory; nothing was started
	Failing   bool     // its last worker was lost, or could not be started, and none has got ready since
	Fixed     bool     // it failed, and another try, such as the one that just begins, does not help until somebody changes something
	Missing   string   // what is wrong with the file of a model that is not loaded, and what to do; empty: nothing that was seen
	LogTail   []string // the last lines that the worker had written when the state last changed
	Since     time.Time
	NextTry   time.Time // zero unless backoff or failed
}

// Load is how busy a replica's engine is (LO-454).
type Load struct {
	engine.Load
	Others int // requests that are not ours
}

// Options set a Manager up. Zero durations mean the defaults.
type Options struct {
	Specs     []Spec
	WorkerExe string // the program that is run as `WorkerExe worker …` for builtin pools
	Kinds     []engine.Kind
	// Outbound is how the engines of external pools are reached. Nil: as our own workers are.
	Outbound *httpsse.Network
	// OnChange is called after a replica changed its state and after a slot was released. Several goroutines call it, and they hold
	// no lock. It must return soon.
	OnChange   func(poolID string)
	Log        *zap.Logger
	Registerer prometheus.Registerer
	// RunDir holds one file for each worker's process, so that the next start finds what a crash left over. Only one Manager at a
	// time may use it. Empty: there are no such files.
	RunDir string
	// Guard is the command of a process that ends what the workers have left, when this process is killed. Empty: there is none.
	Guard []string
	// Leaving is called when a worker in mode binary that is well was told to end and has finished its tasks, before it ends. It returns soon after ctx ends.
	// Nil: nobody minds.
	Leaving func(ctx context.Context, i Info, e engine.Engine)
	// SaveDir is the folder to which such workers may save what their slots hold. Empty: none.
	SaveDir string
	// LearnedFile keeps over a restart what workers were seen to take (LO-501). Empty: nothing is kept.
	LearnedFile string
	// KnownFile keeps over a restart what fingerprints stand for. Empty: nothing is kept.
	KnownFile string
	// CheckGPU returns nil where the device mask can be used. Nil: none can.
	CheckGPU func(mask string) error
	// VRAM grants the cards' memory. Nil: CheckGPU alone decides, and nobody counts the memory.
	VRAM VRAM
	// Models finds the models that are fetched, or that the catalog has. Nil: every model is simply a file.
	Models Models
	// DeviceProblems says in one sentence what the driver has reported of these cards since then, such as an XID; empty: nothing.
	// Critical means that no worker on them can be relied upon any more; else another program may be at fault. Nil: nothing is known.
	DeviceProblems func(cards []int, since time.Time) (problem string, critical bool)
	Clock          Clock // nil: the machine's own
	// HostMemory tells how many bytes of memory processes of this machine could still take. Nil: /proc/meminfo tells.
	HostMemory func() (available int64, err error)
	// OOMKills counts the processes that the kernel has killed for lack of memory. Nil: /proc/vmstat tells.
	OOMKills func() int64

	ProbeTimeout   time.Duration // for the answer to the probe; default 60 s
	LoadTimeout    time.Duration // from the spawn to the first good health check; default 10 min
	HealthInterval time.Duration // between health checks of ready replicas, and their timeout; default 5 s
	StopGrace      time.Duration // from SIGTERM to SIGKILL; default 5 s
	BackoffMin     time.Duration // default 250 ms
	BackoffMax     time.Duration // default 30 s
	// LivenessInterval is how long a ready replica may be idle before it has to answer a probe again. Default 30 s; below 0: it
	// never has to.
	LivenessInterval time.Duration
	BreakerFailures  int           // so many within BreakerWindow, and the replica is given up for BackoffMax × 10; default 5
	BreakerWindow    time.Duration // default 10 min
	ReloadDeadline   time.Duration // how long Reload and Apply let the tasks of an old worker go on; default 30 s
}

// Manager runs the replicas of all pools.
type Manager struct {
	opts     Options
	log      *zap.Logger
	metrics  *metrics
	digests  digests
	learned  vram.Learned
	known    known
	host     host
	launcher *process.Launcher
	layout   atomic.Pointer[layout]  // replaced under mu, read without a lock
	turn     atomic.Uint32           // which replica Engines begins with
	faces    map[string]engine.Faces // of each kind of engine, by its name
	placing  sync.Mutex              // held while a worker's cards are chosen and reserved

	mu        sync.Mutex // guards what follows, up to members
	started   bool
	stopping  bool
	reloading map[string]bool    // the pools that Reload is working on
	births    int                // how often replicas were made to take the place of others
	members   map[string]*member // the engines that registered, by their replicas' ids

	run  context.Context // ends when the replicas have to stop
	stop context.CancelCauseFunc
	kill context.Context // ends when the processes get no more time to end by themselves
	hard context.CancelFunc
	life lifecycle.Life // of the supervisors, and of the leases of engines that registered
}

// layout says which pools and replicas there are. Nobody changes a layout: it is replaced by another.
type layout struct {
	ids      []string // of the pools, as configured
	pools    map[string]*group
	replicas map[string]*replica
}

// group is one pool of a layout. Nobody changes it either.
type group struct {
	configured Spec // as New or Apply was given it; a Reload does not change it
	spec       Spec // as the replicas run it
	// expected is the memory that a worker of an on-demand pool should take. The plan of swaps needs it before the first load.
	expected int64
	replicas []*replica
	leaving  []*replica // surplus replicas that drain: they may still have tasks
}

// errStopping is the cause of everything that ends because of Stop.
var errStopping = errors.New("the orchestrator is stopping")

// New checks the specs and makes a Manager. It starts nothing.
func New(opts Options) (*Manager, error) {
	opts.complete()
	m := &Manager{opts: opts, log: opts.Log.Named("pool"), reloading: map[string]bool{}}
	m.launcher = process.New(process.Options{RunDir: opts.RunDir, Guard: opts.Guard, Log: m.log})
	m.run, m.stop = context.WithCancelCause(context.Background())
	m.kill, m.hard = context.WithCancel(context.Background())
	specs, err := m.check(opts.Specs)
	if err != nil {
		return nil, err
	}
	m.faces = map[string]engine.Faces{}
	for _, k := range opts.Kinds {
		m.faces[k.Name] = k.Faces()
	}
	if m.metrics, err = newMetrics(opts.Registerer, m); err != nil {
		return nil, err
	}
	next := newLayout()
	for _, spec := range specs {
		next.add(m.newGroup(&group{configured: spec, spec: spec, expected: m.expect(spec)}, !spec.OnDemand, nil))
	}
	m.layout.Store(next)
	return m, nil
}

// kind finds a kind of engines by its name.
func (o *Options) kind(name string) (engine.Kind, error) {
	var names []string
	for _, k := range o.Kinds {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return engine.Kind{}, fmt.Errorf("there is no engine of kind %q; one of %s", name, strings.Join(names, ", "))
}

func (o *Options) complete() {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.OnChange == nil {
		o.OnChange = func(string) {}
	}
	o.OnChange = contained(o.OnChange, o.Log.Named("pool"))
	if o.CheckGPU == nil {
		o.CheckGPU = func(string) error { return unavailable("nobody looks for GPUs here: say `device: cpu`") }
	}
	if o.Clock == nil {
		o.Clock = systemClock{}
	}
	if o.Models == nil {
		o.Models = noModels{}
	}
	if o.DeviceProblems == nil {
		o.DeviceProblems = func([]int, time.Time) (string, bool) { return "", false }
	}
	if o.HostMemory == nil {
		o.HostMemory = process.MemAvailable
	}
	if o.OOMKills == nil {
		o.OOMKills = process.OOMKills
	}
	if o.BreakerFailures <= 0 {
		o.BreakerFailures = 5
	}
	if o.LivenessInterval == 0 {
		o.LivenessInterval = 30 * time.Second
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&o.ProbeTimeout, time.Minute},
		{&o.LoadTimeout, 10 * time.Minute},
		{&o.HealthInterval, 5 * time.Second},
		{&o.StopGrace, 5 * time.Second},
		{&o.BackoffMin, 250 * time.Millisecond},
		{&o.BackoffMax, 30 * time.Second},
		{&o.BreakerWindow, 10 * time.Minute},
		{&o.ReloadDeadline, 30 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
}

// check fills the defaults of the specs in, or says why one of them cannot work.
func (m *Manager) check(given []Spec) ([]Spec, error) {
	specs := slices.Clone(given)
	for i := range specs {
		s := &specs[i]
		if err := s.complete(m.opts); err != nil {
			return nil, fmt.Errorf("pool %q: %w", s.ID, err)
		}
		if slices.ContainsFunc(specs[:i], func(o Spec) bool { return o.ID == s.ID }) {
			return nil, fmt.Errorf("pool %q is configured twice", s.ID)
		}
	}
	return specs, nil
}

func newLayout() *layout {
	return &layout{pools: map[string]*group{}, replicas: map[string]*replica{}}
}

func (l *layout) add(g *group) {
	l.ids = append(l.ids, g.spec.ID)
	l.pools[g.spec.ID] = g
	for _, r := range g.replicas {
		l.replicas[r.id] = r
	}
}

// with returns a layout in which the group takes the place of its pool's old one.
func (l *layout) with(g *group) *layout {
	next := newLayout()
	for _, id := range l.ids {
		if id == g.spec.ID {
			next.add(g)
		} else {
			next.add(l.pools[id])
		}
	}
	return next
}

// newGroup makes the replicas of a group. They start once the replicas in after have ended. The caller holds m.mu, except in New.
func (m *Manager) newGroup(g *group, wanted bool, after []*replica) *group {
	m.grow(g, wanted, func(string) []*replica { return after })
	return g
}

// grow makes the replicas that a group lacks, and returns them. Nobody else sees the group yet. After returns the replicas that have
// to end before the one with that id starts. The caller holds m.mu, except in New.
func (m *Manager) grow(g *group, wanted bool, after func(id string) []*replica) (added []*replica) {
	for i := len(g.replicas); i < g.spec.Replicas; i++ {
		r := newReplica(m, g.spec, i, fmt.Sprintf("%s-%d", g.spec.ID, i), wanted)
		r.after = after(r.id)
		r.change(func(info *Info) { info.EstimateBytes, info.NeedBytes = g.expected, g.expected })
		if m.births > 0 { // another replica of this id may still hold memory
			r.owner = fmt.Sprintf("%s~%d", r.id, m.births)
		}
		g.replicas, added = append(g.replicas, r), append(added, r)
	}
	return added
}

// begin starts the supervisors of replicas, if the Manager is running. The caller holds m.mu.
func (m *Manager) begin(replicas []*replica) {
	if !m.started || m.stopping {
		return
	}
	for _, r := range replicas {
		if r.index == 0 && r.spec.Mode != External && r.spec.Device == "cpu" {
			m.log.Warn("this pool decodes on the CPU, because its configuration says `device: cpu`", zap.String("pool_id", r.spec.ID))
		}
		m.life.Go(func(context.Context) { r.supervise() })
	}
}

// Start ends the workers that an earlier run left over, and starts the supervisors. It does not wait for replicas to get ready.
func (m *Manager) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.life.Begin() {
		return nil
	}
	if err := m.launcher.Start(ctx); err != nil {
		return err
	}
	if err := m.learned.Recall(m.opts.LearnedFile, m.now(), m.log); err != nil {
		return err
	}
	if err := m.known.recall(m.opts.KnownFile, m.now(), m.log); err != nil {
		return err
	}
	m.started = true
	now := m.layout.Load()
	for _, id := range now.ids {
		m.begin(now.pools[id].replicas)
	}
	return nil
}

// Stop sends every worker SIGTERM and, after StopGrace or when ctx ends, SIGKILL. It returns when every goroutine has ended, with the
// error of ctx if that cut the workers' time short.
func (m *Manager) Stop(ctx context.Context) error {
	m.mu.Lock()
	first := m.started && !m.stopping
	m.stopping = true
	m.mu.Unlock()
	cut := context.AfterFunc(ctx, m.hard)
	m.stop(errStopping)
	err := m.life.End(context.Background(), errStopping) // they end at the latest when their workers are killed
	inTime := cut()
	m.hard()
	if err = errors.Join(err, m.launcher.Stop(context.Background())); err != nil {
		return err
	}
	if !inTime && ctx.Err() != nil && first {
		return fmt.Errorf("stop the pools' workers: %w", context.Cause(ctx))
	}
	return nil
}

func (m *Manager) now() time.Time { return m.opts.Clock.Now() }

// Pools lists the pool ids as configured.
func (m *Manager) Pools() []string { return slices.Clone(m.layout.Load().ids) }

// Infos returns the pool's replicas in order of their index, nil for an unknown pool. It takes no lock.
func (m *Manager) Infos(poolID string) []Info {
	g := m.layout.Load().pools[poolID]
	if g == nil {
		return nil
	}
	infos := make([]Info, len(g.replicas))
	for i, r := range g.replicas {
		infos[i] = r.info()
	}
	return infos
}

// Faces are what the engines of a pool can do, whether its model is loaded or not.
func (m *Manager) Faces(poolID string) engine.Faces {
	if g := m.layout.Load().pools[poolID]; g != nil {
		return m.faces[g.spec.Engine]
	}
	return engine.Faces{}
}

// Engines returns the engines of the ready replicas, for work that needs the model but no slot: counting tokens, and templates.
// Each call begins with another one, so that they share the work.
func (m *Manager) Engines(poolID string) (ready []engine.Engine) {
	g := m.layout.Load().pools[poolID]
	if g == nil {
		return nil
	}
	first := int(m.turn.Add(1) % uint32(max(len(g.replicas), 1)))
	for i := range g.replicas {
		if w := g.replicas[(first+i)%len(g.replicas)].serving(); w != nil {
			ready = append(ready, w.engine)
		}
	}
	return ready
}

func unavailable(format string, args ...any) *task.Error {
	return task.Errorf(task.PoolUnavailable, format, args...)
}
