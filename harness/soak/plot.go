// SPDX-License-Identifier: GPL-3.0-or-later

package soak

import (
	"fmt"
	"image/color"
	"os"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The plot's measures.
const (
	columns = 3
	wide    = 320 // points, of each series' part
	high    = 200
)

// Draw writes a picture of all series into a file: what was seen, and the line through it, red where it grows.
func Draw(path string, all []Series) error {
	lines := (len(all) + columns - 1) / columns
	canvas := vgsvg.New(wide*columns, vg.Length(high*lines))
	for i, s := range all {
		p, err := s.plot()
		if err != nil {
			return fmt.Errorf("plot %s: %w", s.Name, err)
		}
		c := draw.New(canvas)
		left, top := vg.Length(wide*(i%columns)), vg.Length(high*(lines-i/columns))
		p.Draw(draw.Crop(c, left+6, left+wide-6-c.Size().X, top-high+6-c.Min.Y, top-6-c.Max.Y))
	}
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the plot: %w", err)
	}
	_, err = canvas.WriteTo(file)
	if shut := file.Close(); err == nil {
		err = shut
	}
	if err != nil {
		return fmt.Errorf("write the plot: %w", err)
	}
	return nil
}

func (s Series) plot() (*plot.Plot, error) {
	p := plot.New()
	v := s.Judge()
	p.Title.Text = fmt.Sprintf("%s: %s", s.Name, v.Word)
	p.X.Label.Text, p.Y.Label.Text = "tasks", s.Unit
	p.Y.Min = 0
	points := make(plotter.XYs, len(s.Tasks))
	for i := range points {
		points[i].X, points[i].Y = s.Tasks[i], s.Values[i]
	}
	seen, err := plotter.NewLine(points)
	if err != nil {
		return nil, err
	}
	seen.Color = color.RGBA{R: 0x0b, G: 0x6b, B: 0xcb, A: 0xff}
	p.Add(seen)
	if v.Begin < len(points) {
		fit, err := plotter.NewLine(plotter.XYs{{X: points[v.Begin].X, Y: v.From}, {X: points[len(points)-1].X, Y: v.Last}})
		if err != nil {
			return nil, err
		}
		fit.Width = vg.Points(1.5)
		fit.Color = map[Word]color.Color{Flat: color.RGBA{R: 0x2e, G: 0x7d, B: 0x32, A: 0xff}, Grows: color.RGBA{R: 0xc6, G: 0x28, B: 0x28, A: 0xff}, Unclear: color.Gray{Y: 0x80}}[v.Word]
		p.Add(fit)
	}
	return p, nil
}
