// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// difference says where two runs differ that should be the same.
type difference struct {
	what   string // the first thing that should be equal and is not
	index  int    // of the first token that differs; -1: no token does
	a, b   *run
	bundle string // the proof bundle, once written
}

// compare compares two runs of one case, and returns nil if they are the same.
func compare(a, b *run) *difference {
	index := firstDiffering(a.Tokens, b.Tokens)
	ra, rb := a.receipt(), b.receipt()
	for _, f := range []struct {
		what string
		same bool
	}{
		{"the tokens", index < 0},
		{"the fingerprints", ra.Fingerprint == rb.Fingerprint},
		{"the request digests", ra.RequestDigest == rb.RequestDigest},
		{"the transcripts' SHA-256", ra.TranscriptSHA256 == rb.TranscriptSHA256},
		{"the texts", a.Text() == b.Text()},
		{"the seeds", ra.Seed == rb.Seed},
		{"the promises", ra.Determinism == rb.Determinism},
		{"the engine versions", ra.EngineVersion == rb.EngineVersion},
		{"the model digests", ra.ModelDigest == rb.ModelDigest},
		{"the numbers of tokens", a.End.TokensIn == b.End.TokensIn && a.End.TokensOut == b.End.TokensOut},
		{"the finish reasons", a.End.FinishReason == b.End.FinishReason},
		{"the event ids", a.task != b.task || sameIDs(a, b)},
	} {
		if !f.same {
			return &difference{what: f.what, index: index, a: a, b: b}
		}
	}
	return nil
}

// firstDiffering returns the index of the first token that differs, or that only one of them has; -1 if there is none.
func firstDiffering(a, b []string) int {
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			return i
		}
	}
	return -1
}

// sameIDs compares, for a task with the same id in two lives, the ids of `started` and of all tokens. `end` names the replica and the time that
// it took, so its id may differ.
func sameIDs(a, b *run) bool {
	if len(a.Events) != len(b.Events) {
		return false
	}
	for i := range len(a.Events) - 1 {
		if a.Events[i].ID != b.Events[i].ID {
			return false
		}
	}
	return true
}

// String says for people where the promise was broken.
func (d *difference) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "case %s: %s differ", d.a.test.Name, d.what)
	if d.index >= 0 {
		fmt.Fprintf(&s, "; the first differing token is %d: %s and %s", d.index, tokenAt(d.a, d.index), tokenAt(d.b, d.index))
	}
	for _, side := range []struct {
		name string
		r    *run
	}{{"a", d.a}, {"b", d.b}} {
		receipt := side.r.receipt()
		fmt.Fprintf(&s, "\n  %s: %s, replica %s, fingerprint %s, request digest %s, transcript %s\n     %q", side.name, side.r.on.name,
			receipt.ReplicaID, receipt.Fingerprint, receipt.RequestDigest, receipt.TranscriptSHA256, side.r.Text())
	}
	if d.bundle != "" {
		fmt.Fprintf(&s, "\n  proof bundle: %s", d.bundle)
	}
	return s.String()
}

func tokenAt(r *run, index int) string {
	if index >= len(r.Tokens) {
		return "no token"
	}
	return fmt.Sprintf("%q", r.Tokens[index])
}

// envProof names the folder for proof bundles. The default is a folder below the system's folder for temporary files; it is not removed.
const envProof = "LLORCH_PROOF_DIR"

func proofDir() (string, error) {
	dir := os.Getenv(envProof)
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "llama-orch-proof")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the folder of proof bundles: %w", err)
	}
	return dir, nil
}

// write leaves a proof bundle in a new folder below dir, with everything that is needed to look into a broken promise.
func (d *difference) write(dir string) error {
	bundle, err := os.MkdirTemp(dir, "determinism-"+d.a.test.Name+"-")
	if err != nil {
		return fmt.Errorf("make the proof bundle's folder: %w", err)
	}
	d.bundle = bundle
	files := map[string][]byte{"difference.txt": []byte(d.String() + "\n")}
	for name, r := range map[string]*run{"a": d.a, "b": d.b} {
		receipt, err := json.MarshalIndent(r.receipt(), "", "  ")
		if err != nil {
			return fmt.Errorf("encode a receipt: %w", err)
		}
		var stream strings.Builder
		for _, e := range r.Events {
			stream.WriteString(e.Frame())
		}
		files[name+".request.json"] = r.body
		files[name+".stream.sse"] = []byte(stream.String())
		files[name+".receipt.json"] = receipt
		files[name+".health.json"] = r.on.LastHealth(r.pool)
		files[name+".daemon.log"] = []byte(r.on.Output())
	}
	for name, data := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(bundle, name), data, 0o600))
	}
	if err != nil {
		return fmt.Errorf("write the proof bundle: %w", err)
	}
	return nil
}
