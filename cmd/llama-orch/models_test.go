// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

// catalogDaemon has a catalog of one model.
type catalogDaemon struct {
	*daemon
	model    gen.Model
	after    []gen.Model // what further looks see
	verified bool
	added    *gen.ModelRequest
	state    *gen.ModelStateRequest
	gone     gen.ModelID
}

func newCatalogDaemon() *catalogDaemon {
	return &catalogDaemon{daemon: newDaemon(), verified: true, model: gen.Model{
		ID: "haiku", Ref: "file:/srv/haiku.gguf", Digest: "sha256:" + strings.Repeat("1", 64), Verified: true, State: gen.ModelStateActive, SizeBytes: 2294240,
		Signature: gen.SignatureStateMissing, Warnings: []string{"it has no signature\x1b[31m"}, Sbom: gen.NewOptString("https://host/sbom"),
		Metadata: gen.NewOptModelMetadata(gen.ModelMetadata{
			Format: gen.ModelMetadataFormatGguf, Architecture: "llama", Parameters: 1107456, Quantisation: "F16", CtxMax: 256,
			Features: []gen.ModelMetadataFeaturesItem{gen.ModelMetadataFeaturesItemChatTemplate},
		}), CreatedAt: time.Unix(1000, 0).UTC(), VerifiedAt: gen.NewOptDateTime(time.Unix(1000, 0).UTC()),
	}}
}

func (d *catalogDaemon) look() (gen.Model, error) {
	if d.refuse != nil {
		return gen.Model{}, d.refuse
	}
	m := d.model
	if len(d.after) > 0 {
		d.model, d.after = d.after[0], d.after[1:]
	}
	return m, nil
}

func (d *catalogDaemon) CreateModel(_ context.Context, r *gen.ModelRequest) (*gen.ModelHeaders, error) {
	d.added = r
	m, err := d.look()
	return &gen.ModelHeaders{Location: "/v1/catalog/models/haiku", Response: m}, err
}

func (d *catalogDaemon) GetModel(context.Context, gen.GetModelParams) (*gen.GetModelOKHeaders, error) {
	m, err := d.look()
	return &gen.GetModelOKHeaders{Response: m}, err
}

func (d *catalogDaemon) ListModels(context.Context, gen.ListModelsParams) (*gen.ModelListHeaders, error) {
	m, err := d.look()
	return &gen.ModelListHeaders{Response: gen.ModelList{Models: []gen.Model{m}}}, err
}

func (d *catalogDaemon) VerifyModel(_ context.Context, p gen.VerifyModelParams) (*gen.VerificationHeaders, error) {
	return &gen.VerificationHeaders{Response: gen.Verification{
		ModelID: p.ID, Digest: d.model.Digest, Verified: d.verified, Signature: gen.SignatureStateMissing, Warnings: []string{"a", "b"},
	}}, nil
}

func (d *catalogDaemon) SetModelState(_ context.Context, r *gen.ModelStateRequest, _ gen.SetModelStateParams) (*gen.GetModelOKHeaders, error) {
	d.state = r
	d.model.State = gen.ModelState(r.State)
	d.model.DrainBy = gen.NewOptDateTime(time.Unix(2000, 0).UTC())
	return &gen.GetModelOKHeaders{Response: d.model}, nil
}

func (d *catalogDaemon) DeleteModel(_ context.Context, p gen.DeleteModelParams) (*gen.Done, error) {
	if d.refuse != nil {
		return nil, d.refuse
	}
	d.gone = p.ID
	return &gen.Done{}, nil
}

func (d *catalogDaemon) ListEngines(context.Context) (*gen.EngineListHeaders, error) {
	return &gen.EngineListHeaders{Response: gen.EngineList{Engines: []gen.PreparedEngine{{
		Engine: "llamacpp", Version: "v0.5.0", Mode: gen.PreparedEngineModeSource, BuildRef: "b1", Digest: "sha256:" + strings.Repeat("2", 64),
		Flags: []string{"-DA=1", "-DB=2"}, Path: "/cache/x", PreparedAt: time.Unix(1000, 0).UTC(),
	}}}}, nil
}

func (d *catalogDaemon) serve(t *testing.T) string { return serve(t, d) }

