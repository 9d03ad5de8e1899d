// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/sdk"
)

// maxProof bounds what is read of a proof bundle's file.
const maxProof = 64 << 20

type proofCmd struct {
	Task string `arg:"" help:"The task's id, or a file with a proof bundle."`
}

// Run shows a proof bundle: for people, or with --json as it was written.
func (c *proofCmd) Run(a *app) error {
	p, text, err := findProof(a, c.Task)
	if err != nil {
		return err
	}
	if a.json {
		if _, err := a.out.Write(append(text, '\n')); err != nil {
			return fmt.Errorf("printing the proof bundle: %w", err)
		}
		return nil
	}
	return a.table(proofRows(p))
}

// findProof reads the file of this name, or gets the bundle of the task.
func findProof(a *app, name string) (*proof.Bundle, []byte, error) {
	if at, err := os.Stat(name); err != nil || !at.Mode().IsRegular() {
		return a.client.Proof(a.ctx, name)
	}
	text, err := readFile(nil, name, maxProof)
	if err != nil {
		return nil, nil, err
	}
	p, err := proof.Decode(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, []byte(strings.TrimRight(string(text), "\n")), nil
}

func proofRows(p *proof.Bundle) [][]string {
	at := func(t time.Time) string { return t.Local().Format(timeLayout + ".000") }
	words := "by digest"
	if p.Request.Kept {
		words = "kept"
	}
	rows := [][]string{
		{"task", p.TaskID},
		{"outcome", p.Outcome},
	}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	if p.Error != nil {
		add("error", p.Error.Message+" ("+p.Error.Code+")")
	}
	add("model", p.Request.ModelRef)
	add("workload", p.Request.Workload)
	add("words", words)
	add("prompt sha256", p.Request.PromptSHA256)
	add("messages sha256", p.Request.MessagesSHA256)
	add("inputs sha256", p.Request.InputsSHA256)
	add("chat sha256", p.Request.ChatSHA256)
	add("prompt", strconv.Quote(p.Request.Prompt))
	if p.Request.Prompt == "" {
		rows = rows[:len(rows)-1]
	}
	add("request digest", p.RequestDigest)
	add("seed", strconv.FormatUint(uint64(p.Seed), 10))
	add("determinism", p.Determinism)
	s := p.Sampling
	add("sampling", fmt.Sprintf("%s: temperature %g, top_p %g, top_k %d, min_p %g, repeat_penalty %g", s.Profile, s.Temperature, s.TopP, s.TopK, s.MinP, s.RepeatPenalty))
	add("pool", p.Placement.PoolID)
	add("replica", p.Placement.ReplicaID)
	add("engine", strings.TrimSpace(p.Placement.Engine+" "+p.Placement.EngineVersion))
	add("fingerprint", p.Placement.Fingerprint)
	for _, reason := range p.Placement.Reasons {
		add("because", reason)
	}
	if p.Receipt != nil {
		add("model digest", p.Receipt.ModelDigest)
	}
	add("accepted", at(p.Timing.AcceptedAt))
	add("waited", fmt.Sprintf("%s, %s predicted, %d ahead", duration(p.Timing.WaitedMS), duration(p.Timing.PredictedStartMS), p.Metrics.QueuePosition))
	add("ran", duration(p.Timing.RanMS))
	add("finished", at(p.Timing.FinishedAt))
	add("tokens in", strconv.Itoa(p.Metrics.TokensIn))
	add("tokens out", strconv.Itoa(p.Metrics.TokensOut))
	if p.Metrics.TokensPerSec > 0 {
		add("speed", fmt.Sprintf("%g tokens a second", p.Metrics.TokensPerSec))
	}
	add("transcript", fmt.Sprintf("%s, %d bytes", plural(p.Transcript.Tokens, "token"), p.Transcript.Bytes))
	add("transcript sha256", p.Transcript.SHA256)
	add("transcript form", cmp.Or(p.Transcript.Form, proof.FormText))
	rows = append(rows, saidRows(p.Transcript)...)
	if p.Result != nil {
		add("result sha256", p.Result.SHA256)
	}
	return rows
}

// saidRows show what a transcript keeps: the thinking, the answer, the calls.
func saidRows(t proof.Transcript) (rows [][]string) {
	var last proof.Piece
	for _, piece := range t.Pieces() {
		if len(rows) == 0 || piece.Kind != last.Kind || piece.N != last.N {
			name := map[string]string{proof.Answer: "text", proof.Reasoning: "thinking", proof.Call: "call " + piece.Name}[piece.Kind]
			rows = append(rows, []string{name, ""})
			last = piece
		}
		rows[len(rows)-1][1] += piece.Text
	}
	for _, row := range rows {
		row[1] = strconv.Quote(row[1])
	}
	return rows
}

type replayCmd struct {
	Proof      string `arg:"" help:"A file with a proof bundle, or the id of a task that has one."`
	PromptFile string `placeholder:"FILE" help:"The prompt, if neither the bundle nor the server has it any more. For messages or inputs: the request's JSON. - reads stdin."`
}

// replayed is what --json prints.
type replayed struct {
	TaskID       string `json:"task_id"`
	ReplayTaskID string `json:"replay_task_id"`
	proof.Verdict
	Fingerprint         string `json:"fingerprint"`
	RecordedFingerprint string `json:"recorded_fingerprint"`
}

// errDiffers ends a replay whose answer differs.
var errDiffers = errors.New("the answers differ")

// Run submits the recorded request again with the recorded seed, and compares (LO-301).
func (c *replayCmd) Run(a *app) error {
	p, _, err := findProof(a, c.Proof)
	if err != nil {
		return err
	}
	if p.Outcome != string(sdk.OutcomeCompleted) && p.Transcript.Tokens == 0 {
		return fmt.Errorf("task %s ended (%s) before its first token: there is nothing to compare", p.TaskID, p.Outcome)
	}
	if err := fill(a, p, c.PromptFile); err != nil {
		return err
	}
	wish, err := samePool(a, p)
	if err != nil {
		return err
	}
	id, got, err := rerun(a, p, wish)
	if err != nil {
		return err
	}
	return c.report(a, p, id, got)
}

// rerun runs a recorded request again, and returns the id of its task and its answer.
func rerun(a *app, p *proof.Bundle, wish *sdk.PlacementWish) (id string, got replay, err error) {
	request := sdk.Again(p)
	id = uuid.NewString()
	request.TaskID, request.Placement = id, wish
	if _, err := submit(a, request); err != nil {
		if e, ok := errors.AsType[*sdk.Error](err); ok && request.ReplayOf != "" && (e.Code == sdk.ErrorCodeNotFound || e.Code == sdk.ErrorCodeDeleted) {
			err = usagef("neither the bundle nor the server has what task %s was asked: give --prompt-file a file with %s. "+
				"If the server's configuration sets artifacts.keep_prompts, the bundles of later tasks keep it", p.TaskID, asked(p))
		}
		return id, got, err
	}
	got, err = again(a, id, p)
	if err != nil && a.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		cancelTask(a, id)
	}
	return id, got, err
}

