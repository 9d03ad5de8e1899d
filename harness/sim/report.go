// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Seeds is the number of days in the means of the tables. The plots show the first day.
const Seeds = 8

// Sum is a policy's result over several days.
type Sum struct {
	Policy                        string
	Makespan, Lost, Response      time.Duration // means
	P50, P99, Longest, P99OfBatch time.Duration // of waits; the longest of all days, the others means
	Swaps                         float64       // a day
	Idle                          float64
}

// Days runs a policy on the given number of days.
func Days(box Box, p Policy, seeds int) (Sum, error) {
	s := Sum{Policy: p.Name}
	n := time.Duration(seeds)
	for seed := range seeds {
		r, err := Run(box, Day(uint64(seed)), p, false)
		if err != nil {
			return s, err
		}
		s.Makespan += r.Makespan / n
		s.Lost += r.Lost / n
		s.Response += r.Response / n
		s.P50 += Percentile(r.Interactive, 0.5) / n
		s.P99 += Percentile(r.Interactive, 0.99) / n
		s.P99OfBatch += Percentile(r.Batch, 0.99) / n
		s.Longest = max(s.Longest, Percentile(r.Interactive, 1))
		s.Swaps += float64(r.Swaps) / float64(seeds)
		s.Idle += r.Idle() / float64(seeds)
	}
	return s, nil
}

// Report simulates the days of the reference box, and the racks. It prints the results as Markdown and writes the plots into a folder.
func Report(w io.Writer, folder string) error {
	box := Reference()
	fmt.Fprintf(w, "A 3090 and a 3060, mean of %d days\n\n", Seeds)
	fmt.Fprintln(w, "| policy | total time | p50 wait, interactive | p99 | longest | mean time to the end | p99 wait, batch | swaps a day | lost to swaps | cards idle |")
	fmt.Fprintln(w, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	var sums []Sum
	var shown []*Result
	for _, p := range Policies() {
		s, err := Days(box, p, Seeds)
		if err != nil {
			return err
		}
		sums = append(sums, s)
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %.0f | %s | %.0f %% |\n", s.Policy, clock(s.Makespan), told(s.P50), told(s.P99), told(s.Longest),
			told(s.Response), told(s.P99OfBatch), s.Swaps, clock(s.Lost), 100*s.Idle)
		r, err := Run(box, Day(0), p, true)
		if err != nil {
			return err
		}
		shown = append(shown, r)
	}
	aims(w, sums)
	if err := racks(w); err != nil {
		return err
	}
	for name, plot := range map[string][]byte{
		"simulation-waits.svg":    WaitPlot(shown),
		"simulation-timeline.svg": TimelinePlot(&box, 10*time.Hour+30*time.Minute, []*Result{shown[0], shown[3]}),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), plot, 0o644); err != nil {
			return fmt.Errorf("writing a plot: %w", err)
		}
	}
	return nil
}

// aims says which of its aims the simulation has met.
func aims(w io.Writer, sums []Sum) {
	ours := sums[0]
	said := func(ok bool) string {
		if ok {
			return "met"
		}
		return "**not met**"
	}
	fmt.Fprintf(w, "\n| aim against | p99 wait of interactive tasks is less | total time is less | at most a third of its swaps |\n|---|---|---|---|\n")
	for _, s := range sums[1:] {
		fmt.Fprintf(w, "| %s | %s: %.2f of it | %s: %.3f of it | %s: %.2f of them |\n", s.Policy, said(ours.P99 < s.P99), float64(ours.P99)/float64(s.P99),
			said(ours.Makespan < s.Makespan), float64(ours.Makespan)/float64(s.Makespan), said(3*ours.Swaps <= s.Swaps), ours.Swaps/s.Swaps)
	}
}

// racks runs a million tasks on more and more replicas.
func racks(w io.Writer) error {
	fmt.Fprintf(w, "\nA million tasks at nine tenths of what the replicas can do, one model pinned on all\n\n")
	fmt.Fprintf(w, "| replicas | total time | p50 wait, interactive | p99 | p99 wait, batch | cards idle | simulated tasks/s, here and now |\n|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, n := range []int{8, 30, 100, 300, 1000} {
		box := Rack(n)
		load := Stream(0, &box, 1_000_000, 0.9)
		began := time.Now()
		r, err := Run(box, load, Ours(DefaultRules), false)
		if err != nil {
			return err
		}
		took := time.Since(began)
		fmt.Fprintf(w, "| %d | %s | %s | %s | %s | %.0f %% | %.0f |\n", n, clock(r.Makespan), told(Percentile(r.Interactive, 0.5)),
			told(Percentile(r.Interactive, 0.99)), told(Percentile(r.Batch, 0.99)), 100*r.Idle(), float64(len(load))/took.Seconds())
	}
	return nil
}

// clock writes a long time in hours and minutes.
func clock(t time.Duration) string {
	t = t.Round(time.Minute)
	return fmt.Sprintf("%d:%02d h", int(t.Hours()), int(t.Minutes())%60)
}

// told writes a wait in seconds.
func told(t time.Duration) string { return fmt.Sprintf("%.1f s", t.Seconds()) }
