// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/sdk"
)

// modelsCmd holds the commands for the catalog's models.
type modelsCmd struct {
	List     modelsListCmd     `cmd:"" default:"withargs" help:"List the models of the catalog, and those that pools serve."`
	Add      modelsAddCmd      `cmd:"" help:"Add a model by its ref, and have the server fetch it."`
	Show     modelsShowCmd     `cmd:"" help:"Show one model."`
	Verify   modelsVerifyCmd   `cmd:"" help:"Have the server check a model's bytes against its digest and signature."`
	Retire   modelsRetireCmd   `cmd:"" help:"Refuse new tasks for a model, and let its pools drain."`
	Activate modelsActivateCmd `cmd:"" help:"Serve a retired model again."`
	Delete   modelsDeleteCmd   `cmd:"" help:"Remove a model and its fetched files."`
}

type modelsListCmd struct {
	State string `enum:",Fetching,Failed,Active,Retired" default:"" placeholder:"STATE" help:"Only models in this state: Fetching, Failed, Active or Retired."`
}

// Run lists the models of the catalog, and then those that pools serve: a pool whose model is a file on the server needs no catalog.
func (c *modelsListCmd) Run(a *app) error {
	models, err := a.client.Models(a.ctx, sdk.ModelState(c.State))
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(&sdk.ModelList{Models: models})
	}
	served := [][]string{{"SERVED", "POOL", "STATE", "CTX", "REF"}}
	if c.State == "" {
		pools, err := a.client.Pools(a.ctx)
		if err != nil {
			return err
		}
		for _, p := range pools {
			served = append(served, []string{p.Model.ID, p.ID, poolState(p), positive(p.Ctx), p.Model.Ref})
		}
	}
	return a.tables(modelRows(models...), served)
}

type modelsAddCmd struct {
	Ref       string `arg:"" help:"hf:ORG/REPO/FILE, hf:ORG/REPO, https://HOST/PATH, s3:BUCKET/KEY, oci:REGISTRY/REPOSITORY:TAG, or file:PATH on the server, below a folder of its setting catalog.folders."`
	ID        string `name:"id" placeholder:"ID" help:"Its name in the catalog (default: made from the ref)."`
	Digest    string `placeholder:"DIGEST" help:"The digest that its bytes must have: sha256: and 64 hexadecimal digits."`
	Signature string `placeholder:"FILE" help:"Its minisign signature, a .minisig file."`
	SBOM      string `name:"sbom" placeholder:"REF" help:"Where its bill of materials is; it is kept and shown."`
	Wait      bool   `help:"Wait until the model is there, and show how far it is. Ctrl-C ends the waiting, not the fetch."`
}

// maxSignature is the contract's limit, before base64.
const maxSignature = 12 << 10

// Run adds a model, and waits for it if told to.
func (c *modelsAddCmd) Run(a *app) error {
	request, err := c.request()
	if err != nil {
		return err
	}
	m, err := a.client.AddModel(a.ctx, request)
	if err != nil {
		return err
	}
	if m.State == sdk.ModelStateFetching && c.Wait {
		if m, err = a.follow(m); err != nil {
			return err
		}
	}
	if m.State == sdk.ModelStateFetching {
		a.note("the server is fetching it: `llama-orch models show %s` says how far it is", m.ID)
	}
	return a.showModel(m)
}

func (c *modelsAddCmd) request() (*sdk.ModelRequest, error) {
	if c.Ref == "" {
		return nil, usagef("the model's ref is empty")
	}
	r := &sdk.ModelRequest{Ref: c.Ref, ID: c.ID, Digest: c.Digest, SBOM: c.SBOM}
	if c.Signature == "" {
		return r, nil
	}
	at, err := os.Stat(c.Signature)
	if err == nil && (!at.Mode().IsRegular() || at.Size() > maxSignature) {
		err = errors.New("it is not a .minisig file")
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(c.Signature)
	}
	if err != nil {
		return nil, usagef("reading the signature: %w", err)
	}
	r.Signature = base64.StdEncoding.EncodeToString(text)
	return r, nil
}

