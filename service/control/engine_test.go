// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/supply/policy"
	"github.com/llama-orch/llama-orch/service/supply/provision"
	"github.com/llama-orch/llama-orch/service/task"
)

// records keeps what was prepared.
type records struct {
	mu   sync.Mutex
	list []provision.Prepared
}

func (r *records) Prepared(e provision.Prepared) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, e)
	return nil
}

func (r *records) Checked(string, bool) {}

// An engine is downloaded by what downloads models, from a server that is no stand-in for it.
//
// ORCH-3200, ORCH-3037
func TestAnEngineIsDownloadedAsModelsAre(t *testing.T) {
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	h := &zip.FileHeader{Name: "bin/llama-server"}
	h.SetMode(0o755)
	w, err := z.CreateHeader(h)
	require.NoError(t, err)
	_, err = w.Write([]byte("#!/bin/sh\necho 'version: 9 (abc)'\n"))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(archive.Bytes()))
	}))
	defer server.Close()
	f, err := fetch.New(fetch.Settings{Client: server.Client(), Reserve: 1})
	require.NoError(t, err)
	defer f.Close()
	sum := sha256.Sum256(archive.Bytes())
	want := provision.Want{
		Pool: "p", Mode: provision.Binary, URL: server.URL + "/llama.zip", Digest: "sha256:" + hex.EncodeToString(sum[:]), Path: "bin/llama-server",
	}
	kept := &records{}
	e := &Engines{provision.Options{CacheDir: t.TempDir(), Fetch: Fetcher{Fetcher: f}, Decide: provision.ByHand{}, Record: kept}, zap.NewNop()}
	made, err := recipe{want, e}.Prepare(t.Context())
	require.NoError(t, err)
	require.FileExists(t, made.Path)
	require.Equal(t, "9 (abc)", kept.list[0].Version)

	want.Digest = "sha256:" + strings.Repeat("0", 64)
	_, err = recipe{want, e}.Prepare(t.Context())
	require.True(t, task.HasCode(err, task.UntrustedArtifact), "%v", err)
	require.Len(t, kept.list, 1)
}

// ORCH-3080, ORCH-3200
func TestThePolicyDecidesOnPackageManagersToo(t *testing.T) {
	p, err := policy.New(policy.Options{Log: zap.NewNop(), Registerer: prometheus.NewRegistry()})
	require.NoError(t, err)
	d := decider{p}
	for _, target := range []string{"package://npm", "package://apt-get", "package://pacman", "https://registry-1.docker.io", "https://host/llama.git"} {
		require.NoError(t, d.Decide(t.Context(), target), target)
	}
	require.NoError(t, p.Replace(policy.Rules{Deny: []string{"package://*"}}))
	require.True(t, task.HasCode(d.Decide(t.Context(), "package://npm"), task.PolicyDenied))
	require.NoError(t, d.Decide(t.Context(), "https://host/llama.git"))
	require.NoError(t, p.Replace(policy.Rules{Off: true}))
	require.True(t, task.HasCode(d.Decide(t.Context(), "package://apt-get"), task.PolicyDenied))
	require.Error(t, d.Decide(t.Context(), "no target"))
}

// ORCH-3200
func TestEveryModeBecomesASpec(t *testing.T) {
	digest := "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	c, err := config.Parse("/etc/c.yaml", []byte(`provision: {allow_system_packages: true}
pools:
- {id: a, model: {ref: file:m.gguf}, device: cpu}
- {id: b, model: {ref: label}, provisioning: {mode: external, urls: ["http://127.0.0.1:1"]}}
- {id: c, model: {ref: file:m.gguf}, provisioning: {mode: binary, path: /opt/server}}
- {id: d, model: {ref: file:m.gguf}, provisioning: {mode: binary, url: "https://h/x.zip", digest: "`+digest+`"}}
- {id: e, model: {ref: file:m.gguf}, provisioning: {mode: package, package: llama.cpp}}
- {id: f, model: {ref: file:m.gguf}, provisioning: {mode: container, image: "x:y", runtime: podman}, device: [0]}
- {id: g, model: {ref: file:m.gguf}, provisioning: {mode: source, ref: v1}}
`), func(name string) string { return map[string]string{"HOME": "/home/someone"}[name] })
	require.NoError(t, err)
	by, modes := &Engines{}, []pool.Mode{}
	for _, p := range c.Pools {
		s := poolSpec(c, p, "/libs", by)
		modes = append(modes, s.Mode)
		require.Equal(t, p.ID >= "d", s.Recipe != nil, p.ID)
		require.Equal(t, p.ID == "f", s.Container != nil, p.ID)
		require.Equal(t, s, poolSpec(c, p, "/libs", by), "one that did not change is not replaced")
	}
	require.Equal(t, []pool.Mode{pool.Builtin, pool.External, pool.Binary, pool.Binary, pool.Binary, pool.Container, pool.Binary}, modes)
	require.Equal(t, "/opt/server", poolSpec(c, c.Pools[2], "", by).BinaryPath)
	require.True(t, poolSpec(c, c.Pools[4], "", by).Recipe.(recipe).want.AllowPackages)
	require.Contains(t, poolSpec(c, c.Pools[5], "", by).Container.GPUs, "nvidia.com/gpu={card}")
}

// There is one list of the kinds of engines: what a pool may name, by the configuration's schema too, has an adapter, and the API's
// contract has a name for it.
//
// ORCH-3054, OC-CONFIG-6010
func TestThereIsOneListOfEngineKinds(t *testing.T) {
	var names []string
	for _, kind := range EngineKinds() {
		names = append(names, kind.Name)
	}
	require.Equal(t, task.EngineKinds(), names)
	for _, name := range names {
		require.Contains(t, gen.EngineName("").AllValues(), gen.EngineName(name))
	}
	require.Equal(t, []string{
		"llamacpp_token_count", "llamacpp_chat_template", "llamacpp_chat", "llamacpp_embedding", "llamacpp_rerank", "llamacpp_continue", "llamacpp_busy_slots", "llamacpp_kv_erase", "llamacpp_kv_save",
		"llamacpp_tools", "llamacpp_images", "llamacpp_formats", "llamacpp_grammars", "llamacpp_reasoning", "llamacpp_template_arguments", "llamacpp_logit_bias", "llamacpp_logprobs",
		"vllm_token_count", "vllm_chat", "vllm_embedding", "vllm_rerank", "vllm_busy_slots",
		"vllm_tools", "vllm_formats", "vllm_images", "vllm_reasoning", "vllm_grammars", "vllm_template_arguments", "vllm_logit_bias", "vllm_logprobs",
		"tgi_token_count", "tgi_chat", "tgi_busy_slots", "tgi_tools", "tgi_formats", "tgi_images",
		"triton_busy_slots",
		"openai_chat", "openai_embedding", "openai_rerank", "openai_tools", "openai_formats", "openai_images", "openai_reasoning", "openai_grammars", "openai_template_arguments",
		"openai_logit_bias", "openai_logprobs",
	}, EngineFeatures())
}
