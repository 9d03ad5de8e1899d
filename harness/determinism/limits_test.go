// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"bytes"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
)

// Another seed, another sampler profile and other parameters are other requests: each has another digest, on the same
// fingerprint, and other bytes. Two draws may agree by chance, so a tenth of the answers may be the same.
//
// OC-TEST-7001, OC-TEST-7002, LO-204
func TestAnotherRequestGivesOtherBytes(t *testing.T) {
	for _, e := range engines(t) {
		t.Run(e.name, func(t *testing.T) {
			d := serve(t, "for other requests", shared.config(
				pool{id: "base", provisioning: e.provisioning}, pool{id: "other", provisioning: e.provisioning, profile: "v2"}), nil)
			ready(t, d, "base", "other")
			different, n := map[string]int{}, 0
			for _, c := range cases(t)[:24] {
				if !c.plain() {
					continue
				}
				n++
				base := ask(t, d, c, "base")
				for _, other := range []struct {
					what string
					r    *run
				}{
					{"seed", ask(t, d, c.with(map[string]any{"seed": 4_000_000_000 - n}), "base")},
					{"sampler profile", ask(t, d, c, "other")},
					{"parameters", ask(t, d, c.with(map[string]any{"params": map[string]any{"temperature": 1.4, "top_k": 0}}), "base")},
				} {
					require.Equal(t, base.receipt().Fingerprint, other.r.receipt().Fingerprint)
					require.NotEqual(t, base.receipt().RequestDigest, other.r.receipt().RequestDigest, other.what)
					if base.Text() != other.r.Text() {
						different[other.what]++
						require.NotNil(t, compare(base, other.r))
						require.NotEqual(t, base.receipt().TranscriptSHA256, other.r.receipt().TranscriptSHA256)
					}
				}
			}
			say(t, "%s: of %d answers, another seed changes %d, another sampler profile %d, other parameters %d",
				e.name, n, different["seed"], different["sampler profile"], different["parameters"])
			for what, count := range different {
				require.GreaterOrEqual(t, count*10, n*9, "another %s", what)
			}
			require.Len(t, different, 3)
		})
	}
}

// Every fact that can change bytes changes the fingerprint, even where the bytes stay the same: the promise ends there.
// What cannot change bytes (the pool, its profile, how fast it may be) does not.
//
// OC-TEST-7001, OC-TEST-7002, LO-205
func TestAnotherFactGivesAnotherFingerprint(t *testing.T) {
	for _, e := range engines(t) {
		t.Run(e.name, func(t *testing.T) {
			model := filepath.Join(t.TempDir(), "haiku.gguf")
			require.NoError(t, rewritten(shared.Model, model, func(data []byte) []byte {
				// It says that it was trained with a context of 512, which nothing computes with; but now there can be one. In
				// GGUF a key is followed by its type, 4 for a number of 32 bits.
				from := []byte("llama.context_length\x04\x00\x00\x00\x00\x01\x00\x00")
				require.Equal(t, 1, bytes.Count(data, from))
				return bytes.Replace(data, from, []byte("llama.context_length\x04\x00\x00\x00\x00\x02\x00\x00"), 1)
			}))
			build, env, err := e.other(shared)
			require.NoError(t, err)

			same := []pool{{id: "base", provisioning: e.provisioning}, {id: "profile", provisioning: e.provisioning, profile: "v2"}}
			other := []pool{
				{id: "threads", provisioning: e.provisioning, more: "threads: 2"},
				{id: "model", provisioning: e.provisioning, model: model},
				{id: "ctx", provisioning: e.provisioning, model: model, more: "ctx: 512"},
			}
			if e.slots {
				other = append(other, pool{id: "slots", provisioning: e.provisioning, more: "slots: 2"})
			} else {
				same = append(same, pool{id: "pace", provisioning: e.provisioning, more: "pace: 100000"})
			}
			one := append(same, other...)
			var two []pool
			if env == nil {
				one = append(one, pool{id: "build", provisioning: build.provisioning})
			} else {
				two = []pool{{id: "build", provisioning: build.provisioning}}
			}

			fingerprints, texts := map[string]string{}, map[string]string{}
			for _, host := range []struct {
				pools []pool
				env   map[string]string
			}{{one, nil}, {two, env}} {
				if len(host.pools) == 0 {
					continue
				}
				d := serve(t, "for other facts", shared.config(host.pools...), host.env)
				for _, p := range host.pools {
					fingerprints[p.id] = ready(t, d, p.id)[0].Fingerprint
					r := ask(t, d, cases(t)[0], p.id)
					require.Equal(t, fingerprints[p.id], r.receipt().Fingerprint)
					texts[p.id] = r.Text()
				}
			}
			seen := map[string]string{}
			for id, fingerprint := range fingerprints {
				require.NotEmpty(t, fingerprint)
				switch id {
				case "profile", "pace":
					require.Equal(t, fingerprints["base"], fingerprint, id)
				default:
					require.NotContains(t, seen, fingerprint, "%s and %s", seen[fingerprint], id)
					seen[fingerprint] = id
				}
			}
			require.Equal(t, texts["base"], texts["model"], "nothing of what decodes was changed")
			say(t, "%s: the fingerprint changes with %d facts (build, model digest, threads, context%s)",
				e.name, len(seen)-1, map[bool]string{true: ", slots"}[e.slots])
		})
	}
}

// A task that was promised nothing says so, and a replica of several slots promises nothing.
//
// LO-205, LO-204
func TestBestEffortSaysSoInTheReceipt(t *testing.T) {
	for _, e := range engines(t) {
		t.Run(e.name, func(t *testing.T) {
			pools := []pool{{id: "base", provisioning: e.provisioning}}
			if e.slots {
				pools = append(pools, pool{id: "slots", provisioning: e.provisioning, more: "slots: 2"})
			}
			d := serve(t, "for best effort", shared.config(pools...), nil)
			ready(t, d, "base")
			c := cases(t)[0]
			require.Equal(t, "strict", ask(t, d, c, "base").receipt().Determinism)
			require.Equal(t, "strict", ask(t, d, c.with(map[string]any{"determinism": "strict"}), "base").receipt().Determinism)
			require.Equal(t, "best_effort", ask(t, d, c.with(map[string]any{"determinism": "best_effort"}), "base").receipt().Determinism)
			if !e.slots {
				return
			}
			ready(t, d, "slots")
			require.Equal(t, "best_effort", ask(t, d, c, "slots").receipt().Determinism)
			_, err := d.ask(t.Context(), c.with(map[string]any{"determinism": "strict"}), "slots")
			var refused *client.RefusedError
			require.ErrorAs(t, err, &refused, "%v", err)
			require.Equal(t, http.StatusBadRequest, refused.Status)
			require.Equal(t, "INVALID_PARAMS", refused.Code)
		})
	}
}

// ready waits for pools and returns the replicas of the last.
func ready(t *testing.T, d *life, pools ...string) (replicas []daemon.Replica) {
	t.Helper()
	for _, id := range pools {
		var err error
		replicas, err = d.Idle(t.Context(), id)
		require.NoError(t, err)
	}
	return replicas
}

func ask(t *testing.T, d *life, c testCase, poolID string) *run {
	t.Helper()
	r, err := d.ask(t.Context(), c, poolID)
	require.NoError(t, err)
	return r
}
