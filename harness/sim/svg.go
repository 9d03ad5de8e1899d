// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"time"
)

// colours has colours that most people can tell apart, and that differ in lightness on paper. The plots have their own background, so that they look the
// same on a light and a dark page.
var colours = []string{"#0b6bcb", "#c4501b", "#2e7d32", "#8e24aa", "#b58900", "#37474f"}

// drawing is an SVG in the making.
type drawing struct {
	b    strings.Builder
	w, h float64
}

func draw(w, h float64, title string) *drawing {
	d := &drawing{w: w, h: h}
	fmt.Fprintf(&d.b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img" font-family="sans-serif" font-size="13">`+"\n",
		w, h, w, h)
	fmt.Fprintf(&d.b, "<title>%s</title>\n", html.EscapeString(title))
	fmt.Fprintf(&d.b, `<rect x="0.5" y="0.5" width="%g" height="%g" rx="6" fill="#ffffff" stroke="#c8ccd0"/>`+"\n", w-1, h-1)
	return d
}

func (d *drawing) text(x, y float64, anchor, fill, s string) {
	fmt.Fprintf(&d.b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, fill, html.EscapeString(s))
}

func (d *drawing) heading(x, y float64, s string) {
	fmt.Fprintf(&d.b, `<text x="%.1f" y="%.1f" fill="#111" font-weight="bold" font-size="15">%s</text>`+"\n", x, y, html.EscapeString(s))
}

func (d *drawing) line(x1, y1, x2, y2 float64, stroke string) {
	fmt.Fprintf(&d.b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, stroke)
}

func (d *drawing) box(x, y, w, h float64, fill string) {
	fmt.Fprintf(&d.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, w, h, fill)
}

func (d *drawing) done() []byte {
	d.b.WriteString("</svg>\n")
	return []byte(d.b.String())
}

const ink, faint = "#333333", "#dfe3e6"

// WaitPlot shows, for each policy, which share of the interactive tasks started within a time. Both axes are logarithmic. The axis of the share counts
// the tasks that are still waiting, so that the slowest hundredth and the slowest thousandth can be seen.
func WaitPlot(results []*Result) []byte {
	const w, h, left, right, top, bottom = 860, 470, 70, 20, 50, 60
	d := draw(w, h, "Waits of interactive tasks")
	d.heading(left, 28, "Interactive tasks: share that started within a time")
	shares := []float64{0, 0.5, 0.9, 0.99, 0.999}
	depth := -math.Log10(1 - 0.9995)
	y := func(share float64) float64 {
		return h - bottom - min(-math.Log10(max(1-share, 1e-9)), depth)/depth*(h-top-bottom)
	}
	low, high := math.Log10(0.1), math.Log10(3600)
	x := func(t time.Duration) float64 {
		at := (math.Log10(max(t.Seconds(), 0.1)) - low) / (high - low)
		return left + min(at, 1)*(w-left-right)
	}
	for _, s := range shares {
		d.line(left, y(s), w-right, y(s), faint)
		d.text(left-8, y(s)+4, "end", ink, fmt.Sprintf("%g %%", s*100))
	}
	for _, t := range []time.Duration{
		100 * time.Millisecond, time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 20 * time.Minute, time.Hour,
	} {
		d.line(x(t), top, x(t), h-bottom, faint)
		d.text(x(t), h-bottom+18, "middle", ink, short(t))
	}
	d.text((left+w-right)/2, h-16, "middle", ink, "wait")
	for i, r := range results {
		var path strings.Builder
		n := float64(len(r.Interactive))
		last := ""
		for k, wait := range r.Interactive {
			point := fmt.Sprintf("%.1f,%.1f", x(wait), y(float64(k)/n))
			if point != last && (k%8 == 0 || float64(k) > 0.98*n) {
				fmt.Fprintf(&path, "%s ", point)
				last = point
			}
		}
		fmt.Fprintf(&d.b, `<polyline fill="none" stroke="%s" stroke-width="%g" points="%s"/>`+"\n", colours[i], cmp.Or(2-float64(min(i, 1))*0.4, 1), strings.TrimSpace(path.String()))
		ly := float64(top + 18 + 20*i)
		d.line(left+16, ly-4, left+44, ly-4, colours[i])
		d.box(left+16, ly-6, 28, 4, colours[i])
		d.text(left+52, ly, "start", ink, r.Policy)
	}
	return d.done()
}

