// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/go-faster/yaml"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
	"github.com/llama-orch/llama-orch/internal/plainjson"
	"github.com/llama-orch/llama-orch/sdk"
)

// bugReport is the file of `doctor --report`. It is made of what is known to be harmless; what is not known is left out (LO-633).
type bugReport struct {
	MadeAt    time.Time  `json:"made_at"`
	Client    string     `json:"client_version"`
	Server    string     `json:"server_version,omitempty"`
	Platform  string     `json:"platform"`
	Kernel    string     `json:"kernel"`
	Findings  []finding  `json:"findings"`
	SelfTests []selfTest `json:"self_tests"`
	Pools     []poolFact `json:"pools"`
	GPUs      []sdk.GPU  `json:"gpus"`
	Config    any        `json:"config,omitempty"`
	Metrics   []string   `json:"metrics"`
}

// poolFact is what a report says of a pool.
type poolFact struct {
	ID, Engine, Version, Device string
	State                       sdk.PoolState
	Ctx, Slots                  int
	Replicas, Ready             int
	Queue                       sdk.Queue
	LastError                   string `json:",omitempty"`
}

// leftOut has no blank, so that what looks for a word finds all of it.
const leftOut = "(left-out)"

// writeReport writes the file. What cannot be asked for is missing, since a report is needed most when something does not work.
func (a *app) writeReport(file, config string, r *report) error {
	b := bugReport{
		MadeAt: time.Now().UTC().Truncate(time.Second), Client: version, Platform: runtime.GOOS + "/" + runtime.GOARCH, Kernel: kernel(),
		Findings: r.Findings, SelfTests: r.SelfTests, Pools: []poolFact{}, GPUs: []sdk.GPU{}, Metrics: []string{},
	}
	if c, err := a.client.Capabilities(a.ctx); err == nil {
		b.Server = c.ServerVersion
	}
	pools, _ := a.client.Pools(a.ctx) // nothing where the server does not answer
	for _, p := range pools {
		b.Pools = append(b.Pools, poolFact{
			ID: p.ID, Engine: p.Engine, Version: p.EngineVersion, Device: p.Device, State: p.State, Ctx: p.Ctx, Slots: p.Slots,
			Replicas: p.Replicas, Ready: p.ReplicasReady, Queue: p.Queue, LastError: p.LastError,
		})
	}
	if list, err := a.client.GPUs(a.ctx); err == nil {
		for _, g := range list.GPUs {
			g.UUID, g.Holders = "", nil
			b.GPUs = append(b.GPUs, g)
		}
	}
	if figures, err := a.client.Figures(a.ctx); err == nil {
		b.Metrics = plainFigures(string(figures))
	}
	var gone []string // what the findings may quote
	if config != "" {
		b.Config, gone = plainConfig(config)
	}
	if host := hostOf(a.addr); host != "" {
		gone = append(gone, host)
	}
	text, err := plainjson.Encode(b)
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	text, err = newScrubber(a.env, os.Environ(), gone).scrub(text)
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if err := atomicfile.Write(file, text, 0o600); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	a.note("%s is written. Prompts, answers, what engines wrote, tokens, keys, home folders and addresses are left out. Read it before you send it.", file)
	return nil
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// The names in a configuration whose values say nothing about anybody: figures, switches, durations and words of closed lists. A test holds them
// against the schema.
var plainNames = strings.Fields(`allow_system_packages batch_invariant body_bytes burst capacity connections cost ctx device engine feed fetches file_bytes format fronts
	full_policy hashes hold idle idle_ttl inputs joules keep keep_prompts keep_proofs keep_transcripts kv_bytes lease level lifecycle linger max_bytes max_sessions
	max_tokens max_turns max_wait max_wait_batch max_wait_behind_batch mdns memory micro_batch_ms min_p min_turn mode optional_on_loopback outbound pace page
	per_1k_in per_1k_out per_second piece prefill price_per_kwh prompt_bytes renew repeat_penalty replicas retain_age retain_bytes return_within reuse runtime sample seed
	serve slots span strip temperature tensor_split thinking threads time_ms tokens top_k top_p ttl upstream wall workload`)

// The other names of a configuration. A name that is in neither list may be a mistyped secret. A test holds them against the schema.
var otherNames = strings.Fields(`address aliases allow announce args artifacts auth batch bind_addr budgets ca catalog cert cmake_flags cors data_dir default deny determinism
	digest dsn_env effort endpoint endpoints energy folders from health hf hosts id image interactive key key_env keys ledger limits log model name night oci origins
	override package params path policy pools postgres price provision provisioning queue rates ref repository routes rpc s3 sampler_profile sampler_profiles schema
	session sessions sources stream swap timeouts tls to token token_env tracing trust url urls`)

// namedByUsers are the settings whose keys somebody has made up.
var namedByUsers = []string{"aliases", "sampler_profiles"}

// plainWord is a word of a closed list, a duration, or an amount of memory.
var plainWord = regexp.MustCompile(`^([a-z]+([_-][a-z]+)?|([0-9]+(\.[0-9]+)?(ms|s|m|h))+|[0-9]+(MiB|GiB))$`)

// plainConfig reads a configuration as far as it can be shown, and returns the texts that cannot.
func plainConfig(file string) (shown any, gone []string) {
	gone = []string{file}
	data, err := readAtMost(file, 256<<10)
	if err != nil {
		return "(it cannot be read)", gone
	}
	var c any
	if err := yaml.Unmarshal(data, &c); err != nil {
		return "(it is no YAML)", gone
	}
	p := redaction{gone: gone}
	shown = p.value("", c)
	return shown, slices.DeleteFunc(p.gone, func(word string) bool { return slices.Contains(p.ids, word) })
}

// redaction shows a configuration, and collects what it does not show.
type redaction struct {
	gone []string
	ids  []string // of pools and models, which the report has anyway
}

func (p *redaction) value(name string, value any) any {
	switch v := value.(type) {
	case map[string]any:
		out := map[string]any{}
		for i, key := range slices.Sorted(maps.Keys(v)) {
			shown := key
			if slices.Contains(namedByUsers, name) || !slices.Contains(plainNames, key) && !slices.Contains(otherNames, key) {
				p.gone, shown = append(p.gone, key), fmt.Sprintf("(name-%d)", i+1)
			}
			out[shown] = p.value(key, v[key])
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, below := range v {
			out[i] = p.value(name, below)
		}
		return out
	case nil:
		return nil
	}
	text, isText := value.(string)
	switch {
	case name == "id":
		p.ids = append(p.ids, fmt.Sprint(value))
		return value
	case slices.Contains(plainNames, name) && (!isText || plainWord.MatchString(text)):
		return value
	}
	p.gone = append(p.gone, fmt.Sprint(value))
	return leftOut
}

// The labels of metrics whose values stay.
var plainLabels = strings.Fields(`pool_id engine engine_version workload priority state phase outcome result reason code kind device le quantile
	dialect front operation method status version commit go_version admission_code cause class`)

var label = regexp.MustCompile(`([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"`)

// plainFigures returns the lines of metrics that say something, without comments and without zeros.
func plainFigures(text string) []string {
	lines := []string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || strings.HasSuffix(line, " 0") {
			continue
		}
		lines = append(lines, label.ReplaceAllStringFunc(line, func(pair string) string {
			name, _, _ := strings.Cut(pair, "=")
			if slices.Contains(plainLabels, name) {
				return pair
			}
			return name + `="` + leftOut + `"`
		}))
	}
	return lines
}
