// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/observe"
)

// GPUs returns the cards as the API shows them (ORCH-1101).
func (f views) GPUs() api.GPUsView {
	inventory, view := f.cards.monitor.Snapshot(), f.cards.ledger.View()
	out := api.GPUsView{Driver: inventory.Driver, CUDA: inventory.CUDA, Problem: inventory.Err}
	owners := f.owners()
	for _, c := range inventory.Cards {
		g := api.GPUView{
			Index: c.Index, UUID: c.UUID, Name: c.Name, DriverVersion: inventory.Driver, Healthy: c.Healthy, LastError: c.Problem,
			VRAMTotal: c.Total, VRAMUsed: c.Used, Utilization: c.Utilization, TemperatureC: c.Temperature, PowerW: c.Power, EnergyJ: c.Energy,
		}
		at := slices.IndexFunc(view.Cards, func(v vram.CardView) bool { return v.Index == c.Index })
		if at < 0 {
			out.GPUs = append(out.GPUs, g)
			continue
		}
		v := view.Cards[at]
		g.VRAMPromised, g.VRAMFree, g.VRAMOther = v.Promised, v.Free, v.Foreign
		ours := map[int]bool{}
		for _, h := range v.Holders {
			r := owners[h.Owner]
			ours[r.PID] = true
			held := api.HolderView{ReplicaID: r.ID, PID: r.PID, Used: h.Shown}
			if h.Phase == vram.Starting {
				held.Promised = h.Due
			}
			if r.ID == "" { // the worker is gone, but not all of its memory is free again
				held.ReplicaID = h.Owner
			}
			g.Holders = append(g.Holders, held)
		}
		for _, p := range c.Processes {
			if !ours[p.PID] {
				g.Holders = append(g.Holders, api.HolderView{PID: p.PID, Used: p.Bytes})
			}
		}
		out.GPUs = append(out.GPUs, g)
	}
	return out
}

// owners returns the replicas by the names that their workers have in the VRAM ledger.
func (f Fleet) owners() map[string]pool.Info {
	owners := map[string]pool.Info{}
	for _, id := range f.manager.Pools() {
		for _, r := range f.manager.Infos(id) {
			owners[r.Owner] = r
		}
	}
	return owners
}

// CardsBack has the workers that wait for a card try again now, because a card is back (ORCH-3053).
func (f Fleet) CardsBack() {
	for _, p := range f.config().Pools {
		if p.Device == config.CPU {
			continue
		}
		if slices.ContainsFunc(f.manager.Infos(p.ID), func(r pool.Info) bool { return r.State == pool.Backoff || r.State == pool.Failed }) {
			_ = f.manager.Retry(p.ID) // a pool that is being reloaded tries by itself
		}
	}
}

// CardMetrics returns the gauges of the cards, and of the replicas on them. They are read when they are asked for.
func (f Fleet) CardMetrics() prometheus.Collector { return cardMetrics{f} }

// cardMetrics are those gauges.
type cardMetrics struct{ Fleet }

var (
	utilizationDesc = prometheus.NewDesc("gpu_utilization", "Share of the time in which a replica's card computed.", observe.ReplicaLabels("device"), nil)
	usedDesc        = prometheus.NewDesc("vram_used_bytes", "Memory that a replica takes on a card.", observe.ReplicaLabels("device"), nil)
	memoryDesc      = prometheus.NewDesc("llorch_gpu_memory_bytes", "Memory of a card, by kind (LO-613).", []string{observe.LabelDevice, "kind"}, nil)
	temperatureDesc = prometheus.NewDesc("llorch_gpu_temperature_celsius", "Temperature of a card (LO-613).", []string{observe.LabelDevice}, nil)
	powerDesc       = prometheus.NewDesc("llorch_gpu_power_watts", "Power that a card draws (LO-613).", []string{observe.LabelDevice}, nil)
	energyDesc      = prometheus.NewDesc("llorch_gpu_energy_joules_total", "Energy that a card has taken since its driver was loaded, by its own counter (LO-625).", []string{observe.LabelDevice}, nil)
	idleDesc        = prometheus.NewDesc("llorch_gpu_idle_energy_joules_total", "Energy that a card has taken while none of its slots was busy, since this process began to look (LO-504).", []string{observe.LabelDevice}, nil)
	healthyDesc     = prometheus.NewDesc("llorch_gpu_healthy", "1 if a card can be given work (LO-613).", []string{observe.LabelDevice}, nil)
)

// Describe implements prometheus.Collector.
func (c cardMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{utilizationDesc, usedDesc, memoryDesc, temperatureDesc, powerDesc, energyDesc, idleDesc, healthyDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c cardMetrics) Collect(out chan<- prometheus.Metric) {
	inventory := c.cards.monitor.Snapshot()
	c.collectCards(inventory, out)
	for _, id := range c.manager.Pools() {
		for _, r := range c.manager.Infos(id) {
			for _, index := range r.Cards {
				card, known := inventory.Card(index)
				if !known || r.PID == 0 {
					continue
				}
				labels := []string{r.Engine, r.EngineVersion, r.PoolID, r.ID, strconv.Itoa(index)}
				out <- prometheus.MustNewConstMetric(utilizationDesc, prometheus.GaugeValue, card.Utilization, labels...)
				out <- prometheus.MustNewConstMetric(usedDesc, prometheus.GaugeValue, float64(c.cards.ledger.Used(r.Owner, index)), labels...)
			}
		}
	}
}

// collectCards tells of each card what it is like. What a card does not tell is left out.
func (c cardMetrics) collectCards(inventory gpu.Inventory, out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for _, card := range inventory.Cards {
		device, healthy := strconv.Itoa(card.Index), 0.0
		if card.Healthy {
			healthy = 1
		}
		gauge(healthyDesc, healthy, device)
		gauge(memoryDesc, float64(card.Total), device, "total")
		gauge(memoryDesc, float64(card.Used), device, "used")
		if card.Temperature > 0 {
			gauge(temperatureDesc, float64(card.Temperature), device)
		}
		if card.Power > 0 {
			gauge(powerDesc, card.Power, device)
		}
		if card.Energy > 0 { // power that was sampled is no measure of it
			out <- prometheus.MustNewConstMetric(energyDesc, prometheus.CounterValue, card.Energy, device)
		}
	}
	for card, joules := range c.cards.meter.Idle() {
		out <- prometheus.MustNewConstMetric(idleDesc, prometheus.CounterValue, joules, strconv.Itoa(card))
	}
	for _, v := range c.cards.ledger.View().Cards {
		device := strconv.Itoa(v.Index)
		gauge(memoryDesc, float64(v.Free), device, "free")
		gauge(memoryDesc, float64(v.Promised), device, "promised")
		gauge(memoryDesc, float64(v.Foreign), device, "foreign")
	}
}
