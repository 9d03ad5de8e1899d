// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Every case on both replicas, again after a restart, and again after a kill -9: one text, one request digest, one
// fingerprint, and one id for each event of a task. Each life takes the cases in another order, so that nothing a replica
// has done before can matter either.
//
// OC-TEST-7001, ORCH-3045, LO-204, LO-205, LO-871
func TestSameFingerprintSameBytes(t *testing.T) {
	all := engines(t)
	var mu sync.Mutex
	answers := map[string]map[string]*run{}
	t.Run("on", func(t *testing.T) { // it ends when all engines have: they share the cores as they would in use
		for _, e := range all {
			t.Run(e.name, func(t *testing.T) {
				t.Parallel()
				p := sameBytes(t, e)
				mu.Lock()
				defer mu.Unlock()
				answers[e.name] = p.first
			})
		}
	})
	for _, e := range all[1:] {
		agreement(t, all[0].name, answers[all[0].name], e.name, answers[e.name])
	}
}

// agreement says how often two engines agree. Nothing promises that they do: their fingerprints differ.
func agreement(t *testing.T, nameA string, a map[string]*run, nameB string, b map[string]*run) {
	var n int
	var others []string
	for _, c := range cases(t) {
		if a[c.Name] == nil || b[c.Name] == nil {
			continue
		}
		n++
		require.NotEqual(t, a[c.Name].receipt().Fingerprint, b[c.Name].receipt().Fingerprint)
		if at := firstDiffering(a[c.Name].Tokens, b[c.Name].Tokens); at >= 0 {
			others = append(others, fmt.Sprintf("%s from token %d of %d on", c.Name, at, len(a[c.Name].Tokens)))
		}
	}
	say(t, "%s and %s, whose fingerprints differ, give the same tokens in %d of %d cases; the others: %s",
		nameA, nameB, n-len(others), n, cmp.Or(strings.Join(others, ", "), "none"))
}

func sameBytes(t *testing.T, e engine) *proof {
	began := time.Now()
	dir, err := proofDir()
	require.NoError(t, err)
	p := newProof(dir)
	forward := cases(t)
	backward := slices.Clone(forward)
	slices.Reverse(backward)
	mixed := slices.Clone(forward)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	by := ""
	config := shared.config(pool{id: "main", replicas: 2, provisioning: e.provisioning})
	for _, life := range []struct {
		name  string
		cases []testCase
		end   syscall.Signal
	}{
		{"in the first life", forward, syscall.SIGTERM},
		{"after a SIGTERM", backward, syscall.SIGKILL},
		{"after a kill -9", mixed, syscall.SIGTERM},
	} {
		d := serve(t, life.name, config, nil)
		require.NoError(t, p.pass(t.Context(), d, "main", life.cases))
		for _, c := range life.cases {
			require.Len(t, p.replicas[life.name+" "+c.Name], 2, "case %s was to run on both replicas %s", c.Name, life.name)
		}
		by = computer(t, d, p.first[forward[0].Name].receipt().Fingerprint)
		_, err := d.Stop(life.end)
		require.NoError(t, err)
	}
	if report := p.report(); report != "" {
		say(t, "%s", report)
		t.Fatal("the promise of the receipts does not hold")
	}
	require.NoError(t, genuine(p.first, e.versions, shared.Model))
	asCommitted(t, e.name, by, p.first)
	for _, r := range p.first {
		require.Equal(t, "strict", r.receipt().Determinism)
		require.Regexp(t, `^fp-[0-9a-f]{16}$`, r.receipt().Fingerprint)
		require.Regexp(t, `^[0-9a-f]{64}$`, r.receipt().RequestDigest)
	}
	say(t, "%s: %d cases, %d runs on 2 replicas in 3 lives of the daemon, %d tokens, %d comparisons of tokens, no difference, in %s",
		e.name, len(forward), p.runs, p.tokens, p.compared, took(began))
	return p
}
