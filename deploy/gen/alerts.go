// SPDX-License-Identifier: GPL-3.0-or-later

package main

// rules are the alerts, the most urgent first.
var rules = []rule{
	{
		name: "LlamaOrchDown", severity: "critical", wait: "2m", expr: `up{job="llama-orch"} == 0`, anchor: "the-daemon-does-not-answer",
		summary: "llama-orch at {{instance}} does not answer", description: "Prometheus has not reached /metrics for two minutes. Tasks that were accepted are kept, and go on when the daemon is back.",
		story: story{"4m", "9m", "15m", at(nil), []told{{"up", "1x4 0x5 1x10"}}},
	},
	{
		name: "LlamaOrchQueueStuck", severity: "critical", wait: "1m", expr: `llorch_queue_stuck == 1`, anchor: "a-queue-stands-still",
		summary: "The queue of pool {{pool_id}} stands still", description: "Its oldest task has waited for more than two minutes, and in this time the pool has started and completed nothing.",
		story: story{"4m", "9m", "15m", at(pool), []told{{`llorch_queue_stuck{pool_id="chat"}`, "0x4 1x5 0x10"}}},
	},
	{
		name: "LlamaOrchPoolUnready", severity: "critical", wait: "10m", anchor: "a-pool-is-not-ready",
		expr:    `sum by (instance, pool_id) (llorch_replica_state{state=~"ready|stopped|draining"}) == 0`,
		summary: "Pool {{pool_id}} has had no ready replica for ten minutes", description: "All of its replicas start, wait for another try, or have failed. Its tasks wait, and new ones may be refused. The pool's last_error says why.",
		story: story{"5m", "20m", "40m", at(pool, "job"), []told{
			{`llorch_replica_state{pool_id="chat",replica_id="chat-0",state="ready"}`, "1x5 0x20 1x20"},
			{`llorch_replica_state{pool_id="chat",replica_id="chat-0",state="backoff"}`, "0x5 1x20 0x20"},
			{`llorch_replica_state{pool_id="chat",replica_id="chat-0",state="stopped"}`, "0x50"},
		}},
	},
	{
		name: "LlamaOrchDeterminismBroken", severity: "critical", anchor: "the-same-task-gave-other-bytes",
		expr: `increase(llorch_failovers_total{outcome="mismatch"}[1h]) > 0 or (llorch_failovers_total{outcome="mismatch"} unless llorch_failovers_total{outcome="mismatch"} offset 1h) > 0`,
		// The first breach makes the series, so that no increase shows it.
		summary: "Pool {{pool_id}} has broken its promise of the same bytes", description: "A task that was decoded again after a crash gave other bytes than before. It ended with an error, and no client got a mixed answer.",
		story: story{"4m", "10m", "80m", at(map[string]string{"pool_id": "chat", "outcome": "mismatch"}), []told{{`llorch_failovers_total{pool_id="chat",outcome="mismatch"}`, "_x5 1x90"}}},
	},
	{
		name: "LlamaOrchLedgerFails", severity: "critical", expr: `increase(llorch_ledger_errors_total[5m]) > 0`, anchor: "the-ledger-cannot-write",
		summary: "The ledger at {{instance}} cannot write", description: "Operations were not recorded in the last five minutes, so new tasks are refused with LEDGER_UNAVAILABLE. Mostly the disk is full, or has failed.",
		story: story{"4m", "8m", "20m", at(nil), []told{{"llorch_ledger_errors_total", "0x5 2x30"}}},
	},
	{
		name: "LlamaOrchDiskFull", severity: "critical", wait: "5m", anchor: "the-disk-fills",
		expr:    `llorch_data_folder_bytes{kind="free"} / on (instance) llorch_data_folder_bytes{kind="size"} < 0.05`,
		summary: "The disk of the data folder at {{instance}} is nearly full", description: "Less than 5 % is free. When nothing is, the daemon accepts no more tasks.",
		story: story{"4m", "14m", "25m", at(nil, "job"), []told{{`llorch_data_folder_bytes{kind="free"}`, "50x4 4x10 60x20"}, {`llorch_data_folder_bytes{kind="size"}`, "100x40"}}},
	},
	{
		name: "LlamaOrchCardLost", severity: "critical", wait: "1m", expr: `llorch_gpu_healthy == 0`, anchor: "a-card-is-lost",
		summary: "Card {{device}} cannot be given work", description: "The driver lost it, or reported an error after which it must not be used. Its workers move to other cards where those have room.",
		story: story{"4m", "9m", "15m", at(card), []told{{`llorch_gpu_healthy{device="0"}`, "1x4 0x5 1x10"}}},
	},
	{
		name: "LlamaOrchWorkerFlaps", severity: "warning", expr: `sum by (instance, pool_id, reason) (increase(llorch_worker_restarts_total[15m])) > 3`, anchor: "a-worker-flaps",
		summary: "Workers of pool {{pool_id}} keep being lost: {{reason}}", description: "More than three were lost, or could not start, within 15 minutes. The replica's log_tail shows their last words.",
		story: story{"4m", "12m", "40m", at(map[string]string{"pool_id": "chat", "reason": "exited"}, "job"), []told{
			{`llorch_worker_restarts_total{pool_id="chat",replica_id="chat-0",reason="exited"}`, "0x5 1+1x6 7x60"},
		}},
	},
	{
		name: "LlamaOrchVRAMDisagrees", severity: "warning", wait: "10m", anchor: "other-programs-hold-gpu-memory",
		expr:    `llorch_gpu_memory_bytes{kind="foreign"} / on (instance, device) llorch_gpu_memory_bytes{kind="total"} > 0.2`,
		summary: "Card {{device}} holds memory that llama-orch has not given out", description: "The driver shows more than a fifth of the card in use by others than llama-orch's workers. Models that need it cannot load.",
		story: story{"5m", "20m", "40m", at(card, "job"), []told{{`llorch_gpu_memory_bytes{device="0",kind="foreign"}`, "1x5 30x20 1x20"}, {`llorch_gpu_memory_bytes{device="0",kind="total"}`, "100x50"}}},
	},
	{
		name: "LlamaOrchPredictionsOff", severity: "warning", wait: "10m", anchor: "predictions-are-off",
		expr:    `histogram_quantile(0.9, sum by (le, instance, pool_id) (rate(llorch_prediction_error_ms_bucket[30m]))) > 30000`,
		summary: "Pool {{pool_id}} does not start tasks when it said it would", description: "One of ten tasks started more than 30 seconds before or after its prediction. Clients that plan by it are misled.",
		story: story{"9m", "50m", "120m", at(pool, "job"), []told{
			{`llorch_prediction_error_ms_bucket{pool_id="chat",le="30000"}`, "0+1x10 10x45 10+1x90"},
			{`llorch_prediction_error_ms_bucket{pool_id="chat",le="60000"}`, "0+1x10 10+1x45 55+1x90"},
			{`llorch_prediction_error_ms_bucket{pool_id="chat",le="+Inf"}`, "0+1x10 10+1x45 55+1x90"},
		}},
	},
	{
		name: "LlamaOrchLedgerSlow", severity: "warning", wait: "10m", anchor: "the-ledger-is-slow",
		expr:    `histogram_quantile(0.99, sum by (le, instance) (rate(llorch_ledger_commit_ms_bucket[10m]))) > 250`,
		summary: "The ledger at {{instance}} is slow", description: "One of a hundred commits took more than a quarter of a second. Every task waits for one before it is accepted.",
		story: story{"9m", "35m", "70m", at(nil, "job"), []told{
			{`llorch_ledger_commit_ms_bucket{le="250"}`, "0+1x10 10x30 10+1x50"},
			{`llorch_ledger_commit_ms_bucket{le="1000"}`, "0+1x10 10+1x30 40+1x50"},
			{`llorch_ledger_commit_ms_bucket{le="+Inf"}`, "0+1x10 10+1x30 40+1x50"},
		}},
	},
	{
		name: "LlamaOrchBudgetEnds", severity: "warning", expr: `llorch_budget_used_ratio > 0.9`, anchor: "a-budget-is-nearly-spent",
		summary: "The budget of {{client}} is nearly spent: {{resource}}", description: "More than nine tenths are spent, or reserved by tasks that run. After that its tasks are refused with BUDGET_EXCEEDED until the budget renews.",
		story: story{"4m", "9m", "15m", at(map[string]string{"client": "localhost", "resource": "tokens"}), []told{{`llorch_budget_used_ratio{client="localhost",resource="tokens"}`, "0.5x4 0.95x5 0x10"}}},
	},
	{
		name: "LlamaOrchConfigRefused", severity: "warning", wait: "5m", expr: `llorch_config_last_reload_successful == 0`, anchor: "the-configuration-was-refused",
		summary: "llama-orch at {{instance}} has refused its configuration file", description: "The file was read again and has an error. What was in force before still is, until the next restart, which would fail.",
		story: story{"4m", "14m", "25m", at(nil), []told{{"llorch_config_last_reload_successful", "1x4 0x10 1x20"}}},
	},
	{
		name: "LlamaOrchCertificateEnds", severity: "warning", anchor: "the-certificate-ends",
		expr:    `(llorch_tls_not_after_seconds > 0) - time() < 14 * 86400`,
		summary: "The certificate of llama-orch at {{instance}} ends soon", description: "It expires within 14 days, or has expired. Then every client refuses it.",
		story: story{"4m", "8m", "20m", at(nil), []told{{"llorch_tls_not_after_seconds", "1300000x5 1200000x5 9000000x20"}}},
	},
	{
		name: "LlamaOrchHostGone", severity: "warning", wait: "5m", anchor: "a-host-is-gone",
		expr:    `llorch_hosts{state="gone"} > 0`,
		summary: "A host that shares the record of {{instance}} is gone", description: "It was not heard of for longer than its lease. Another host has its pools, if one has them too; tasks of the others wait for it, for a day.",
		story: story{"4m", "12m", "25m", at(map[string]string{"state": "gone"}), []told{{`llorch_hosts{state="gone"}`, "0x4 1x10 0x20"}}},
	},
	{
		name: "LlamaOrchArtifactsDamaged", severity: "warning", expr: `increase(llorch_artifacts_damaged_total[1h]) > 0`, anchor: "artifacts-are-damaged",
		summary: "Artifacts at {{instance}} are not what their ids say", description: "Files in the data folder have changed behind llama-orch's back, or the disk fails. Damaged ones are not served.",
		story: story{"4m", "10m", "90m", at(nil), []told{{"llorch_artifacts_damaged_total", "0x5 1x100"}}},
	},
}

var (
	pool = map[string]string{"pool_id": "chat"}
	card = map[string]string{"device": "0"}
)

// at are the labels of a fired alert: those of its series, and where it was scraped. without are those that its expression drops.
func at(labels map[string]string, without ...string) map[string]string {
	all := map[string]string{"instance": "box:8080", "job": "llama-orch"}
	for k, v := range labels {
		all[k] = v
	}
	for _, name := range without {
		delete(all, name)
	}
	return all
}
