// SPDX-License-Identifier: GPL-3.0-or-later

// Package api serves the HTTP API: it implements gen's handler groups over the interfaces below, and holds the one table
// that maps error codes to HTTP.
package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// Tasks is what the API does with tasks. Errors are *task.Error.
type Tasks interface {
	Submit(ctx context.Context, req task.Request) (task.Admission, error)
	Get(id string) (task.Status, error) // NOT_FOUND
	// List returns the newest tasks first; an empty state means all.
	List(state task.State, limit int) ([]task.Status, error)
	Cancel(ctx context.Context, id string) (task.CancelResult, error) // NOT_FOUND
	// Subscribe opens a task's stream behind the event named by after, or at its start. INVALID_PARAMS for an id that the
	// stream never gave, NOT_FOUND, WORKER_RESET for an id of other bytes.
	Subscribe(id, after string) (Stream, error)
}

// Sessions is what the API does with sessions and budgets. Errors are *task.Error.
type Sessions interface {
	Create(ctx context.Context, r task.SessionRequest) (task.SessionStatus, error)
	Get(ctx context.Context, id, actor string) (task.SessionStatus, error) // NOT_FOUND
	Delete(ctx context.Context, id string) error                           // NOT_FOUND, CONFLICT
	// Rests are what is left of the budgets of a session, which may be empty, and an actor.
	Rests(sessionID, actor string) task.Budgets
}

// Stream is one subscription to a task's events. One goroutine uses it.
type Stream interface {
	// Next blocks until frames are there and returns whole encoded SSE frames, valid until the next call. Frames that are
	// there go before a tick. It returns (nil, nil) when tick fires first, io.EOF after the terminal event, a *task.Error
	// that ends this stream alone, and other errors, ctx's among them, where the stream breaks off.
	Next(ctx context.Context, tick <-chan time.Time) ([]byte, error)
	// Written says that the frames of the last Next are on the wire, or that writing them failed.
	Written()
	// Direct gives tokens another way to the client while Next waits: write, called by another goroutine. It must not wait;
	// where it reports false, Next returns frames of no bytes, and the reader finishes the write.
	Direct(write func(frames []byte) bool)
	// Metrics returns the current figures, and false once the task has ended.
	Metrics() (task.Metrics, bool)
	Close()
}

// Pools is what the API shows of pools.
type Pools interface {
	Pools() []PoolView
	Health(id string) (HealthView, error) // *task.Error NOT_FOUND
	GPUs() GPUsView
	// Ready returns nil when at least one pool can serve a task, else *task.Error POOL_UNREADY.
	Ready() error
}

// PoolView is a pool as clients see it.
type PoolView struct {
	ID             string
	Engine         string
	EngineVersion  string // empty until a replica was ready
	Model          ModelView
	Workload       task.Workload
	Device         string
	Ctx            int // tokens
	Slots          int // per replica
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
	Ctx           int   // tokens a slot's context holds; 0: not known yet
	Cards         []int // the GPUs it sits on; empty on the CPU
	EstimateBytes int64 // memory it was expected to take; 0: unknown
	ObservedBytes int64 // memory it was seen to take; 0: not seen yet
	LoadTime      time.Duration
	LastError     string
	LogTail       []string // oldest first
}

// GPUsView is the machine's GPUs, by index. Problem says why none can be used, and what to do; empty: they can.
type GPUsView struct {
	Driver, CUDA, Problem string
	GPUs                  []GPUView
}

// GPUView is one GPU. Sizes are bytes, utilization is 0 to 1. Temperature and power are 0 where the card does not tell.
type GPUView struct {
	Index                                                  int
	UUID, Name, DriverVersion                              string
	Healthy                                                bool
	LastError                                              string
	VRAMTotal, VRAMUsed, VRAMOther, VRAMPromised, VRAMFree int64
	Utilization                                            float64
	TemperatureC                                           int
	PowerW                                                 float64
	Holders                                                []HolderView
}

