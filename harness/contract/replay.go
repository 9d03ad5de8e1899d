// SPDX-License-Identifier: GPL-3.0-or-later

package contract

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/llama-orch/llama-orch/harness/process"
)

// Report is what a replay found.
type Report struct {
	Replayed   int
	Mismatches []string       // of answers, sorted
	Lenient    map[string]int // requests that the document does not allow and the daemon served, by what is odd about them
}

// Replay sends the exchanges through Prism, and holds the codes of refusals against those of their operations, which Prism does not know.
func Replay(ctx context.Context, l *process.Launcher, packages, dir string, d *Document, a *Answers) (Report, error) {
	out := Report{Mismatches: slices.Clone(a.Wrong), Lenient: map[string]int{}}
	document, err := d.Write(dir)
	if err != nil {
		return out, err
	}
	p, err := StartPrism(ctx, l, packages, document, a.Kept)
	if err != nil {
		return out, err
	}
	defer p.Close()
	var mu sync.Mutex // guards out
	var group errgroup.Group
	group.SetLimit(4)
	for n, e := range a.Kept {
		group.Go(func() error {
			var answer, request []violation
			if e.Method != http.MethodHead { // Prism wants the body that is announced
				var err error
				if answer, request, err = p.Send(ctx, n); err != nil {
					return fmt.Errorf("%s %s, %d: %w", e.Method, e.Target, e.Status, err)
				}
			}
			var wrong []string
			for _, v := range answer {
				wrong = append(wrong, v.String())
			}
			if err := d.Refusal(e); err != nil {
				wrong = append(wrong, err.Error())
			}
			mu.Lock()
			defer mu.Unlock()
			if e.Method != http.MethodHead {
				out.Replayed++
			}
			if len(wrong) > 0 {
				out.Mismatches = append(out.Mismatches, mismatch(e, wrong...))
			}
			if o := d.operation(e.Method, e.Target); o != nil && e.Status < http.StatusBadRequest && (!o.body || e.Request != nil) {
				for _, v := range request {
					out.Lenient[o.id+": "+v.String()]++
				}
			}
			return nil
		})
	}
	err = group.Wait()
	slices.Sort(out.Mismatches)
	return out, err
}
