// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// fakeCatalog answers what a test tells it to, and notes what it was asked.
type fakeCatalog struct {
	err     error
	asked   []any
	model   CatalogModel
	models  []CatalogModel
	found   VerificationView
	engines []EngineView
}

func (f *fakeCatalog) AddModel(_ context.Context, a ModelAddition) (CatalogModel, error) {
	f.asked = []any{a}
	return f.model, f.err
}

func (f *fakeCatalog) Models(state string) []CatalogModel {
	f.asked = []any{state}
	return f.models
}

func (f *fakeCatalog) Model(id string) (CatalogModel, error) {
	f.asked = []any{id}
	return f.model, f.err
}

func (f *fakeCatalog) DeleteModel(_ context.Context, id string) error {
	f.asked = []any{id}
	return f.err
}

func (f *fakeCatalog) VerifyModel(_ context.Context, id string) (VerificationView, error) {
	f.asked = []any{id}
	return f.found, f.err
}

func (f *fakeCatalog) SetModelState(_ context.Context, id, state string, deadline time.Duration) (CatalogModel, error) {
	f.asked = []any{id, state, deadline}
	return f.model, f.err
}

func (f *fakeCatalog) Engines() []EngineView { return f.engines }

func withCatalog(t testing.TB) (*fixture, *fakeCatalog) {
	c := &fakeCatalog{}
	return setup(t, func(o *Options) { o.Catalog = c }), c
}

var catalogDay = time.Date(2026, 11, 22, 20, 15, 0, 0, time.UTC)

func haikuModel() CatalogModel {
	return CatalogModel{
		ID: "haiku", Ref: "file:/srv/haiku.gguf", Digest: "sha256:" + strings.Repeat("1", 64), Verified: true, State: "Active", Size: 2294240,
		Signature: "missing", Warnings: []string{"it has no signature"}, SBOM: "https://host/sbom",
		Metadata: &ModelMetadata{
			Format: "gguf", Architecture: "llama", Name: "haiku", Parameters: 1107456, Quantisation: "F16", CtxMax: 256, Features: []string{"chat_template"},
		}, CreatedAt: catalogDay, VerifiedAt: catalogDay,
	}
}