// HolderView is who holds memory of a GPU: a replica, or another program, which has no ReplicaID.
type HolderView struct {
	ReplicaID      string
	PID            int // 0: unknown, or not started yet
	Used, Promised int64
}

// Options are what a handler is made from. All parts up to Gatherer are needed.
type Options struct {
	Tasks     Tasks
	Sessions  Sessions
	Pools     Pools
	Control   Control
	Catalog   Catalog
	Artifacts Artifacts
	Auth      *gate.Auth
	Gatherer  prometheus.Gatherer
	Log       *zap.Logger // default none
	Version   string      // the server's, shown in capabilities; default "dev"
	MaxBody   int64       // bytes of a request body; default 4 MiB
	// WriteTimeout bounds each write of a stream, so that a dead client frees its goroutine. Default 30 s.
	WriteTimeout time.Duration
	// ReadTimeout bounds the reading of a request's body. Default 30 s.
	ReadTimeout time.Duration
	// Ticker drives the metrics frames and keep-alives of streams; it ticks once a second. Default the wall clock's.
	Ticker func() (tick <-chan time.Time, stop func())
}

const (
	defaultMaxBody = 4 << 20
	defaultTimeout = 30 * time.Second
)

// Handler serves the whole API. A stream takes its request's connection over, so the server that has the handler knows
// nothing of it any more: EndStreams does.
type Handler struct{ server *server }

// ServeHTTP serves a request of HTTP/1, whose connection can be taken over.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.server.ServeHTTP(w, r) }

// EndStreams takes no more streams and waits until those that run have ended. What has not when ctx ends is broken off.
func (h *Handler) EndStreams(ctx context.Context) { h.server.deliveries.end(ctx) }

// NewHandler makes the handler of the whole API.
func NewHandler(o Options) (*Handler, error) {
	if o.Tasks == nil || o.Sessions == nil || o.Pools == nil || o.Control == nil || o.Catalog == nil || o.Artifacts == nil || o.Auth == nil || o.Gatherer == nil {
		return nil, errors.New("api: Tasks, Sessions, Pools, Control, Catalog, Artifacts, Auth and Gatherer are needed")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	o.Log = o.Log.Named("api")
	if o.Version == "" {
		o.Version = "dev"
	}
	if o.MaxBody <= 0 {
		o.MaxBody = defaultMaxBody
	}
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = defaultTimeout
	}
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = defaultTimeout
	}
	if o.Ticker == nil {
		o.Ticker = func() (<-chan time.Time, func()) {
			t := time.NewTicker(time.Second)
			return t.C, t.Stop
		}
	}
	c, err := loadContract()
	if err != nil {
		return nil, err
	}
	s := &server{Options: o, contract: c}
	s.routes, err = gen.NewServer(&handlers{
		tasks:     tasks{server: s},
		sessions:  sessions{server: s},
		pools:     pools{server: s},
		control:   control{server: s},
		catalog:   catalog{server: s},
		artifacts: artifacts{server: s},
		ops:       ops{server: s},
		server:    s,
	}, passSecurity{},
		gen.WithErrorHandler(s.refused), gen.WithNotFound(s.notFound), gen.WithMethodNotAllowed(s.notAllowed))
	if err != nil {
		return nil, err
	}
	return &Handler{s}, nil
}

type (
	tasks struct {
		*server
	}
	sessions struct {
		*server
	}
	pools struct {
		*server
	}
	control struct {
		*server
	}
	catalog struct {
		*server
	}
	ops struct {
		*server
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
	*server
}

// NewError renders a handler's error for gen.
func (h *handlers) NewError(ctx context.Context, err error) *gen.ErrorStatusCodeWithHeaders {
	return h.server.envelope(ctx, err)
}

// passSecurity lets everything through: ServeHTTP has checked the token already.
type passSecurity struct{}

func (passSecurity) HandleBearerAuth(ctx context.Context, _ gen.OperationName, _ gen.BearerAuth) (context.Context, error) {
	return ctx, nil
}
