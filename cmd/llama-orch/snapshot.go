// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/sdk"
)

// snapshotCmd holds what is done with snapshots.
type snapshotCmd struct {
	Take snapshotTakeCmd `cmd:"" default:"withargs" help:"Write down what the server serves: only what can be relied on, in a form that stays the same."`
	Diff snapshotDiffCmd `cmd:"" help:"Say what changed between two snapshots, or since one. The exit code is 1 if something did."`
}

// snapshotForm is the first field of a snapshot.
const snapshotForm = "llama-orch-snapshot-1"

// maxSnapshot bounds a snapshot, in bytes.
const maxSnapshot = 16 << 20

// snapshot is what can be relied on. What comes and goes by itself is not in it: what is in memory, who waits, what failed last.
type snapshot struct {
	Form          string          `json:"form"`
	APIVersion    string          `json:"api_version"`
	ServerVersion string          `json:"server_version"`
	Features      []string        `json:"features"`
	Limits        sdk.Limits      `json:"limits"`
	Operations    []snapOperation `json:"operations"`
	Pools         []snapPool      `json:"pools"`
	Models        []snapModel     `json:"models"`
}

type snapOperation struct {
	ID     string `json:"id"`
	Method string `json:"method"`
	Path   string `json:"path"`
	Status string `json:"status"`
}

type snapPool struct {
	ID             string            `json:"id"`
	Engine         string            `json:"engine"`
	Model          sdk.PoolModel     `json:"model"`
	Workload       sdk.Workload      `json:"workload"`
	Device         string            `json:"device"`
	Ctx            int               `json:"ctx,omitempty"` // missing where it is chosen by the load, and nothing was loaded yet
	Slots          int               `json:"slots"`
	Replicas       int               `json:"replicas"`
	Lifecycle      sdk.Lifecycle     `json:"lifecycle"`
	SamplerProfile string            `json:"sampler_profile"`
	Features       []sdk.ChatFeature `json:"features,omitempty"`
	Routes         []string          `json:"routes,omitempty"`
	Capacity       int               `json:"queue_capacity"`
}

type snapModel struct {
	ID        string             `json:"id"`
	Ref       string             `json:"ref"`
	Digest    string             `json:"digest"`
	Signature sdk.SignatureState `json:"signature"`
	Retired   bool               `json:"retired,omitempty"`
	Metadata  *sdk.ModelMetadata `json:"metadata,omitempty"`
}

// takeSnapshot asks the server.
func takeSnapshot(a *app) ([]byte, error) {
	c, err := a.client.Capabilities(a.ctx)
	if err != nil {
		return nil, err
	}
	pools, err := a.client.Pools(a.ctx)
	if err != nil {
		return nil, err
	}
	models, err := a.client.Models(a.ctx, "")
	if err != nil {
		return nil, err
	}
	s := snapshot{
		Form: snapshotForm, APIVersion: c.APIVersion, ServerVersion: c.ServerVersion, Features: slices.Sorted(slices.Values(c.Features)), Limits: c.Limits,
		Operations: []snapOperation{}, Pools: []snapPool{}, Models: []snapModel{},
	}
	for _, o := range c.Operations {
		s.Operations = append(s.Operations, snapOperation{o.ID, o.Method, o.Path, string(o.Status)})
	}
	for _, p := range pools {
		s.Pools = append(s.Pools, snapPool{
			p.ID, p.Engine, p.Model, p.Workload, p.Device, p.Ctx, p.Slots, p.Replicas, p.Lifecycle, p.SamplerProfile,
			slices.Sorted(slices.Values(p.Features)), p.Routes, p.Queue.Capacity,
		})
	}
	for _, m := range models {
		if m.Verified && (m.State == sdk.ModelStateActive || m.State == sdk.ModelStateRetired) {
			s.Models = append(s.Models, snapModel{m.ID, m.Ref, m.Digest, m.Signature, m.State == sdk.ModelStateRetired, m.Metadata})
		}
	}
	slices.SortFunc(s.Operations, func(a, b snapOperation) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Pools, func(a, b snapPool) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Models, func(a, b snapModel) int { return cmp.Compare(a.ID, b.ID) })
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(s); err != nil {
		return nil, fmt.Errorf("writing the snapshot down: %w", err)
	}
	return text.Bytes(), nil
}

