// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"cmp"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// Metrics are the scheduler's series of the metrics contract (ORCH-3028).
type Metrics struct {
	registerer    prometheus.Registerer
	enqueuedTotal *prometheus.CounterVec
	startedTotal  *prometheus.CounterVec
	canceledTotal *prometheus.CounterVec
	finishedTotal *prometheus.CounterVec
	tokensIn      *prometheus.CounterVec
	tokensOut     *prometheus.CounterVec
	firstTokenMS  *prometheus.HistogramVec
	decodeMS      *prometheus.HistogramVec
	decisions     *prometheus.CounterVec
	candidates    prometheus.Histogram
	fullQueue     *prometheus.CounterVec
	predictionMS  *prometheus.HistogramVec
	waitMS        *prometheus.HistogramVec
	clientTasks   *prometheus.CounterVec
	clientTokens  *prometheus.CounterVec
	streams       prometheus.Gauge
	cutOffs       prometheus.Counter
	failovers     *prometheus.CounterVec
	reusedTokens  *prometheus.CounterVec
	savedMS       *prometheus.CounterVec
	yields        *prometheus.CounterVec
	energy        *prometheus.CounterVec
}

// NewMetrics registers the scheduler's series.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		r.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		r.MustRegister(h)
		return h
	}
	m := &Metrics{
		registerer: r,
		enqueuedTotal: counter("tasks_enqueued_total", "Tasks accepted into a queue; replica_id is empty, since none is chosen yet.",
			observe.ReplicaLabels(observe.LabelPriority)...),
		startedTotal: counter("tasks_started_total", "Tasks dispatched to a replica.", observe.ReplicaLabels(observe.LabelPriority)...),
		canceledTotal: counter("tasks_canceled_total", "Tasks ended before they were done, by whom: client, drop_lru, deadline, timeout or shutdown.",
			observe.ReplicaLabels(observe.LabelReason)...),
		finishedTotal: counter("llorch_tasks_finished_total", "Tasks by outcome: completed, canceled or failed.",
			observe.LabelPoolID, observe.LabelOutcome),
		reusedTokens: counter("llorch_prompt_tokens_reused_total", "Tokens of prompts that came from KV (LO-443).", observe.LabelPoolID, observe.LabelDeterminism),
		savedMS:      counter("llorch_prefill_saved_ms_total", "About how many milliseconds the engines would have needed for those tokens.", observe.LabelPoolID),
		failovers: counter("llorch_failovers_total", "Tasks that lost their worker, by how that ended: resumed, continued, mismatch or exhausted.",
			observe.LabelPoolID, observe.LabelOutcome),
		yields:    counter("llorch_batch_lines_interrupted_total", "Runs of batches' lines that gave way to an interactive task (LO-444).", observe.LabelPoolID),
		energy:    counter("llorch_task_energy_joules_total", "Energy that the cards took for tasks, by their own counters (LO-504).", observe.LabelPoolID),
		tokensIn:  counter("tokens_in_total", "Prompt tokens of completed tasks.", observe.ReplicaLabels()...),
		tokensOut: counter("tokens_out_total", "Tokens streamed.", observe.ReplicaLabels()...),
		firstTokenMS: histogram("latency_first_token_ms", "Milliseconds from admission to the first token.",
			observe.FirstTokenBuckets(), observe.PoolLabels()...),
		decodeMS: histogram("latency_decode_ms", "Milliseconds from the first token to the end, of completed tasks.",
			observe.DecodeBuckets(), observe.PoolLabels()...),
		decisions: counter("placement_decisions_total", "Looks for a replica: placed, or none could take the task.",
			observe.LabelOutcome, observe.LabelPinned, observe.LabelFallback),
		candidates: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "placement_candidates_considered", Help: "Replicas that could have taken a placed task.",
			Buckets: []float64{0, 1, 2, 4, 8, 16, 32, 64},
		}),
		fullQueue: counter("admission_backpressure_events_total", "Submits that found the queue full, by its policy.",
			observe.LabelEngine, observe.LabelPolicy),
		predictionMS: histogram("llorch_prediction_error_ms", "Milliseconds between the predicted and the actual start, either way (LO-103).",
			[]float64{10, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000}, observe.LabelPoolID),
		waitMS: histogram("llorch_queue_wait_ms", "Milliseconds from admission to the first dispatch (LO-613).",
			[]float64{10, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 120000, 300000, 600000}, observe.LabelPoolID, observe.LabelPriority),
		clientTasks:  counter("llorch_client_tasks_total", "Tasks by who submitted them and by outcome (LO-613).", observe.LabelClient, observe.LabelOutcome),
		clientTokens: counter("llorch_client_tokens_total", "Tokens by who submitted their task (LO-613).", observe.LabelClient, observe.LabelDirection),
		streams:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "llorch_streams_open", Help: "Open event streams."}),
		cutOffs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "llorch_stream_cutoffs_total", Help: "Streams cut off because their client was too slow when its task was canceled.",
		}),
	}
	r.MustRegister(m.candidates, m.streams, m.cutOffs)
	return m
}

// watch registers the queue depths, read when they are asked for.
func (m *Metrics) watch(s *Scheduler) { m.registerer.MustRegister(depths{s}) }

type depths struct{ s *Scheduler }

var (
	depthDesc = prometheus.NewDesc("queue_depth", "Queued tasks.", observe.PoolLabels(), nil)
	stuckDesc = prometheus.NewDesc("llorch_queue_stuck", "1 while a pool's queue stands still (LO-601).", []string{observe.LabelPoolID}, nil)
)

func (d depths) Describe(out chan<- *prometheus.Desc) {
	out <- depthDesc
	out <- stuckDesc
}