// plain reports whether a prompt is all that was asked.
func plain(p *proof.Bundle) bool {
	return p.Request.MessagesSHA256 == "" && p.Request.InputsSHA256 == "" && p.Request.ChatSHA256 == ""
}

// asked says what a file with the request's words has to hold.
func asked(p *proof.Bundle) string {
	if plain(p) {
		return "the prompt"
	}
	return "the JSON that was sent, or what it asks, as the native API has it: prompt, messages, inputs, tools and so on"
}

// fill puts into the bundle what a file says that was asked. Without a file, the server's record of the task has to have it.
func fill(a *app, p *proof.Bundle, file string) error {
	r := p.Request
	if r.Kept {
		if file != "" {
			return usagef("the bundle keeps the request's words: leave --prompt-file out")
		}
		return nil
	}
	if file == "" {
		if there, _, err := a.client.Proof(a.ctx, p.TaskID); err == nil && !there.SameWords(p) {
			return usagef("the server's task %s is another one than the bundle's: give --prompt-file a file with %s", p.TaskID, asked(p))
		}
		return nil
	}
	text, err := readFile(a.stdin, file, maxPrompt)
	if err != nil {
		return err
	}
	var tries []proof.Words
	if plain(p) {
		// Editors end a file with a line feed that was not part of the prompt.
		tries = []proof.Words{{Prompt: string(text)}, {Prompt: strings.TrimSuffix(string(text), "\n")}}
	} else {
		var w proof.Words
		if err := json.Unmarshal(text, &w); err != nil {
			return usagef("%s is not %s: %w", file, asked(p), err)
		}
		tries = []proof.Words{w}
	}
	if slices.ContainsFunc(tries, p.Keep) {
		return nil
	}
	return usagef("%s does not hold %s of task %s: its SHA-256 differs", file, asked(p), p.TaskID)
}

// samePool wishes for the pool of the recorded run where the server has it: another may have another fingerprint.
func samePool(a *app, p *proof.Bundle) (*sdk.PlacementWish, error) {
	pools, err := a.client.Pools(a.ctx)
	if err != nil {
		return nil, err
	}
	for _, pool := range pools {
		if pool.ID == p.Placement.PoolID {
			return pinned(pool.ID), nil
		}
	}
	a.note("the server no longer has pool %s, where the task ran; any pool that serves %s may take it", p.Placement.PoolID, p.Request.ModelRef)
	return nil, nil
}