type snapshotTakeCmd struct {
	Output string `short:"o" placeholder:"FILE" help:"The file to write; it is replaced (default: print it)."`
}

// Run takes a snapshot. It is JSON in any case.
func (c *snapshotTakeCmd) Run(a *app) error {
	text, err := takeSnapshot(a)
	if err != nil {
		return err
	}
	if c.Output == "" || c.Output == "-" {
		_, err := a.out.Write(text)
		return err
	}
	if err := write(c.Output, text); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]string{"file": c.Output})
	}
	a.note("written: %s", c.Output)
	return nil
}

type snapshotDiffCmd struct {
	Before string `arg:"" help:"A snapshot; - reads it from stdin."`
	After  string `arg:"" optional:"" help:"A later one (default: what the server serves now)."`
}

// errChanged makes the exit code tell.
var errChanged = errors.New("the snapshots differ")

// Run compares.
func (c *snapshotDiffCmd) Run(a *app) error {
	before, err := readSnapshot(a, c.Before)
	if err != nil {
		return err
	}
	var after any
	if c.After != "" {
		after, err = readSnapshot(a, c.After)
	} else {
		var text []byte
		if text, err = takeSnapshot(a); err == nil {
			after, err = parseSnapshot(text, "what the server says")
		}
	}
	if err != nil {
		return err
	}
	changes := differences("", before, after)
	if a.json {
		if changes == nil {
			changes = []change{}
		}
		if err := a.printJSON(map[string]any{"changes": changes}); err != nil {
			return err
		}
	} else if err := showChanges(a, changes); err != nil {
		return err
	}
	if len(changes) > 0 {
		return quiet{errChanged}
	}
	return nil
}

// quiet is an error that has been shown.
type quiet struct{ error }

func showChanges(a *app, changes []change) error {
	for _, c := range changes {
		line := c.Path + ": "
		switch {
		case c.Before == nil:
			line += "new: " + short(c.After)
		case c.After == nil:
			line += "gone: " + short(c.Before)
		default:
			line += short(c.Before) + " -> " + short(c.After)
		}
		if _, err := fmt.Fprintln(a.out, oneLine(line)); err != nil {
			return fmt.Errorf("printing what changed: %w", err)
		}
	}
	if len(changes) == 0 {
		a.note("nothing changed")
	}
	return nil
}

// short writes a value down. Of a thing with an id, the id is enough.
func short(v any) string {
	if object, ok := v.(map[string]any); ok && object["id"] != nil {
		return fmt.Sprint(object["id"])
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

func readSnapshot(a *app, name string) (any, error) {
	text, err := readFile(a.stdin, name, maxSnapshot)
	if err != nil {
		return nil, err
	}
	return parseSnapshot(text, name)
}

func parseSnapshot(text []byte, name string) (any, error) {
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil || all["form"] != snapshotForm {
		return nil, usagef("%s is no snapshot: `llama-orch snapshot -o FILE` writes one", name)
	}
	return all, nil
}

// change is one difference. A value that is nil was not there.
type change struct {
	Path   string `json:"path"`
	Before any    `json:"before,omitempty"`
	After  any    `json:"after,omitempty"`
}

// differences compares two values of JSON. Things go by their ids, and texts in a list by themselves, so that an order means nothing.
func differences(path string, before, after any) (all []change) {
	b, a := keyed(before), keyed(after)
	if b == nil || a == nil {
		if fmt.Sprint(before) != fmt.Sprint(after) {
			return []change{{path, before, after}}
		}
		return nil
	}
	keys := maps.Clone(b)
	maps.Copy(keys, a)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		at := strings.TrimPrefix(path+"."+key, ".")
		was, is := b[key], a[key]
		switch {
		case (key == "digest" || key == "ctx") && (was == nil || is == nil || was == "" || is == ""): // it is not known before a model was loaded
		case was == nil || is == nil:
			all = append(all, change{at, was, is})
		default:
			all = append(all, differences(at, was, is)...)
		}
	}
	return all
}

// keyed is an object, or a list as one; nil: it is neither.
func keyed(v any) map[string]any {
	switch v := v.(type) {
	case map[string]any:
		return v
	case []any:
		all := map[string]any{}
		for _, one := range v {
			if object, ok := one.(map[string]any); ok {
				all[fmt.Sprint(object["id"])] = object
			} else {
				all[fmt.Sprint(one)] = one
			}
		}
		return all
	}
	return nil
}