// ORCH-3060
func TestModels(t *testing.T) {
	t.Parallel()
	d := newCatalogDaemon()
	addr := d.serve(t)
	for _, args := range [][]string{{"models"}, {"models", "list"}, {"models", "--state", "Active"}} {
		got := call(t.Context(), addr, "", args...)
		require.Zero(t, got.code, got.err)
		require.Regexp(t, `(?m)^haiku +Active +yes +missing +2.2 MiB +llama +1.1M +F16 +256 +file:/srv/haiku.gguf +-$`, got.out)
	}
	got := call(t.Context(), addr, "", "models", "show", "haiku")
	require.Zero(t, got.code, got.err)
	for _, line := range []string{
		`model +haiku`, `digest +sha256:1{64}`, `verified +yes`, `size +2.2 MiB`, `parameters +1.1M`, `quantisation +F16`, `ctx max +256`,
		`features +chat template`, `sbom +https://host/sbom`, `warning +it has no signature\[31m`,
	} {
		require.Regexp(t, "(?m)^"+line+"$", got.out)
	}
	got = call(t.Context(), addr, "", "--json", "models", "show", "haiku")
	require.Contains(t, got.out, `"ctx_max":256`)
	got = call(t.Context(), addr, "", "--json", "models")
	require.Contains(t, got.out, `{"models":[{"id":"haiku"`)
	got = call(t.Context(), addr, "", "models", "--state", "Active")
	require.NotContains(t, got.out, "SERVED")

	got = call(t.Context(), addr, "", "models", "retire", "haiku", "--deadline", "1500ms")
	require.Zero(t, got.code, got.err)
	require.EqualValues(t, 1500, d.state.DeadlineMs.Value)
	require.Regexp(t, `(?m)^state +Retired$`, got.out)
	require.Contains(t, got.out, "drains by")
	require.Zero(t, call(t.Context(), addr, "", "models", "activate", "haiku").code)
	require.Equal(t, gen.ModelStateRequestStateActive, d.state.State)
	got = call(t.Context(), addr, "", "models", "delete", "haiku")
	require.Equal(t, "deleted haiku\n", got.out)
	require.Equal(t, gen.ModelID("haiku"), d.gone)
}

// ORCH-3060, ORCH-3037
func TestVerifyingAModel(t *testing.T) {
	t.Parallel()
	d := newCatalogDaemon()
	addr := d.serve(t)
	got := call(t.Context(), addr, "", "models", "verify", "haiku")
	require.Zero(t, got.code, got.err)
	require.Regexp(t, `(?m)^haiku +yes +missing +sha256:1{64} +a; b$`, got.out)
	d.verified = false
	got = call(t.Context(), addr, "", "models", "verify", "haiku")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "error: model haiku is not what it should be")
	require.Contains(t, call(t.Context(), addr, "", "--json", "models", "verify", "haiku").out, `"verified":false`)
}

// ORCH-3060, ORCH-3037
func TestAddingAModel(t *testing.T) {
	t.Parallel()
	d := newCatalogDaemon()
	addr := d.serve(t)
	signature := filepath.Join(t.TempDir(), "haiku.gguf.minisig")
	require.NoError(t, os.WriteFile(signature, []byte("untrusted comment: x\n"), 0o600))
	got := call(t.Context(), addr, "", "models", "add", "hf:o/r/haiku.gguf", "--id", "haiku", "--digest", d.model.Digest, "--signature", signature, "--sbom", "s")
	require.Zero(t, got.code, got.err)
	require.Equal(t, &gen.ModelRequest{
		Ref: "hf:o/r/haiku.gguf", ID: gen.NewOptModelID("haiku"), Digest: gen.NewOptString(d.model.Digest), Sbom: gen.NewOptString("s"),
		Signature: gen.NewOptString(base64.StdEncoding.EncodeToString([]byte("untrusted comment: x\n"))), WaitMs: gen.NewOptInt64(1000),
	}, d.added)
	require.Empty(t, got.err)

	there := d.model
	fetching := there
	fetching.State, fetching.Progress = gen.ModelStateFetching, gen.NewOptFetchProgress(gen.FetchProgress{DoneBytes: 5, TotalBytes: 10})
	d.model = fetching
	got = call(t.Context(), addr, "", "models", "add", "hf:o/r/haiku.gguf")
	require.Zero(t, got.code, got.err)
	require.Contains(t, got.err, "llama-orch models show haiku")
	require.Regexp(t, `(?m)^state +Fetching 50 %$`, got.out)
	require.False(t, d.added.ID.Set)

	d.after = []gen.Model{there}
	got = call(t.Context(), addr, "", "models", "add", "hf:o/r/haiku.gguf", "--wait")
	require.Zero(t, got.code, got.err)
	require.Equal(t, "waiting for model haiku\n", got.err, "no bar where stderr is no terminal")
	require.Regexp(t, `(?m)^state +Active$`, got.out)

	failed := there
	failed.State, failed.Problem = gen.ModelStateFailed, gen.NewOptModelProblem(gen.ModelProblem{Code: gen.ErrorCodeUNTRUSTEDARTIFACT, Message: "other bytes"})
	d.model, d.after = fetching, []gen.Model{failed}
	got = call(t.Context(), addr, "", "models", "add", "hf:o/r/haiku.gguf", "--wait")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "error: other bytes (UNTRUSTED_ARTIFACT)")
}

