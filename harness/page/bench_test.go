// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
)

// How often, how long and how much a figure is measured.
const (
	paints     = 15
	watched    = 20 * time.Second
	floodLines = 20_000
)

// BenchmarkPage measures what perf.md says of the page (LO-608), with 1,000 tasks in one queue and 10 replicas. Processor time is of the daemon alone: a machine that others use falsifies
// it little. Times on the clock are those of the fastest load, and of the median.
func BenchmarkPage(b *testing.B) {
	x := newBox(b)
	x.b = open(b)
	x.b.look("light", 1280, 900)
	x.fill()
	for b.Loop() {
		b.ReportMetric(100*x.takes(func() { x.b.run(chromedp.Navigate("about:blank"), chromedp.Sleep(watched)) }).Seconds()/watched.Seconds(), "%core-closed")
		var shown []float64
		for range paints {
			x.view("overview")
			x.b.until(`performance.getEntriesByName("first-contentful-paint").length`)
			shown = append(shown, js[float64](x.b, `performance.getEntriesByName("first-contentful-paint")[0].startTime`))
		}
		slices.Sort(shown)
		b.ReportMetric(shown[0], "ms-first-paint")
		b.ReportMetric(shown[paints/2], "ms-median-paint")
		size, files := x.loads()
		b.ReportMetric(size, "bytes")
		b.ReportMetric(float64(files), "files")
		x.frames()
		b.ReportMetric(100*x.takes(func() { x.b.run(chromedp.Sleep(watched)) }).Seconds()/watched.Seconds(), "%core-open")
		b.ReportMetric(x.slowest(), "ms-slowest-frame")

		flood := func() { x.flood(floodLines, "/v1/behind-the-flood") }
		x.b.run(chromedp.Navigate("about:blank"))
		alone := x.takes(flood)
		x.view("logs")
		x.frames()
		seen := x.takes(flood)
		x.b.says("#log-lines", "behind-the-flood")
		b.ReportMetric(x.slowest(), "ms-slowest-frame-flood")
		b.ReportMetric(float64((seen-alone).Microseconds())/floodLines, "µs/line-shown")
		b.ReportMetric(float64(alone.Microseconds())/floodLines, "µs/line-unseen")
	}
	b.ReportMetric(0, "ns/op") // it is no single operation
}

// takes is the processor time that the daemon takes meanwhile.
func (x *box) takes(do func()) time.Duration {
	x.t.Helper()
	before := cpu(x.t, x.served)
	do()
	return cpu(x.t, x.served) - before
}

// frames begins to watch the time between frames.
func (x *box) frames() {
	x.t.Helper()
	js[bool](x.b, `(() => {
		let last = performance.now();
		window.slowest = 0;
		const next = (now) => { window.slowest = Math.max(window.slowest, now - last); last = now; requestAnimationFrame(next); };
		requestAnimationFrame(next);
		return true;
	})()`)
}

// slowest is the longest time between two frames so far, in milliseconds.
func (x *box) slowest() float64 { return js[float64](x.b, "window.slowest") }

// loads is what the page has loaded, compressed.
func (x *box) loads() (size float64, files int) {
	x.t.Helper()
	x.view("overview")
	loaded := js[struct {
		Bytes float64
		Files int
	}](x.b, `(() => {
		const loaded = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource").filter((e) => !e.name.includes("/page/events"))];
		return { Bytes: loaded.reduce((n, e) => n + e.encodedBodySize, 0), Files: loaded.length };
	})()`)
	return loaded.Bytes, loaded.Files
}

// cpu is what a process has used so far.
func cpu(t testing.TB, d *daemon.Daemon) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.Pid()))
	require.NoError(t, err)
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')'):])
	var ticks int64
	for _, f := range fields[12:14] {
		var n int64
		_, err := fmt.Sscan(string(f), &n)
		require.NoError(t, err)
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100)
}
