// SPDX-License-Identifier: GPL-3.0-or-later

// Package api is the front of the native HTTP API. It implements gen's handler groups over the interfaces below.
package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// Tasks is what the API does with tasks. Errors are *task.Error.
type Tasks interface {
	Submit(ctx context.Context, req task.Request) (task.Admission, error)
	// Rejected counts a submit that was refused because of how it was sent, so that it came to no Submit.
	Rejected(err error)
	Get(ctx context.Context, id string) (task.Status, error) // NOT_FOUND
	// List returns the newest tasks first; an empty state means all.
	List(ctx context.Context, state task.State, limit int) ([]task.Status, error)
	Cancel(ctx context.Context, id string) (task.CancelResult, error) // NOT_FOUND
	// Delete removes what an ended task was asked and answered. Actor is who asks for it. NOT_FOUND, CONFLICT.
	Delete(ctx context.Context, id, actor string) error
	// Subscribe opens a task's stream after the event with this id, or at its start if the id is empty. INVALID_PARAMS for an
	// id that the stream never gave, NOT_FOUND, WORKER_RESET for an id whose hash is of other bytes.
	Subscribe(ctx context.Context, id, after string) (delivery.Stream, error)
}

// Sessions is what the API does with sessions and budgets. Errors are *task.Error.
type Sessions interface {
	Create(ctx context.Context, r task.SessionRequest) (task.SessionStatus, error)
	Get(ctx context.Context, id, actor string) (task.SessionStatus, error) // NOT_FOUND
	Delete(ctx context.Context, id string) error                           // NOT_FOUND, CONFLICT
	// Rests is what is left of the budgets of a session and an actor. The session's id may be empty.
	Rests(sessionID, actor string) task.Budgets
}

// Pools is what the API shows of pools.
type Pools interface {
	Pools() []PoolView
	Health(id string) (HealthView, error) // *task.Error NOT_FOUND
	// Fingerprint says what a fingerprint stands for. *task.Error NOT_FOUND.
	Fingerprint(id string) (FingerprintView, error)
	GPUs() GPUsView
	// Hosts are the servers that share the record of tasks, this one among them. *task.Error LEDGER_UNAVAILABLE.
	Hosts(ctx context.Context) ([]SharerView, error)
	// Ready returns nil when a task sent now would be accepted and has a way to run, else a *task.Error with the reasons (LO-841).
	Ready(ctx context.Context) error
}

// PoolView is a pool as clients see it.
type PoolView struct {
	ID             string
	State          task.PoolState
	Progress       float64 // from 0 to 1; 0: nobody can tell
	Engine         string
	EngineVersion  string // empty until a replica was ready
	Model          ModelView
	Workload       task.Workload
	Device         string
	Ctx            int            // tokens
	Slots          int            // per replica
	Features       []task.Feature // what chats may ask of it; empty: nobody knows
	Piece          int            // tokens of a whole piece of prompt that strict tasks reuse; 0: they start cold, or nobody knows
	Routes         []string       // of the opaque requests that it takes; empty: it takes tasks
	Span           bool           // its engine computes on several hosts
	SamplerProfile string
	Ready          bool
	Draining       bool
	Lifecycle      string // `pinned` or `on_demand`
	Loaded         bool   // an on-demand pool that is not is loaded by its next task
	LastError      string
	SelfTest       SelfTestView
	Replicas       int
	ReplicasReady  int
	Queue          QueueView
}

// SelfTestView is what the test at the start found of a pool. State is one of the contract's, or empty where none is made.
type SelfTestView struct {
	State, Detail string
	Steps         []SelfTestStep // in their order
}

// SelfTestStep is one thing that a self-test looks at. Both are words of the contract.
type SelfTestStep struct{ Step, State string }

// ModelView names a pool's model. Digest is empty where unknown.
type ModelView struct{ ID, Ref, Digest string }

// HostView is another host on which a worker computes; 0: its worker did not say.
type HostView struct {
	Host            string
	FreeBytes, Used int64
}

// QueueView is a pool's queue. FullPolicy is `reject` or `drop-lru`.
type QueueView struct {
	Interactive, Batch, Capacity int
	FullPolicy                   string
}

// HealthView is a pool with its replicas and the GPUs of its device mask.
type HealthView struct {
	Pool     PoolView
	Replicas []ReplicaView
	GPUs     []GPUView
}

// FingerprintView is what a fingerprint stands for: all facts that can change a replica's bytes.
type FingerprintView struct {
	ID                            string
	Seen                          time.Time // when a replica with it got ready last
	Replicas                      []string  // that have it now
	Engine, Build, System, Device string
	EngineDigest, ModelDigest     string
	Threads, Ctx, Slots, Batch    int
	Flags, Files, BuildFlags      []string
	BuildRef                      string
}

// ReplicaView is one worker process. State is one of the contract's.
type ReplicaView struct {
	ID            string
	State         string
	Restarts      int
	Fingerprint   string
	EngineVersion string
	Device        string
	Slots         int
	Active        int
	Ctx           int        // tokens a slot's context holds; 0: not known yet
	Hosts         []HostView // that compute a part
	Cards         []int      // the GPUs it sits on; empty on the CPU
	EstimateBytes int64      // memory it was expected to take; 0: unknown
	ObservedBytes int64      // memory it was seen to take; 0: not seen yet
	LoadTime      time.Duration
	LastError     string
	Progress      string   // of its worker's load; empty: it tells of none
	LogTail       []string // oldest first
}