// ORCH-3060
func TestBadUseOfModels(t *testing.T) {
	t.Parallel()
	d := newCatalogDaemon()
	addr := d.serve(t)
	large := filepath.Join(t.TempDir(), "large")
	require.NoError(t, os.WriteFile(large, make([]byte, maxSignature+1), 0o600))
	for _, args := range [][]string{
		{"models", "add"},
		{"models", "add", ""},
		{"models", "add", "hf:o/r", "--id", "../x"},
		{"models", "add", "hf:o/r", "--digest", "sha256:1"},
		{"models", "add", "hf:o/r", "--signature", "/does/not/exist"},
		{"models", "add", "hf:o/r", "--signature", large},
		{"models", "add", "hf:o/r", "--signature", t.TempDir()},
		{"models", "show"},
		{"models", "retire", "x", "--deadline=-1s"},
		{"models", "retire", "x", "--deadline", "25h"},
		{"models", "--state", "Asleep"},
		{"engines", "x"},
	} {
		got := call(t.Context(), addr, "", args...)
		require.Equal(t, exitUsage, got.code, "%v: %s", args, got.err)
	}
	require.Nil(t, d.added)
	d.refuse = refusal(409, gen.ErrorCodeCONFLICT)
	got := call(t.Context(), addr, "", "models", "delete", "haiku")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "error: not so (CONFLICT)")
}

// A person sees in the list what is served, and why a fetch failed.
//
// LO-847
func TestModelsThatAreServedAndThoseThatFailed(t *testing.T) {
	t.Parallel()
	d := newCatalogDaemon()
	d.model.State = gen.ModelStateFailed
	d.model.Problem = gen.NewOptModelProblem(gen.ModelProblem{Code: gen.ErrorCodePOLICYDENIED, Message: "the policy does not allow hub.example"})
	addr := d.serve(t)
	got := call(t.Context(), addr, "", "models")
	require.Zero(t, got.code, got.err)
	require.Regexp(t, `(?m)^haiku +Failed .*the policy does not allow hub.example \(POLICY_DENIED\)$`, got.out)
	require.Regexp(t, `(?m)^SERVED +POOL +STATE +CTX +REF\nhaiku +default +ready +256 +file:haiku\nembedder +vectors +ready `, got.out)
}

// OC-CAT-56
func TestEngines(t *testing.T) {
	t.Parallel()
	addr := newCatalogDaemon().serve(t)
	got := call(t.Context(), addr, "", "engines")
	require.Zero(t, got.code, got.err)
	require.Regexp(t, `(?m)^llamacpp +v0.5.0 +source +b1 +sha256:2{12} +-DA=1 -DB=2 +/cache/x`, got.out)
	require.Contains(t, call(t.Context(), addr, "", "--json", "engines").out, `"build_ref":"b1"`)
}

// ORCH-3060
func TestTheBarOfAFetch(t *testing.T) {
	t.Parallel()
	began := time.Unix(1000, 0)
	b := bar{began: began}
	require.Equal(t, "0 B", b.line(0, 0, began, 0))
	require.Equal(t, "[===============               ]  50 %  1.0 GiB of 2.0 GiB  102.4 MiB/s  10.0 s left", b.line(1<<30, 2<<30, began.Add(10*time.Second), 0))
	require.Equal(t, "[==============================] 100 %  3.0 KiB of 2.0 KiB  204 B/s", b.line(3<<10, 2<<10, began.Add(10*time.Second), 0), "a source that lied of its length")
	require.Equal(t, "5.0 MiB  1.0 MiB/s", b.line(5<<20, 0, began.Add(5*time.Second), 0))
	resumed := bar{began: began}
	resumed.line(1<<30, 2<<30, began, 0)
	require.Contains(t, resumed.line(1<<30+10<<20, 2<<30, began.Add(10*time.Second), 0), "  1.0 MiB/s", "what was there before is no speed")
}

// A line that wraps would fill the screen.
//
// LO-847
func TestTheBarFitsTheTerminal(t *testing.T) {
	t.Parallel()
	began := time.Unix(1000, 0)
	for width := 1; width < 200; width++ {
		b := bar{began: began}
		for _, done := range []int64{0, 1 << 20, 700 << 30, 1 << 40} {
			for _, total := range []int64{0, 1 << 40} {
				text := b.line(done, total, began.Add(37*time.Second), width)
				require.NotEmpty(t, text)
				require.LessOrEqual(t, utf8.RuneCountInString(text), width, text)
			}
		}
	}
	b := bar{began: began}
	b.line(0, 2<<30, began, 79)
	require.Equal(t, "[============             ]  50 %  1.0 GiB of 2.0 GiB  102.4 MiB/s  10.0 s left", b.line(1<<30, 2<<30, began.Add(10*time.Second), 79))
	require.Equal(t, "[======      ]  50 %  1.0 GiB of 2.0 GiB", b.line(1<<30, 2<<30, began.Add(10*time.Second), 40))
	require.Equal(t, " 50 %", b.line(1<<30, 2<<30, began.Add(10*time.Second), 8))
}
