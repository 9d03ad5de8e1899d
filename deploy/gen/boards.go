// SPDX-License-Identifier: GPL-3.0-or-later

package main

const (
	ofPool = `pool_id=~"$pool"`
	rate   = "[$__rate_interval]"
)

// boards are the dashboards, in the words of those who look at them.
var boards = []board{overview, queues, cards, streams, sessions}

var overview = board{"overview", "overview", "Is the box well, and what is it doing?", []row{
	{"Now", []panel{
		figure("Up", "1 while Prometheus reaches the daemon.", "none", `min(up{job="llama-orch"})`),
		figure("Pools ready", "Pools with at least one replica that can take a task now. A pool that loads on demand is not ready until somebody asks for it.", "none",
			`count(max by (instance, pool_id) (llorch_replica_state{state="ready"}) == 1)`),
		figure("Tasks in line", "Tasks that wait for a replica.", "none", `sum(queue_depth)`),
		figure("Open streams", "Clients that read an answer now.", "none", `sum(llorch_streams_open)`),
		figure("Queues that stand still", "Anything but 0 needs somebody: see the alarm's runbook.", "none", `sum(llorch_queue_stuck)`),
		figure("Free disk", "Of the file system that holds the data folder.", "bytes", `min(llorch_data_folder_bytes{kind="free"})`),
	}},
	{"Work", []panel{
		line("Tasks that ended", "By how they ended.", "ops", query{`sum by (outcome) (rate(llorch_tasks_finished_total{` + ofPool + `}` + rate + `))`, "{{outcome}}"}),
		line("Tokens", "Prompt tokens of tasks that completed, and tokens that were streamed.", "short",
			query{`sum(rate(tokens_in_total{` + ofPool + `}` + rate + `))`, "in"}, query{`sum(rate(tokens_out_total{` + ofPool + `}` + rate + `))`, "out"}),
		line("Refused", "Tasks that were refused at admission, by error code.", "ops", query{`sum by (reason) (rate(tasks_rejected_total` + rate + `))`, "{{reason}}"}),
	}},
	{"What clients feel", []panel{
		line("First token", "From admission to the first token: half of the tasks, and 95 of 100.", "ms",
			query{quantile(0.5, "latency_first_token_ms", "priority", ofPool), "{{priority}}, half"}, query{quantile(0.95, "latency_first_token_ms", "priority", ofPool), "{{priority}}, 95 %"}),
		line("Replicas", "By state.", "none", query{`sum by (state) (llorch_replica_state{` + ofPool + `})`, "{{state}}"}),
		line("Answers", "By HTTP status.", "ops", query{`sum by (code) (rate(llorch_http_responses_total` + rate + `))`, "{{code}}"}),
	}},
	{"The daemon", []panel{
		line("Memory", "Of the daemon, without its workers.", "bytes", query{`process_resident_memory_bytes{job="llama-orch"}`, "{{instance}}"}),
		line("Processor", "Cores that the daemon keeps busy, without its workers.", "none", query{`rate(process_cpu_seconds_total{job="llama-orch"}` + rate + `)`, "{{instance}}"}),
		line("Ledger", "How long a commit takes, 99 of 100, and operations that could not be written.", "ms",
			query{`histogram_quantile(0.99, sum by (le) (rate(llorch_ledger_commit_ms_bucket` + rate + `)))`, "commit"}, query{`sum(increase(llorch_ledger_errors_total` + rate + `))`, "not written"}),
		line("Configuration", "1 if the file, when it was last read, came into force.", "none", query{`llorch_config_last_reload_successful`, "{{instance}}"}),
		line("Certificate", "For how long it is valid. 0 without TLS, too.", "s", query{`clamp_min(llorch_tls_not_after_seconds - time(), 0)`, "{{instance}}"}),
		line("Hosts", "Daemons that share the record, and queues that were taken from one that was gone.", "none", query{`llorch_hosts`, "{{instance}}, {{state}}"}, query{`increase(llorch_takeovers_total` + rate + `)`, "{{instance}}, taken"}),
	}},
}}