// ORCH-3060, ORCH-3037
func TestTheCatalogsModels(t *testing.T) {
	f, kept := withCatalog(t)
	c, ctx := f.client(t), context.Background()
	kept.model = haikuModel()
	want := gen.Model{
		ID: "haiku", Ref: "file:/srv/haiku.gguf", Digest: kept.model.Digest, Verified: true, State: gen.ModelStateActive, SizeBytes: 2294240,
		Signature: gen.SignatureStateMissing, Warnings: []string{"it has no signature"}, Sbom: gen.NewOptString("https://host/sbom"),
		Metadata: gen.NewOptModelMetadata(gen.ModelMetadata{
			Format: gen.ModelMetadataFormatGguf, Architecture: "llama", Name: gen.NewOptString("haiku"), Parameters: 1107456, Quantisation: "F16", CtxMax: 256,
			Features: []gen.ModelMetadataFeaturesItem{gen.ModelMetadataFeaturesItemChatTemplate},
		}), CreatedAt: catalogDay, VerifiedAt: gen.NewOptDateTime(catalogDay),
	}
	added, err := c.CreateModel(ctx, &gen.ModelRequest{Ref: "file:haiku.gguf"})
	require.NoError(t, err)
	require.Equal(t, "/v1/catalog/models/haiku", added.Location)
	require.Equal(t, want, added.Response)
	require.Equal(t, []any{ModelAddition{Ref: "file:haiku.gguf", Wait: time.Second}}, kept.asked)
	_, err = c.CreateModel(ctx, &gen.ModelRequest{
		ID: gen.NewOptModelID("a"), Ref: "hf:o/r", Digest: gen.NewOptString(kept.model.Digest), Signature: gen.NewOptString("c2ln"),
		Sbom: gen.NewOptString("s"), WaitMs: gen.NewOptInt64(0),
	})
	require.NoError(t, err)
	require.Equal(t, []any{ModelAddition{ID: "a", Ref: "hf:o/r", Digest: kept.model.Digest, Signature: "c2ln", SBOM: "s"}}, kept.asked)
	require.Equal(t, http.StatusCreated, f.do("POST", "/v1/catalog/models", `{"ref":"hf:o/r"}`).StatusCode)

	shown, err := c.GetModel(ctx, gen.GetModelParams{ID: "haiku"})
	require.NoError(t, err)
	require.Equal(t, want, shown.Response)

	fetching := CatalogModel{ID: "b", Ref: "hf:o/b", State: "Fetching", Signature: "unchecked", Progress: &FetchProgress{Done: 4, Total: 10}, CreatedAt: catalogDay}
	failed := CatalogModel{ID: "c", Ref: "hf:o/c", State: "Failed", Signature: "missing", Problem: task.Errorf(task.UntrustedArtifact, "other bytes"), CreatedAt: catalogDay}
	kept.models = []CatalogModel{kept.model, fetching, failed}
	list, err := c.ListModels(ctx, gen.ListModelsParams{State: gen.NewOptModelState(gen.ModelStateFetching)})
	require.NoError(t, err)
	require.Equal(t, []any{"Fetching"}, kept.asked)
	require.Equal(t, want, list.Response.Models[0])
	require.Equal(t, gen.FetchProgress{DoneBytes: 4, TotalBytes: 10}, list.Response.Models[1].Progress.Value)
	require.Equal(t, gen.ModelProblem{Code: gen.ErrorCodeUNTRUSTEDARTIFACT, Message: "other bytes"}, list.Response.Models[2].Problem.Value)

	kept.model.State, kept.model.DrainBy = "Retired", catalogDay.Add(time.Second)
	retired, err := c.SetModelState(ctx, &gen.ModelStateRequest{State: gen.ModelStateRequestStateRetired}, gen.SetModelStateParams{ID: "haiku"})
	require.NoError(t, err)
	require.Equal(t, []any{"haiku", "Retired", 30 * time.Second}, kept.asked)
	require.Equal(t, catalogDay.Add(time.Second), retired.Response.DrainBy.Value)

	kept.found = VerificationView{ModelID: "haiku", Digest: "sha256:2", Signature: "invalid", Warnings: []string{"other bytes"}, VerifiedAt: catalogDay}
	found, err := c.VerifyModel(ctx, gen.VerifyModelParams{ID: "haiku"})
	require.NoError(t, err)
	require.Equal(t, gen.Verification{
		ModelID: "haiku", Digest: "sha256:2", Signature: gen.SignatureStateInvalid, Warnings: []string{"other bytes"}, VerifiedAt: catalogDay,
	}, found.Response)

	_, err = c.DeleteModel(ctx, gen.DeleteModelParams{ID: "haiku"})
	require.NoError(t, err)
	require.Equal(t, []any{"haiku"}, kept.asked)
	require.Equal(t, http.StatusNoContent, f.do("DELETE", "/v1/catalog/models/haiku", "").StatusCode)
}

// What files and mirrors say is cut to what the contract allows.
//
// ORCH-3060
func TestACatalogThatSaysTooMuch(t *testing.T) {
	f, kept := withCatalog(t)
	long := strings.Repeat("é", 5000)
	kept.model = haikuModel()
	kept.model.Ref, kept.model.Warnings, kept.model.SBOM, kept.model.Size = long, make([]string, 100), long, -1
	kept.model.Warnings[0], kept.model.Problem = long, task.Errorf(task.Internal, "%s", long)
	kept.model.Metadata = &ModelMetadata{Format: "gguf", Architecture: long, Name: long, Quantisation: long, CtxMax: -1, Parameters: -1}
	kept.engines = []EngineView{{Engine: long, Version: long, Mode: "source", BuildRef: long, Digest: long, Flags: make([]string, 999), Path: long}}
	c := f.client(t)
	_, err := c.GetModel(context.Background(), gen.GetModelParams{ID: "haiku"})
	require.NoError(t, err)
	_, err = c.ListEngines(context.Background())
	require.NoError(t, err)
}

// OC-CAT-56
func TestTheEngineCatalog(t *testing.T) {
	f, kept := withCatalog(t)
	c := f.client(t)
	none, err := c.ListEngines(context.Background())
	require.NoError(t, err)
	require.Empty(t, none.Response.Engines)
	kept.engines = []EngineView{{
		Engine: "llamacpp", Version: "v0.5.0", Mode: "builtin", BuildRef: "pkg@3", Digest: "sha256:7b1e", Flags: []string{"-DX=1"}, Path: "/cache/x", PreparedAt: catalogDay,
	}}
	list, err := c.ListEngines(context.Background())
	require.NoError(t, err)
	require.Equal(t, []gen.PreparedEngine{{
		Engine: "llamacpp", Version: "v0.5.0", Mode: gen.PreparedEngineModeBuiltin, BuildRef: "pkg@3", Digest: "sha256:7b1e", Flags: []string{"-DX=1"},
		Path: "/cache/x", PreparedAt: catalogDay,
	}}, list.Response.Engines)
}