// short writes a time as a person says it.
func short(t time.Duration) string {
	switch {
	case t >= time.Hour:
		return fmt.Sprintf("%g h", t.Hours())
	case t >= time.Minute:
		return fmt.Sprintf("%g min", t.Minutes())
	}
	return fmt.Sprintf("%g s", t.Seconds())
}

// TimelinePlot shows what the cards do for an hour from a time on. Each model has a row on each card. Its tasks have the model's colour, batch tasks a
// lighter one, and loads are black.
func TimelinePlot(box *Box, from time.Duration, results []*Result) []byte {
	const w, left, right, top, row = 1000, 170, 20, 64, 16
	var rows []int // models, by row, on each card
	for card := range box.Cards {
		for model := range box.Models {
			if _, ok := box.Models[model].Rates[box.Cards[card].Class]; ok && box.Models[model].Bytes <= box.Cards[card].Bytes {
				rows = append(rows, card*len(box.Models)+model)
			}
		}
	}
	each := float64(len(rows))*row + 12*float64(len(box.Cards)) + 40
	h := top + each*float64(len(results)) + 24
	d := draw(w, h, "One hour of the cards")
	d.heading(20, 28, fmt.Sprintf("One hour of the cards, from %02d:%02d", int(from.Hours()), int(from.Minutes())%60))
	d.text(20, 48, "start", ink, "full colour: an interactive task runs; light: batch; black: the model is loaded")
	until := from + time.Hour
	x := func(t time.Duration) float64 {
		return left + (min(max(t, from), until)-from).Seconds()/3600*(w-left-right)
	}
	for i, r := range results {
		at := top + each*float64(i)
		d.text(20, at+16, "start", "#111", fmt.Sprintf("%s: %d loads", r.Policy, loadsWithin(r, from, until)))
		tops := map[int]float64{}
		y := at + 26
		for k, key := range rows {
			card, model := key/len(box.Models), key%len(box.Models)
			if k > 0 && rows[k-1]/len(box.Models) != card {
				y += 12
			}
			tops[key] = y
			d.box(left, y, w-left-right, row-3, "#f3f5f6")
			d.text(left-8, y+row-5, "end", ink, box.Cards[card].Name+"  "+box.Models[model].Name)
			y += row
		}
		for m := 0; m <= 60; m += 10 {
			t := from + time.Duration(m)*time.Minute
			d.line(x(t), at+22, x(t), y, faint)
			d.text(x(t), y+14, "middle", ink, fmt.Sprintf("%02d:%02d", int(t.Hours()), int(t.Minutes())%60))
		}
		for _, s := range joined(r.Spans, from, until) {
			fill := colours[s.Model%len(colours)]
			switch {
			case s.Load:
				fill = "#000000"
			case s.Batch:
				fill += "70"
			}
			d.box(x(s.From), tops[s.Card*len(box.Models)+s.Model], max(x(s.To)-x(s.From), 0.4), row-3, fill)
		}
	}
	return d.done()
}

func loadsWithin(r *Result, from, until time.Duration) int {
	n := 0
	for _, s := range r.Spans {
		if s.Load && s.From >= from && s.From < until {
			n++
		}
	}
	return n
}

// joined returns the spans of an hour. It joins spans that follow each other closely, since a picture has only so many points.
func joined(spans []Span, from, until time.Duration) []Span {
	spans = slices.DeleteFunc(slices.Clone(spans), func(s Span) bool { return s.To < from || s.From > until })
	bit := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(spans, func(a, b Span) int {
		return cmp.Or(bit(a.Load)-bit(b.Load), bit(b.Batch)-bit(a.Batch), a.Card-b.Card, a.Model-b.Model, cmp.Compare(a.From, b.From))
	})
	var all []Span
	for _, s := range spans {
		if n := len(all) - 1; n >= 0 && all[n].Card == s.Card && all[n].Model == s.Model && all[n].Load == s.Load && all[n].Batch == s.Batch &&
			s.From-all[n].To < 2*time.Second {
			all[n].To = max(all[n].To, s.To)
			continue
		}
		all = append(all, s)
	}
	return all
}