var queues = board{"queues", "queues and predictions", "Who waits for what, for how long, and was that predicted?", []row{
	{"Lines", []panel{
		line("Tasks in line", "By pool and priority.", "none", query{`sum by (pool_id, priority) (queue_depth{` + ofPool + `})`, "{{pool_id}}, {{priority}}"}),
		line("Wait", "From admission to the first dispatch, 95 of 100.", "ms", query{quantile(0.95, "llorch_queue_wait_ms", "pool_id, priority", ofPool), "{{pool_id}}, {{priority}}"}),
		line("Stands still", "1 while a queue's oldest task makes no progress.", "none", query{`llorch_queue_stuck{` + ofPool + `}`, "{{pool_id}}"}),
	}},
	{"Predictions", []panel{
		line("Error", "How far the predicted start was off, either way: half of the tasks, and 90 of 100.", "ms",
			query{quantile(0.5, "llorch_prediction_error_ms", "pool_id", ofPool), "{{pool_id}}, half"}, query{quantile(0.9, "llorch_prediction_error_ms", "pool_id", ofPool), "{{pool_id}}, 90 %"}),
		line("Within a second", "Share of the tasks that started within a second of their prediction.", "percentunit",
			query{`sum by (pool_id) (rate(llorch_prediction_error_ms_bucket{le="1000",` + ofPool + `}` + rate + `)) / sum by (pool_id) (rate(llorch_prediction_error_ms_count{` + ofPool + `}` + rate + `))`, "{{pool_id}}"}),
		line("Looks for a replica", "How they ended.", "ops", query{`sum by (outcome) (rate(placement_decisions_total` + rate + `))`, "{{outcome}}"}),
		line("Replicas to choose from", "When a task was placed, on average.", "none",
			query{`rate(placement_candidates_considered_sum` + rate + `) / rate(placement_candidates_considered_count` + rate + `)`, "{{instance}}"}),
	}},
	{"Too much", []panel{
		line("Accepted and started", "A task that is started again counts twice.", "ops",
			query{`sum(rate(tasks_enqueued_total{` + ofPool + `}` + rate + `))`, "accepted"}, query{`sum(rate(tasks_started_total{` + ofPool + `}` + rate + `))`, "started"}),
		line("Full queues", "Submits that found their queue full, by its policy.", "ops", query{`sum by (engine, policy) (rate(admission_backpressure_events_total` + rate + `))`, "{{engine}}, {{policy}}"}),
		line("Ended early", "Tasks that somebody ended, or that ran out of time.", "ops", query{`sum by (reason) (rate(tasks_canceled_total{` + ofPool + `}` + rate + `))`, "{{reason}}"}),
	}},
	{"Batches", []panel{
		line("Lines to do", "Lines of batches that have not ended: in the ledger, or as tasks.", "none", query{`llorch_batch_lines`, "{{state}}"}),
		line("Lines that ended", "By front and outcome.", "ops", query{`sum by (front, outcome) (rate(llorch_batch_lines_ended_total` + rate + `))`, "{{front}}, {{outcome}}"}),
		line("Made way", "Runs of lines that made way for interactive tasks.", "ops", query{`sum by (pool_id) (rate(llorch_batch_lines_interrupted_total{` + ofPool + `}` + rate + `))`, "{{pool_id}}"}),
	}},
}}