// ORCH-3060, ORCH-3037, OC-CTRL-2030
func TestTheCatalogRefuses(t *testing.T) {
	f, kept := withCatalog(t)
	for _, c := range []struct{ method, target, body string }{
		{"POST", "/v1/catalog/models", `{}`},
		{"POST", "/v1/catalog/models", `{"ref":""}`},
		{"POST", "/v1/catalog/models", `{"ref":"hf:o/r","id":"../x"}`},
		{"POST", "/v1/catalog/models", `{"ref":"hf:o/r","digest":"sha256:1"}`},
		{"POST", "/v1/catalog/models", `{"ref":"hf:o/r","wait_ms":60001}`},
		{"POST", "/v1/catalog/models", `{"ref":"hf:o/r","path":"/etc/passwd"}`},
		{"POST", "/v1/catalog/models/x/state", `{"state":"Fetching"}`},
		{"POST", "/v1/catalog/models/x/state", `{"state":"Retired","deadline_ms":-1}`},
		{"GET", "/v1/catalog/models?state=retired", ``},
		{"GET", "/v1/catalog/models/..%2Fx", ``},
		{"DELETE", "/v1/catalog/models/.x", ``},
		{"POST", "/v1/catalog/models/a%00/verify", ``},
	} {
		kept.asked = nil
		e := envelope(t, f.do(c.method, c.target, c.body))
		require.Contains(t, []gen.ErrorCode{gen.ErrorCodeINVALIDPARAMS, gen.ErrorCodeNOTFOUND}, e.Code, "%s %s", c.target, c.body)
		require.Nil(t, kept.asked)
	}
	for _, code := range []task.Code{task.NotFound, task.Conflict, task.UntrustedArtifact, task.PolicyDenied, task.RateLimited} {
		kept.err = task.Errorf(code, "what to do")
		for _, c := range []struct{ method, target, body string }{
			{"POST", "/v1/catalog/models", `{"ref":"hf:o/r"}`},
			{"GET", "/v1/catalog/models/x", ``},
			{"DELETE", "/v1/catalog/models/x", ``},
			{"POST", "/v1/catalog/models/x/verify", ``},
			{"POST", "/v1/catalog/models/x/state", `{"state":"Active"}`},
		} {
			require.Equal(t, gen.ErrorCode(code), envelope(t, f.do(c.method, c.target, c.body)).Code)
		}
	}
}

// Reading a model takes longer than the time that the answer to a request has otherwise.
//
// ORCH-3060
func TestAVerificationsAnswerHasTime(t *testing.T) {
	f, kept := withCatalog(t)
	kept.found = VerificationView{ModelID: "x", Signature: "missing", VerifiedAt: catalogDay}
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequest(http.MethodPost, "/v1/catalog/models/x/verify", nil)
	r.RemoteAddr, r.Host = "127.0.0.1:5000", "127.0.0.1:8080"
	f.handler.ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code)
	require.Len(t, w.set, 2)
}

// The target is 50 ms, with the catalog's own part (service/supply/catalog).
//
// ORCH-3060
func BenchmarkListModels10000(b *testing.B) {
	f, kept := withCatalog(b)
	for i := range maxModels {
		m := haikuModel()
		m.ID = fmt.Sprintf("haiku-%05d", i)
		kept.models = append(kept.models, m)
	}
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodGet, "/v1/catalog/models", nil)
		r.RemoteAddr, r.Host = "127.0.0.1:5000", "127.0.0.1:8080"
		w := &nowhere{header: http.Header{}}
		f.handler.ServeHTTP(w, r)
		require.Equal(b, http.StatusOK, w.status)
		b.SetBytes(int64(w.bytes))
	}
}

// nowhere is an answer that nobody reads.
type nowhere struct {
	header        http.Header
	status, bytes int
}

func (w *nowhere) Header() http.Header    { return w.header }
func (w *nowhere) WriteHeader(status int) { w.status = status }
func (w *nowhere) Write(b []byte) (int, error) {
	w.bytes += len(b)
	return len(b), nil
}