func (d depths) Collect(out chan<- prometheus.Metric) {
	for _, l := range *d.s.lanes.Load() {
		stuck := 0.0
		if l.stuck.Load() {
			stuck = 1
		}
		out <- prometheus.MustNewConstMetric(stuckDesc, prometheus.GaugeValue, stuck, l.pool.ID)
		for _, p := range []task.Priority{task.Interactive, task.Batch} {
			out <- prometheus.MustNewConstMetric(depthDesc, prometheus.GaugeValue, float64(l.queue.Len(p)),
				l.pool.Engine, d.s.o.Replicas.EngineVersion(l.pool.ID), l.pool.ID, string(p))
		}
	}
}

func (m *Metrics) enqueued(t task.Task) {
	m.enqueuedTotal.WithLabelValues(t.Engine, t.EngineVersion, t.PoolID, "", string(t.Request.Priority)).Inc()
}

func (m *Metrics) backpressure(l *lane) {
	m.fullQueue.WithLabelValues(l.pool.Engine, string(l.pool.Policy)).Inc()
}

func (m *Metrics) placed(t task.Task, ok bool, considered int) {
	outcome := "no_replica"
	if ok {
		outcome = "placed"
		m.candidates.Observe(float64(considered))
	}
	m.decisions.WithLabelValues(outcome, strconv.FormatBool(t.PinnedPool), strconv.FormatBool(t.Fallback)).Inc()
}

func (m *Metrics) dispatched(t task.Task, r Replica, waited time.Duration, tries int) {
	m.startedTotal.WithLabelValues(t.Engine, r.EngineVersion, t.PoolID, r.ID, string(t.Request.Priority)).Inc()
	if tries == 1 {
		m.waitMS.WithLabelValues(t.PoolID, string(t.Request.Priority)).Observe(ms(waited))
		m.predictionMS.WithLabelValues(t.PoolID).Observe(ms((waited - t.PredictedStart).Abs()))
	}
}

// moved counts how the failover of a task ended (LO-203). If somebody ended the task, such as by a cancel, nothing is counted.
func (m *Metrics) moved(r task.Record) {
	outcome := "resumed"
	switch {
	case r.End != nil && len(r.End.Receipt.ContinuedAt) > 0:
		outcome = "continued"
	case r.End != nil:
	case errors.Is(r.Err, stream.ErrDiverged):
		outcome = "mismatch"
	case task.HasCode(r.Err, task.WorkerReset):
		outcome = "exhausted"
	default:
		return
	}
	m.failovers.WithLabelValues(r.Task.PoolID, outcome).Inc()
}

// gaveWay counts a run that made way for an interactive task.
func (m *Metrics) gaveWay(l *lane) { m.yields.WithLabelValues(l.pool.ID).Inc() }

// took counts what the cards took for a task that has ended, as its client sees it; nil: that is not known.
func (m *Metrics) took(poolID string, e *task.Energy) {
	if joules, _ := e.Shown(); joules != nil {
		m.energy.WithLabelValues(poolID).Add(*joules)
	}
}

// reused counts what a task took from KV, and about how long its engine would have needed for that.
func (m *Metrics) reused(t task.Task, tokens int, saved time.Duration) {
	m.reusedTokens.WithLabelValues(t.PoolID, string(t.Determinism)).Add(float64(tokens))
	m.savedMS.WithLabelValues(t.PoolID).Add(ms(saved))
}

func (m *Metrics) firstOutput(t task.Task, version string, waited time.Duration, traceID string) {
	observeMS(m.firstTokenMS.WithLabelValues(t.Engine, version, t.PoolID, string(t.Request.Priority)), waited, traceID)
}

// observeMS adds a latency, with the trace of its task as an exemplar where there is one (LO-630).
func observeMS(h prometheus.Observer, d time.Duration, traceID string) {
	if with, ok := h.(prometheus.ExemplarObserver); ok && traceID != "" {
		with.ObserveWithExemplar(ms(d), prometheus.Labels{"trace_id": traceID})
		return
	}
	h.Observe(ms(d))
}

// finished counts an ended task. First is when its first output came; zero: it had none.
func (m *Metrics) finished(r task.Record, version string, first time.Time, traceID string) {
	t := r.Task
	client := cmp.Or(t.Request.Actor, observe.ClientServer)
	m.finishedTotal.WithLabelValues(t.PoolID, string(r.State)).Inc()
	m.clientTasks.WithLabelValues(client, string(r.State)).Inc()
	if n := r.Status().TokensOut; n > 0 {
		m.tokensOut.WithLabelValues(t.Engine, version, t.PoolID, r.ReplicaID).Add(float64(n))
		m.clientTokens.WithLabelValues(client, "out").Add(float64(n))
	}
	if r.End != nil {
		m.tokensIn.WithLabelValues(t.Engine, version, t.PoolID, r.ReplicaID).Add(float64(r.End.TokensIn))
		m.clientTokens.WithLabelValues(client, "in").Add(float64(r.End.TokensIn))
		if !first.IsZero() {
			observeMS(m.decodeMS.WithLabelValues(t.Engine, version, t.PoolID, string(t.Request.Priority)), r.FinishedAt.Sub(first), traceID)
		}
		return
	}
	if reason, ok := cancelReasons[r.Err.Code]; ok {
		m.canceledTotal.WithLabelValues(t.Engine, version, t.PoolID, r.ReplicaID, reason).Inc()
	}
}

// cancelReasons are the ends that somebody decided on, as a closed set of label values.
var cancelReasons = map[task.Code]string{
	task.Canceled: "client", task.QueueFullDropLRU: "drop_lru", task.DeadlineUnmet: "deadline",
	task.DecodeTimeout: "timeout", task.ShuttingDown: "shutdown",
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