func pinned(pool string) *sdk.PlacementWish {
	return &sdk.PlacementWish{Mode: sdk.PlacementWishModePin, PoolID: pool}
}

// replay is the answer of the second run.
type replay struct {
	tokens []proof.Piece
	end    *sdk.End // nil if the run was stopped once there was enough to compare
}

// again reads a run's answer. Where the recorded run ended early it is stopped as soon as it is as long.
func again(a *app, id string, p *proof.Bundle) (got replay, err error) {
	for event, err := range a.client.Stream(a.ctx, id, "") {
		if err != nil {
			return got, err
		}
		if piece, ok := sdk.Piece(event); ok {
			got.tokens = append(got.tokens, piece)
			if p.Outcome != string(sdk.OutcomeCompleted) && len(got.tokens) == p.Transcript.Tokens {
				_, err := a.client.Cancel(a.ctx, id)
				return got, err
			}
		}
		switch e := event.(type) {
		case sdk.End:
			got.end = &e
		case sdk.ErrorEvent:
			return got, e.Err
		}
	}
	return got, nil
}

func (c *replayCmd) report(a *app, p *proof.Bundle, id string, got replay) error {
	verdict := p.Compare(got.tokens, nil)
	if !verdict.Match && verdict.Token < 0 {
		if tokens := recorded(a, p); tokens != nil {
			verdict = p.Compare(got.tokens, tokens)
		}
	}
	out := replayed{TaskID: p.TaskID, ReplayTaskID: id, RecordedFingerprint: p.Placement.Fingerprint}
	if got.end != nil {
		out.Fingerprint = got.end.Receipt.Fingerprint
		if p.Result != nil {
			verdict = p.CompareResult(got.end.Result)
		}
		if p.RequestDigest != "" && got.end.Receipt.RequestDigest != p.RequestDigest {
			a.note("the request's digest differs from the recorded one: the model's template, the sampler profile or the words have changed")
		}
	}
	out.Verdict = verdict
	switch {
	case out.Fingerprint != "" && out.Fingerprint != p.Placement.Fingerprint:
		a.note("it ran on fingerprint %s, not on %s: the same bytes were not promised", out.Fingerprint, p.Placement.Fingerprint)
	case p.Determinism == string(sdk.DeterminismBestEffort):
		a.note("the task was best_effort: the same bytes were not promised")
	}
	if a.json {
		if err := a.printJSON(out); err != nil {
			return err
		}
	} else if _, err := io.WriteString(a.out, oneLine(sentence(verdict, p, got))+"\n"+surroundings(verdict)); err != nil {
		return fmt.Errorf("printing the verdict: %w", err)
	}
	if !verdict.Match {
		return errDiffers
	}
	return nil
}

// recorded are the tokens of the recorded run, where the server still has them.
func recorded(a *app, p *proof.Bundle) (tokens []proof.Piece) {
	for event, err := range a.client.Stream(a.ctx, p.TaskID, "") {
		if err != nil {
			return nil
		}
		if piece, ok := sdk.Piece(event); ok {
			tokens = append(tokens, piece)
		}
	}
	return tokens
}

// surroundings show what stands around the token that differs (LO-941).
func surroundings(v proof.Verdict) string {
	if v.Token < 0 {
		return ""
	}
	end := func(text string) string {
		if text == "" {
			return "its end"
		}
		return strconv.Quote(text)
	}
	before := "nothing: it is the first token"
	if v.Before != "" {
		before = strconv.Quote(v.Before)
	}
	return fmt.Sprintf("  before    %s\n  recorded  %s\n  now       %s\n", before, end(v.Then), end(v.Now))
}

func sentence(v proof.Verdict, p *proof.Bundle, got replay) string {
	piece := func(s string) string {
		if s == "" {
			return "nothing"
		}
		return strconv.Quote(s)
	}
	switch {
	case v.Match && p.Result != nil:
		return "match: the same result"
	case v.Match && v.Partial:
		return fmt.Sprintf("match: %s, as far as the recorded run got", plural(p.Transcript.Tokens, "token"))
	case v.Match:
		return fmt.Sprintf("match: %s, transcript %s", plural(len(got.tokens), "token"), p.Transcript.SHA256)
	case p.Result != nil:
		return "the results differ"
	case v.Token < 0:
		return "the answers differ; neither the bundle nor the server keeps the recorded one, so nobody can say where"
	}
	return fmt.Sprintf("the answers differ at token %d: recorded %s, now %s", v.Token, piece(v.Want), piece(v.Got))
}
