// SPDX-License-Identifier: GPL-3.0-or-later

package soak

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// Series is a figure over a run.
type Series struct {
	Name string
	Unit string
	// Leak is by how much the figure would grow with each task if something leaked that is small enough to be overlooked.
	Leak float64

	Tasks  []float64 // that had ended when the figure was taken
	Values []float64
}

// Word is what is said of a series.
type Word string

// The words.
const (
	Flat    Word = "flat"
	Grows   Word = "grows"
	Unclear Word = "unclear" // the run was too short, or the figure too restless, to tell the two apart
)

// Verdict is what the line through a series shows.
type Verdict struct {
	Word  Word
	Slope float64 // a task
	Error float64 // its standard error
	From  float64 // the line's value where the fit begins
	Last  float64 // and where it ends
	Begin int     // the first sample that is fitted
}

const (
	warmUp = 0.1 // the share of the run that is left out: caches fill, and what is kept for a time is not yet forgotten
	sure   = 3   // standard errors between what is seen and what is ruled out
	fewest = 12  // samples that a fit needs
)

// Judge fits a line to what follows the first tenth of the tasks, by least squares. Half of what a leak would show divides flat from growing: with the error
// below a sixth of it, both a leak and a figure that stays are three errors away from that.
//
// Samples that follow each other are alike, so that there are fewer of them than it seems: the error is widened by how alike its residuals are.
func (s Series) Judge() (v Verdict) {
	v = Verdict{Word: Unclear, Error: math.Inf(1)}
	if len(s.Tasks) == 0 {
		return v
	}
	first, last := s.Tasks[0], s.Tasks[len(s.Tasks)-1]
	v.Begin, _ = slices.BinarySearch(s.Tasks, first+warmUp*(last-first))
	x, y := s.Tasks[v.Begin:], s.Values[v.Begin:]
	if len(x) < fewest || x[0] == x[len(x)-1] {
		return v
	}
	alpha, slope := stat.LinearRegression(x, y, nil, false)
	rest := make([]float64, len(x))
	for i := range x {
		rest[i] = y[i] - alpha - slope*x[i]
	}
	squares, alike := 0.0, 0.0
	for i, r := range rest {
		squares += r * r
		if i > 0 {
			alike += r * rest[i-1]
		}
	}
	v.Slope, v.From, v.Last = slope, alpha+slope*x[0], alpha+slope*x[len(x)-1]
	v.Error = math.Sqrt(squares / float64(len(x)-2) / (stat.Variance(x, nil) * float64(len(x)-1)))
	if squares > 0 {
		rho := min(max(alike/squares, 0), 0.98)
		v.Error *= math.Sqrt((1 + rho) / (1 - rho))
	}
	bound := s.Leak / 2
	switch {
	case v.Slope-sure*v.Error > bound:
		v.Word = Grows
	case sure*v.Error > bound:
	case v.Slope > bound:
		v.Word = Grows
	default:
		v.Word = Flat
	}
	return v
}

// String is a row of the report's table.
func (s Series) String() string {
	v := s.Judge()
	per := func(f float64) string { return fmt.Sprintf("%.4g", f*perTasks) }
	return fmt.Sprintf("| %s | %s | %.4g | %.4g | %s | ± %s | %s | %s |", s.Name, s.Unit, v.From, v.Last, per(v.Slope), per(sure*v.Error), per(s.Leak), v.Word)
}

// perTasks is what slopes are told for.
const perTasks = 1000