var cards = board{"cards", "cards and models", "What is loaded where, and what does it take?", []row{
	{"Cards", []panel{
		line("Memory in use", "As the driver shows it, of what there is.", "percentunit",
			query{`llorch_gpu_memory_bytes{kind="used"} / on (instance, device) llorch_gpu_memory_bytes{kind="total"}`, "card {{device}}"}),
		line("Memory by kind", "Free is what a worker could be granted. Foreign is what other programs and the driver hold.", "bytes",
			query{`llorch_gpu_memory_bytes{kind=~"free|promised|foreign"}`, "card {{device}}, {{kind}}"}),
		line("Memory by replica", "", "bytes", query{`sum by (replica_id, device) (vram_used_bytes{` + ofPool + `})`, "{{replica_id}}, card {{device}}"}),
	}},
	{"Heat", []panel{
		line("Busy", "Share of the time in which the card computed.", "percentunit", query{`max by (instance, device) (gpu_utilization)`, "card {{device}}"}),
		line("Temperature", "", "celsius", query{`llorch_gpu_temperature_celsius`, "card {{device}}"}),
		line("Power", "", "watt", query{`llorch_gpu_power_watts`, "card {{device}}"}),
		line("Healthy", "1 if the card can be given work.", "none", query{`llorch_gpu_healthy`, "card {{device}}"}),
	}},
	{"Models", []panel{
		line("Tokens by model", "Tokens that were streamed, by the model that its pool has now.", "short",
			query{`sum by (model_id) (rate(tokens_out_total{` + ofPool + `}` + rate + `) * on (instance, pool_id) group_left (model_id) llorch_pool_info)`, "{{model_id}}"}),
		line("State", "1 for the state that the model is in.", "none", query{`model_state == 1`, "{{model_id}}, {{state}}"}),
		line("Loads and unloads", "Of pools that load on demand.", "none", query{`sum by (pool_id, direction) (increase(llorch_swaps_total{` + ofPool + `}` + rate + `))`, "{{pool_id}}, {{direction}}"}),
		line("Waits for loads", "Time in which tasks waited for a model that was not in memory.", "ms", query{`sum by (pool_id) (increase(llorch_swap_lost_ms_total{` + ofPool + `}` + rate + `))`, "{{pool_id}}"}),
	}},
	{"Workers", []panel{
		line("Restarts", "By reason.", "none", query{`sum by (pool_id, reason) (increase(llorch_worker_restarts_total{` + ofPool + `}` + rate + `))`, "{{pool_id}}, {{reason}}"}),
		line("KV in use", "Share of the context that tokens fill.", "percentunit", query{`kv_cache_usage_ratio{` + ofPool + `}`, "{{replica_id}}"}),
		line("In the engine", "Requests that it computes, and that wait in it. Others may use it too.", "none",
			query{`llorch_engine_requests_running{` + ofPool + `}`, "{{replica_id}}, runs"}, query{`llorch_engine_requests_waiting{` + ofPool + `}`, "{{replica_id}}, waits"}),
		line("Prefix cache", "Tokens that the engine looked up in its prefix cache, and found.", "short",
			query{`rate(llorch_engine_prefix_cache_queries_total{` + ofPool + `}` + rate + `)`, "{{replica_id}}, looked up"}, query{`rate(llorch_engine_prefix_cache_hits_total{` + ofPool + `}` + rate + `)`, "{{replica_id}}, found"}),
	}},
	{"Prompts from KV", []panel{
		line("Tokens reused", "Tokens of prompts that were not computed again.", "short", query{`sum by (pool_id, determinism) (rate(llorch_prompt_tokens_reused_total{` + ofPool + `}` + rate + `))`, "{{pool_id}}, {{determinism}}"}),
		line("Time saved", "About how long the engines would have needed for them.", "ms", query{`sum by (pool_id) (increase(llorch_prefill_saved_ms_total{` + ofPool + `}` + rate + `))`, "{{pool_id}}"}),
	}},
}}