// follow waits for a model, with a progress bar if stderr is a terminal.
func (a *app) follow(m *sdk.Model) (*sdk.Model, error) {
	b := bar{began: time.Now()}
	shown := terminal(a.err) && !a.json && a.env("TERM") != "dumb"
	if !shown && !a.json {
		a.note("waiting for model %s", m.ID)
	}
	m, err := a.client.WaitModel(a.ctx, m.ID, func(m *sdk.Model) {
		if p := m.Progress; p != nil && shown {
			fmt.Fprint(a.err, "\r"+b.line(p.DoneBytes, p.TotalBytes, time.Now(), columns(a.err)-1)+"\x1b[K")
		}
	})
	if shown {
		fmt.Fprint(a.err, "\r\x1b[K")
	}
	if err != nil && a.ctx.Err() != nil {
		a.note("the server goes on fetching it")
	}
	return m, err
}

// bar shows the progress of a fetch on one line.
type bar struct {
	began time.Time
	first int64 // bytes that were there when the bar began
	seen  bool
}

// The bounds of the bar itself, in characters.
const (
	barWidth = 30
	barLeast = 10
)

// line makes the line, for a terminal of a width; up to 0: there is no bound. What does not fit is left out from its end, once the bar is as short
// as it may be. A line that wrapped would leave its beginning behind at each step.
func (b *bar) line(done, total int64, now time.Time, width int) string {
	if !b.seen {
		b.first, b.seen = done, true
	}
	parts := []string{bytesText(done)}
	if total > 0 {
		shown := bytesText(done) + " of " + bytesText(total)
		done = min(done, total)
		parts = []string{fmt.Sprintf("%3.0f %%", 100*float64(done)/float64(total)), shown}
	}
	if spent := now.Sub(b.began).Seconds(); spent >= 1 && done > b.first {
		rate := float64(done-b.first) / spent
		parts = append(parts, bytesText(int64(rate))+"/s")
		if total > done {
			parts = append(parts, duration(max(int64(float64(total-done)/rate*1000), 1000))+" left")
		}
	}
	if total <= 0 {
		return clip(strings.Join(parts, "  "), width)
	}
	for ; ; parts = parts[:len(parts)-1] {
		text := strings.Join(parts, "  ")
		room := width - len(text) - len("[] ")
		switch {
		case width <= 0, room >= barWidth:
			room = barWidth
		case room < barLeast && len(parts) > 1:
			continue
		case room < barLeast:
			return clip(text, width)
		}
		full := int(float64(room) * float64(done) / float64(total))
		return fmt.Sprintf("[%s%s] %s", strings.Repeat("=", full), strings.Repeat(" ", room-full), text)
	}
}

func bytesText(n int64) string {
	for _, unit := range []struct {
		shift uint
		name  string
	}{{40, "TiB"}, {30, "GiB"}, {20, "MiB"}, {10, "KiB"}} {
		if n >= 1<<unit.shift {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(int64(1)<<unit.shift), unit.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

type modelsShowCmd struct {
	ID string `arg:"" help:"The model's id."`
}

// Run shows one model.
func (c *modelsShowCmd) Run(a *app) error {
	m, err := a.client.Model(a.ctx, c.ID)
	if err != nil {
		return err
	}
	return a.showModel(m)
}

type modelsVerifyCmd struct {
	ID string `arg:"" help:"The model's id."`
}

// Run verifies a model. It fails if the model is not what it should be.
func (c *modelsVerifyCmd) Run(a *app) error {
	v, err := a.client.VerifyModel(a.ctx, c.ID)
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(v)
	} else {
		err = a.table([][]string{
			{"MODEL", "VERIFIED", "SIGNATURE", "DIGEST", "WARNINGS"},
			{v.ModelID, yesNo(v.Verified), string(v.Signature), v.Digest, strings.Join(v.Warnings, "; ")},
		})
	}
	if err == nil && !v.Verified {
		err = fmt.Errorf("model %s is not what it should be, and is not used: delete it and add it again", v.ModelID)
	}
	return err
}

type modelsRetireCmd struct {
	ID       string        `arg:"" help:"The model's id."`
	Deadline time.Duration `default:"30s" placeholder:"TIME" help:"How long running tasks may take to finish (default: 30s; at most 24h)."`
}

// Run retires a model.
func (c *modelsRetireCmd) Run(a *app) error {
	if c.Deadline < 0 || c.Deadline > maxDeadline {
		return usagef("--deadline must be from 0s to %s, not %s", maxDeadline, c.Deadline)
	}
	m, err := a.client.RetireModel(a.ctx, c.ID, c.Deadline)
	if err != nil {
		return err
	}
	return a.showModel(m)
}

type modelsActivateCmd struct {
	ID string `arg:"" help:"The model's id."`
}

// Run activates a model.
func (c *modelsActivateCmd) Run(a *app) error {
	m, err := a.client.ActivateModel(a.ctx, c.ID)
	if err != nil {
		return err
	}
	return a.showModel(m)
}

type modelsDeleteCmd struct {
	ID string `arg:"" help:"The model's id."`
}

// Run deletes a model.
func (c *modelsDeleteCmd) Run(a *app) error {
	if err := a.client.DeleteModel(a.ctx, c.ID); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]string{"deleted": c.ID})
	}
	_, err := fmt.Fprintf(a.out, "deleted %s\n", oneLine(c.ID))
	return err
}

