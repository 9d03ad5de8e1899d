// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// bundles bounds the proof bundles of one proof, since an engine that breaks its promise breaks it often.
const bundles = 3

// proof compares all runs of one engine's cases.
type proof struct {
	dir   string          // for bundles
	first map[string]*run // by case
	named map[string]*run // by task id; a task with the same id in another life must have the same event ids

	runs, tokens, compared int
	replicas               map[string]map[string]bool // by life and case: the replicas that ran it
	differences            []*difference
}

func newProof(dir string) *proof {
	return &proof{dir: dir, first: map[string]*run{}, named: map[string]*run{}, replicas: map[string]map[string]bool{}}
}

// pass has both replicas of the pool answer every case, and compares the answers with all runs before.
func (p *proof) pass(ctx context.Context, d *life, poolID string, cases []testCase) error {
	for _, c := range cases {
		runs, err := d.onBoth(ctx, c, poolID)
		if err != nil {
			return err
		}
		for _, r := range runs {
			if err := p.add(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *proof) add(r *run) error {
	p.runs++
	p.tokens += len(r.Tokens)
	key := r.on.name + " " + r.test.Name
	if p.replicas[key] == nil {
		p.replicas[key] = map[string]bool{}
	}
	p.replicas[key][r.receipt().ReplicaID] = true
	for _, before := range []*run{p.first[r.test.Name], p.named[r.task]} {
		if before == nil {
			continue
		}
		p.compared += len(r.Tokens)
		d := compare(before, r)
		if d == nil {
			continue
		}
		if len(p.differences) < bundles {
			if err := d.write(p.dir); err != nil {
				return err
			}
		}
		p.differences = append(p.differences, d)
		break
	}
	if p.first[r.test.Name] == nil {
		p.first[r.test.Name] = r
	}
	if p.named[r.task] == nil {
		p.named[r.task] = r
	}
	return nil
}

// report returns text about the differences, or nothing if there are none.
func (p *proof) report() string {
	var s strings.Builder
	for i, d := range p.differences {
		if i == bundles {
			fmt.Fprintf(&s, "and %d more differences\n", len(p.differences)-bundles)
			break
		}
		s.WriteString(d.String() + "\n")
	}
	return s.String()
}

// genuine refuses answers that do not come from a real engine with the bundled model. It looks at the engine's version, at the digest of the model's
// file, and at the answers: a fake cannot know what a prompt asks for, but a real model nearly always gives it.
func genuine(runs map[string]*run, versions *regexp.Regexp, model string) error {
	data, err := os.ReadFile(model)
	if err != nil {
		return fmt.Errorf("read the model: %w", err)
	}
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	asked, held := 0, 0
	for _, r := range runs {
		receipt := r.receipt()
		if !versions.MatchString(receipt.EngineVersion) {
			return fmt.Errorf("%q is no version of a real engine", receipt.EngineVersion)
		}
		if receipt.ModelDigest != digest {
			return fmt.Errorf("the receipt of %s names the model %s, and the bundled one is %s", r.task, receipt.ModelDigest, digest)
		}
		if r.test.Must != "" {
			asked++
			if strings.Contains(r.Text(), r.test.Must) {
				held++
			}
		}
	}
	if asked == 0 || held*10 < asked*9 {
		return fmt.Errorf("%d of %d answers hold the minute that they were asked for: no real engine runs the bundled model here", held, asked)
	}
	return nil
}