// SharerView is a server that shares the record of tasks.
type SharerView struct {
	ID, Name, Address, Version string
	Here, Up                   bool // it is the one that answers; its lease runs
	Since, Seen                time.Time
	Pools                      []SharedPoolView
}

// SharedPoolView is a pool of such a server. Digest is empty where nobody knows it.
type SharedPoolView struct {
	ID, Engine, ModelID, Digest string
	Holds                       bool // its queue is this server's
}

// GPUsView is the machine's GPUs, by index. Problem says why none can be used, and what to do; empty: they can.
type GPUsView struct {
	Driver, CUDA, Problem string
	GPUs                  []GPUView
}

// GPUView is one GPU. Sizes are bytes, utilization is 0 to 1. Temperature, power and the energy since the driver was loaded are 0 where the card does not tell.
type GPUView struct {
	Index                                                  int
	UUID, Name, DriverVersion                              string
	Healthy                                                bool
	LastError                                              string
	VRAMTotal, VRAMUsed, VRAMOther, VRAMPromised, VRAMFree int64
	Utilization                                            float64
	TemperatureC                                           int
	PowerW, EnergyJ                                        float64
	Holders                                                []HolderView
}

// HolderView is who holds memory of a GPU: a replica, or another program, which has no ReplicaID.
type HolderView struct {
	ReplicaID      string
	PID            int // 0: unknown, or not started yet
	Used, Promised int64
}

// Streams sends a stream to the client of a request. It closes the stream in the end, also where it returns an error.
type Streams interface {
	Deliver(w http.ResponseWriter, r *http.Request, s delivery.Stream, d delivery.Dialect) error
}

// Options are what a handler is made from. All parts up to Gatherer are needed.
type Options struct {
	Tasks        Tasks
	Sessions     Sessions
	Pools        Pools
	Control      Control
	Catalog      Catalog
	Artifacts    Artifacts
	Streams      Streams
	Gatherer     prometheus.Gatherer
	Exemplars    bool          // a scraper that takes OpenMetrics gets it, since that alone has exemplars (LO-630)
	Log          *zap.Logger   // default none
	Logs         Logs          // default none
	Engines      []string      // what each kind of engine can do, as a feature in capabilities; default none
	Version      string        // the server's, shown in capabilities; default "dev"
	Limits       Limits        // what capabilities show; needed
	WriteTimeout time.Duration // bounds each write of an artifact, so that a dead client frees its goroutine; default 30 s
}

// Limits are those that others hold a request to: the gate its body, admission the rest. They have no defaults here, which could
// differ from what is in force (LO-848).
type Limits struct {
	BodyBytes   int64
	PromptBytes int64 // of prompt, messages and inputs together
	Inputs      int   // inputs, or messages
}

// Handler serves the whole native API, as a front behind the gate.
type Handler struct {
	Options
	contract *contract
	routes   *gen.Server
}

// NewHandler makes the handler of the whole API.
func NewHandler(o Options) (*Handler, error) {
	if o.Tasks == nil || o.Sessions == nil || o.Pools == nil || o.Control == nil || o.Catalog == nil || o.Artifacts == nil || o.Streams == nil || o.Gatherer == nil {
		return nil, errors.New("api: Tasks, Sessions, Pools, Control, Catalog, Artifacts, Streams and Gatherer are needed")
	}
	if o.Limits.BodyBytes <= 0 || o.Limits.PromptBytes <= 0 || o.Limits.Inputs <= 0 {
		return nil, errors.New("api: the limits that are in force are needed")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	o.Log = o.Log.Named("api")
	if o.Logs == nil {
		o.Logs = noLogs{}
	}
	o.Version = cmp.Or(o.Version, "dev")
	o.WriteTimeout = cmp.Or(o.WriteTimeout, gate.DefaultTimeout)
	c, err := loadContract()
	if err != nil {
		return nil, err
	}
	h := &Handler{Options: o, contract: c}
	h.routes, err = gen.NewServer(&handlers{
		tasks:     tasks{h},
		sessions:  sessions{h},
		pools:     pools{h},
		control:   control{h},
		catalog:   catalog{h},
		artifacts: artifacts{h},
		ops:       ops{h},
		Handler:   h,
	}, passSecurity{},
		gen.WithErrorHandler(h.refused), gen.WithNotFound(h.notFound), gen.WithMethodNotAllowed(h.notAllowed))
	if err != nil {
		return nil, err
	}
	return h, nil
}

type (
	tasks struct {
		*Handler
	}
	sessions struct {
		*Handler
	}
	pools struct {
		*Handler
	}
	control struct {
		*Handler
	}
	catalog struct {
		*Handler
	}
	ops struct {
		*Handler
	}
)

// handlers joins the groups.
type handlers struct {
	tasks
	sessions
	pools
	control
	ops
	catalog
	artifacts
	*Handler
}

// NewError renders a handler's error for gen.
func (h *handlers) NewError(ctx context.Context, err error) *gen.ErrorStatusCodeWithHeaders {
	return h.envelope(ctx, err)
}

// passSecurity lets everything through: the gate has checked the caller already.
type passSecurity struct{}

func (passSecurity) HandleBearerAuth(ctx context.Context, _ gen.OperationName, _ gen.BearerAuth) (context.Context, error) {
	return ctx, nil
}
