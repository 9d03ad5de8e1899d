// SPDX-License-Identifier: GPL-3.0-or-later

// Package fronts makes the fronts of other dialects that the configuration asks for, and says which paths are whose (LO-427).
package fronts

import (
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/control"
	"github.com/llama-orch/llama-orch/service/flow/admission"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/anthropic"
	"github.com/llama-orch/llama-orch/service/front/batch"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/help"
	"github.com/llama-orch/llama-orch/service/front/ollama"
	"github.com/llama-orch/llama-orch/service/front/opaque"
	"github.com/llama-orch/llama-orch/service/front/openai"
	"github.com/llama-orch/llama-orch/service/front/page"
	"github.com/llama-orch/llama-orch/service/front/upstream"
	"github.com/llama-orch/llama-orch/service/record/artifact"
	"github.com/llama-orch/llama-orch/service/record/ledger"
)

// Options are what fronts are made from.
type Options struct {
	Config     config.Config
	Tasks      control.Tasks
	Ledger     ledger.Ledger
	Artifacts  *artifact.Store
	Fleet      control.Fleet
	Schedule   *scheduler.Scheduler
	Operator   *control.Operator
	Streams    *delivery.Streams
	Native     gate.Front // that of the native API
	Log        *zap.Logger
	Registerer prometheus.Registerer
}

// Fronts are those that are served.
type Fronts struct {
	Below  map[string]gate.Front // by the path that theirs begin with
	Exact  map[string]gate.Front // by path
	Feeder *batch.Feeder         // nil: no front has batches

	engines *control.Upstream // nil: nothing is passed through
	opaque  *control.Opaque
}

// New makes the fronts.
func New(o Options) (*Fronts, error) {
	c, since := o.Config, time.Now()
	f := &Fronts{Below: map[string]gate.Front{}, Exact: map[string]gate.Front{}}
	common := exchange.Options{
		Tasks: o.Tasks, Models: o.Fleet.Served(since), Streams: o.Streams, Log: o.Log, Hold: c.Fronts.Hold, ReturnWithin: c.Fronts.ReturnWithin,
		Keep: c.Fronts.Keep, Count: admission.NewCounter(o.Tasks.Desk).Count,
	}
	var chat *openai.Front
	var messages *anthropic.Front
	for _, name := range c.Fronts.Serve {
		switch name {
		case config.FrontOpenAI:
			chat = openai.New(common)
			f.mount(chat, chat.Paths())
		case config.FrontAnthropic:
			messages = anthropic.New(common)
			f.mount(messages, messages.Paths())
		case config.FrontOllama:
			front := ollama.New(ollama.Options{Options: common, Library: control.NewLibrary(o.Operator, since), Status: o.Schedule.Get})
			f.Below[ollama.Prefix], f.Exact[ollama.Root] = front, front
		}
	}
	if chat != nil && messages != nil { // both have models
		f.Below[anthropic.ModelsPath] = exchange.Either(anthropic.VersionHeader, messages, chat)
	}
	if err := f.batches(o, common, chat, messages); err != nil {
		return nil, err
	}
	f.passOn(o, chat, common)
	f.Exact[gate.HelpPath] = help.New(o.Native)
	if c.Fronts.Upstream {
		f.engines = control.NewUpstream(o.Fleet, o.Schedule, o.Log)
		f.Below[upstream.Prefix] = upstream.New(upstream.Options{Engines: f.engines, Log: o.Log})
	}
	return f, nil
}

// Before puts something before each front.
func (f *Fronts) Before(put func(gate.Front) gate.Front) {
	for _, all := range []map[string]gate.Front{f.Below, f.Exact} {
		for path, front := range all {
			all[path] = put(front)
		}
	}
}

// Page puts the status page before what else answers at its paths.
func (f *Fronts) Page(o page.Options) (*page.Front, error) {
	o.Native, o.Else = f.Below["/"], f.Below["/"]
	if other := f.Exact[page.Root]; other != nil {
		o.Else = other
	}
	front, err := page.New(o)
	if err != nil {
		return nil, err
	}
	f.Exact[page.Root], f.Below[page.Prefix] = front, front
	return front, nil
}

// passOn puts before the native API, and before rerank, what passes requests to the servers of the pools that have their paths as routes. Errors are
// in OpenAI's shape, whether that dialect is served or not: such requests are its clients'.
func (f *Fronts) passOn(o Options, chat *openai.Front, common exchange.Options) {
	f.opaque = control.NewOpaque(o.Fleet, o.Tasks.Desk, o.Schedule)
	refuse := openai.New(common).Refuse
	before := func(front gate.Front) gate.Front {
		return opaque.New(opaque.Options{
			Line: f.opaque, Refuse: refuse, Else: front, Window: int64(o.Config.Limits.BodyBytes), Body: int64(o.Config.Limits.FileBytes), Log: o.Log,
		})
	}
	f.Below["/"] = before(o.Native)
	if chat != nil {
		for _, path := range openai.Shared {
			f.Below[path] = before(chat)
		}
	}
}

// Close closes the connections to engines that were not their adapters'.
func (f *Fronts) Close() {
	f.opaque.Close()
	if f.engines != nil {
		f.engines.Close()
	}
}

func (f *Fronts) mount(front gate.Front, paths []string) {
	for _, path := range paths {
		f.Below[path] = front
	}
}

// batches makes what runs batches, and the fronts that show them, for the dialects that are served and have batches.
func (f *Fronts) batches(o Options, common exchange.Options, chat *openai.Front, messages *anthropic.Front) (err error) {
	dialects := map[string]batch.Dialect{}
	if chat != nil {
		dialects[config.FrontOpenAI] = chat
	}
	if messages != nil {
		dialects[config.FrontAnthropic] = messages
	}
	if len(dialects) == 0 {
		return nil
	}
	c := o.Config
	f.Feeder, err = batch.New(batch.Options{
		Tasks: o.Tasks, Records: records{o.Ledger}, Store: store{o.Artifacts}, Dialects: dialects,
		NewID: func() string { return strings.ReplaceAll(uuid.NewString(), "-", "") },
		Feed:  c.Fronts.Feed, FileBytes: int64(c.Limits.FileBytes), LineBytes: int64(c.Limits.BodyBytes), Retain: c.Ledger.RetainAge,
		Log: o.Log, Registerer: o.Registerer, Now: time.Now,
	})
	if err != nil {
		return err
	}
	if chat != nil {
		front := batch.NewOpenAI(f.Feeder, common, openai.Endpoints, chat.Refuse)
		f.mount(front, front.Paths())
	}
	if messages != nil {
		front := batch.NewAnthropic(f.Feeder, common, anthropic.MessagesPath, messages.Refuse)
		f.mount(front, front.Paths())
	}
	return nil
}