type enginesCmd struct{}

// Run lists the prepared engines.
func (enginesCmd) Run(a *app) error {
	engines, err := a.client.Engines(a.ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(&sdk.EngineList{Engines: engines})
	}
	rows := [][]string{{"ENGINE", "VERSION", "MODE", "BUILD", "DIGEST", "FLAGS", "PATH", "PREPARED"}}
	for _, e := range engines {
		rows = append(rows, []string{
			e.Engine, e.Version, string(e.Mode), e.BuildRef, shortDigest(e.Digest), strings.Join(e.Flags, " "), e.Path, e.PreparedAt.Local().Format(time.DateTime),
		})
	}
	return a.table(rows)
}

func modelRows(models ...sdk.Model) [][]string {
	rows := [][]string{{"MODEL", "STATE", "VERIFIED", "SIGNATURE", "SIZE", "ARCHITECTURE", "PARAMETERS", "QUANTISATION", "CTX MAX", "REF", "PROBLEM"}}
	for _, m := range models {
		meta := cmp.Or(m.Metadata, &sdk.ModelMetadata{})
		rows = append(rows, []string{
			m.ID, modelState(m), yesNo(m.Verified), string(m.Signature), bytesText(m.SizeBytes), meta.Architecture, parameters(meta.Parameters),
			meta.Quantisation, positive(meta.CtxMax), m.Ref, problem(m),
		})
	}
	return rows
}

// problem says why a model is not there, or what the last check found.
func problem(m sdk.Model) string {
	if p := m.Problem; p != nil {
		return p.Message + " (" + string(p.Code) + ")"
	}
	return ""
}

func modelState(m sdk.Model) string {
	if p := m.Progress; p != nil && p.TotalBytes > 0 {
		return fmt.Sprintf("%s %.0f %%", m.State, 100*min(float64(p.DoneBytes)/float64(p.TotalBytes), 1))
	}
	return string(m.State)
}

// showModel prints everything known about a model, one fact a line.
func (a *app) showModel(m *sdk.Model) error {
	if a.json {
		return a.printJSON(m)
	}
	rows := [][]string{
		{"model", m.ID},
		{"ref", m.Ref},
		{"state", modelState(*m)},
		{"digest", m.Digest},
		{"verified", yesNo(m.Verified)},
		{"signature", string(m.Signature)},
		{"size", bytesText(m.SizeBytes)},
	}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	if meta := m.Metadata; meta != nil {
		add("name", meta.Name)
		add("architecture", meta.Architecture)
		add("parameters", parameters(meta.Parameters))
		add("quantisation", meta.Quantisation)
		add("ctx max", positive(meta.CtxMax))
		features := make([]string, len(meta.Features))
		for i, f := range meta.Features {
			features[i] = strings.ReplaceAll(string(f), "_", " ")
		}
		add("features", strings.Join(features, ", "))
	}
	add("sbom", m.SBOM)
	add("drains by", localTime(m.DrainBy))
	add("added", m.CreatedAt.Local().Format(time.DateTime))
	add("checked", localTime(m.VerifiedAt))
	for _, w := range m.Warnings {
		add("warning", w)
	}
	add("problem", problem(*m))
	return a.table(rows)
}

func localTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

// parameters prints a count in the way of models' names: 1.1M, 7.2B.
func parameters(n int64) string {
	switch {
	case n <= 0:
		return ""
	case n >= 1e9:
		return fmt.Sprintf("%.1fB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	}
	return strconv.FormatInt(n, 10)
}

func positive(n int) string {
	if n <= 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// shortDigest returns enough of a digest to tell it from others.
func shortDigest(digest string) string {
	if hash, ok := strings.CutPrefix(digest, "sha256:"); ok && len(hash) > 12 {
		return "sha256:" + hash[:12]
	}
	return digest
}