var streams = board{"streams", "streams and fronts", "What do clients ask for, and what do they get?", []row{
	{"Streams", []panel{
		line("Open", "", "none", query{`llorch_streams_open`, "{{instance}}"}),
		line("First token", "95 of 100, by pool.", "ms", query{quantile(0.95, "latency_first_token_ms", "pool_id", ofPool), "{{pool_id}}"}),
		line("The rest", "From the first token to the end, 95 of 100, by pool.", "ms", query{quantile(0.95, "latency_decode_ms", "pool_id", ofPool), "{{pool_id}}"}),
	}},
	{"Crashes", []panel{
		line("Tasks that lost their worker", "How that ended. A mismatch is a breach of determinism.", "none", query{`sum by (outcome) (increase(llorch_failovers_total{` + ofPool + `}` + rate + `))`, "{{outcome}}"}),
		line("Cut off", "Streams whose client was too slow to take the end of a canceled task.", "none", query{`sum(increase(llorch_stream_cutoffs_total` + rate + `))`, "streams"}),
	}},
	{"Requests", []panel{
		line("By operation", "", "ops", query{`sum by (route) (rate(llorch_http_responses_total` + rate + `))`, "{{route}}"}),
		line("Errors by operation", "Answers with a status from 400 on.", "ops", query{`sum by (route, code) (rate(llorch_http_responses_total{code=~"4..|5.."}` + rate + `))`, "{{route}}, {{code}}"}),
		line("Refused", "Tasks that were refused at admission, by error code.", "ops", query{`sum by (reason) (rate(tasks_rejected_total` + rate + `))`, "{{reason}}"}),
	}},
	{"Out of the house", []panel{
		line("Calls that leave the process", "By what the policy decided.", "ops", query{`sum by (action, decision) (rate(llorch_policy_decisions_total` + rate + `))`, "{{action}}, {{decision}}"}),
		line("Models checked", "Against their digest and signature.", "none", query{`sum by (result, reason) (increase(catalog_verifications_total` + rate + `))`, "{{result}}, {{reason}}"}),
	}},
}}

var sessions = board{"sessions", "sessions, budgets and storage", "Who uses the box, what does it take, and what is kept?", []row{
	{"Clients", []panel{
		line("Tasks", "By who submitted them.", "ops", query{`sum by (client) (rate(llorch_client_tasks_total` + rate + `))`, "{{client}}"}),
		line("Tokens", "By who submitted their task.", "short", query{`sum by (client, direction) (rate(llorch_client_tokens_total` + rate + `))`, "{{client}}, {{direction}}"}),
		line("Budget used", "Share of an API token's budget that is spent in this window, or reserved.", "percentunit", query{`llorch_budget_used_ratio`, "{{client}}, {{resource}}"}),
	}},
	{"Sessions", []panel{
		line("Sessions", "That are kept.", "none", query{`llorch_sessions`, "{{instance}}"}),
		line("Turns", "Warm, if the engine took part of the prompt from the session's KV.", "ops", query{`sum by (kv) (rate(llorch_session_turns_total` + rate + `))`, "{{kv}}"}),
		line("Energy", "That the cards took, by their own counters.", "joule", query{`sum by (device) (increase(llorch_gpu_energy_joules_total` + rate + `))`, "card {{device}}"}),
		line("Energy of tasks", "What the cards took for the tasks of each pool, and while no slot was busy.", "joule",
			query{`sum by (pool_id) (increase(llorch_task_energy_joules_total{` + ofPool + `}` + rate + `))`, "{{pool_id}}"},
			query{`sum by (device) (increase(llorch_gpu_idle_energy_joules_total` + rate + `))`, "card {{device}}, idle"}),
	}},
	{"Storage", []panel{
		line("Disk", "Of the file system of the data folder.", "bytes", query{`llorch_data_folder_bytes`, "{{kind}}"}),
		line("Kept", "What the ledger and the artifacts take.", "bytes", query{`llorch_ledger_bytes`, "ledger"}, query{`llorch_artifact_bytes`, "artifacts"}),
		line("Artifacts", "That were stored, and removed.", "none",
			query{`sum by (kind) (increase(llorch_artifacts_stored_total` + rate + `))`, "stored, {{kind}}"}, query{`sum by (reason) (increase(llorch_artifacts_removed_total` + rate + `))`, "removed, {{reason}}"}),
	}},
	{"Records", []panel{
		line("Ledger", "Operations, and the commits that they shared.", "ops", query{`sum by (op) (rate(llorch_ledger_ops_total` + rate + `))`, "{{op}}"}, query{`sum(rate(llorch_ledger_commits_total` + rate + `))`, "commits"}),
		line("Damage", "Artifacts that are not what their id says, and log lines that were dropped.", "none",
			query{`sum(increase(llorch_artifacts_damaged_total` + rate + `))`, "artifacts"}, query{`sum by (kind) (increase(llorch_log_lines_dropped_total` + rate + `))`, "log lines, {{kind}}"}),
	}},
}}
