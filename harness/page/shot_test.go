// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"bytes"
	"cmp"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
)

// The images of the documents are no larger than this.
const (
	maxShot = 150_000
	maxFilm = 480_000
)

// shots makes the images of the documents, where it is asked to.
func (x *box) shots() {
	into := os.Getenv("LLORCH_PAGE_SHOTS")
	if into == "" {
		return
	}
	require.NoError(x.t, os.MkdirAll(into, 0o755))
	for _, s := range []struct {
		name, scheme, view string
		width, height      int64
	}{
		{"page-light", "light", "overview", 1280, 900},
		{"page-dark", "dark", "overview", 1280, 900},
		{"page-phone", "light", "overview", 390, 800},
		{"page-logs", "light", "logs", 1280, 640},
		{"page-playground", "dark", "playground", 1280, 640},
	} {
		x.b.look(s.scheme, s.width, s.height)
		x.view(s.view)
		switch s.view {
		case "playground":
			x.play()
		case "logs":
			x.filter("level", "info")
			x.b.until("document.querySelectorAll('#log-lines p').length > 10")
		}
		var out bytes.Buffer
		drawn := x.shot()
		colours := coloursOf([]*image.RGBA{drawn}, 256)
		require.NoError(x.t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, colours.paletted(drawn)))
		x.keep(into, s.name+".png", out.Bytes(), maxShot)
	}
	x.film(into)
	x.b.look("light", 1280, 900)
}

func (x *box) keep(into, name string, image []byte, most int) {
	x.t.Helper()
	require.Less(x.t, len(image), most, name)
	require.NoError(x.t, os.WriteFile(filepath.Join(into, name), image, 0o644))
}

// play asks two models for a haiku.
func (x *box) play() {
	x.t.Helper()
	x.b.until("document.querySelector('#play [name=first]').options.length >= 4")
	x.b.run(
		chromedp.SetValue(chromedp.CSS("#play [name=first]"), "writer"), chromedp.SetValue(chromedp.CSS("#play [name=second]"), "coder"),
		chromedp.SetValue(chromedp.CSS("#play [name=seed]"), "42"),
		chromedp.SendKeys(chromedp.CSS("#words"), "Write a haiku about rain containing \"seven\".\n\n"), chromedp.Click(chromedp.CSS("#play [type=submit]")),
	)
	x.b.says("[data-facts=first]", "transcript")
	x.b.says("[data-facts=second]", "transcript")
}

// film shows how the page follows the server: tasks that come and end, what is known of one, the log, the playground.
func (x *box) film(into string) {
	f := &film{x: x}
	for _, state := range []string{"queued", "running"} {
		x.cancelAll(state)
	}
	x.fake.SetScript(fakeengine.Script{Text: strings.SplitAfter(haiku, " "), IntervalMS: 90, Tokens: 16})
	for i := range 6 { // so that the predictions know how long such tasks take
		x.submit(fmt.Sprint("before-", i), "Write about time", "")
	}
	for i := range 6 {
		require.Eventually(x.t, func() bool { return x.state(fmt.Sprint("before-", i)) == "completed" }, patience, time.Second/4)
	}
	x.b.look("light", 1160, 660)
	x.view("overview")
	for _, about := range []string{"autumn", "the harbour", "a bell", "noon", "the last train", "moss", "a letter"} {
		x.submit("verse-"+strings.ReplaceAll(about, " ", "-"), "Write about "+about, `,"deadline_ms":600000`)
	}
	f.roll(6 * time.Second)
	x.b.run(chromedp.Click(chromedp.CSS("[data-group=recent] [data-task^=verse]")))
	x.b.says("#task-body", "transcript sha256")
	f.roll(2 * time.Second)
	x.b.run(chromedp.Click(chromedp.CSS("[data-do=why]")))
	x.b.says("#task-why", "would run now")
	f.roll(2 * time.Second)
	x.b.run(chromedp.Click(chromedp.CSS("#task [data-log]")))
	x.b.until("document.querySelectorAll('#log-lines p').length > 2")
	f.roll(3 * time.Second)
	x.b.run(chromedp.Click(chromedp.CSS("nav a[href='#playground']")))
	x.play()
	f.roll(3 * time.Second)
	made, err := f.gif()
	require.NoError(x.t, err)
	x.keep(into, "page.gif", made, maxFilm)
	x.fake.Reset()
}

// shot is the page as it is now.
func (x *box) shot() *image.RGBA {
	x.t.Helper()
	taken, err := chromedp.Run(x.b.ctx, chromedp.CaptureScreenshot())
	require.NoError(x.t, err)
	in, err := png.Decode(bytes.NewReader(taken))
	require.NoError(x.t, err)
	out := image.NewRGBA(in.Bounds())
	draw.Draw(out, out.Bounds(), in, in.Bounds().Min, draw.Src)
	return out
}

// film is what the page looked like, time after time.
type film struct {
	x      *box
	frames []*image.RGBA
	shown  []time.Duration // of each frame
}

// frameEvery is how often the page is looked at, at most.
const frameEvery = time.Second / 2

// roll films for a while.
func (f *film) roll(during time.Duration) {
	for end := time.Now().Add(during); time.Now().Before(end); {
		begun := time.Now()
		frame := f.x.shot()
		time.Sleep(time.Until(begun.Add(frameEvery)))
		if n := len(f.frames); n > 0 && bytes.Equal(f.frames[n-1].Pix, frame.Pix) {
			f.shown[n-1] += time.Since(begun)
			continue
		}
		f.frames, f.shown = append(f.frames, frame), append(f.shown, time.Since(begun))
	}
}

// gif has of each frame the part that changed, and there what stayed as it was is transparent.
func (f *film) gif() ([]byte, error) {
	const drawn = 63 // colours, and one for what stays
	colours := coloursOf(f.frames, drawn)
	colours.palette = append(colours.palette, color.RGBA{})
	out := gif.GIF{}
	var last *image.Paletted
	for i, frame := range f.frames {
		is := colours.paletted(frame)
		part := is
		if last != nil {
			part = changed(last, is, uint8(len(colours.palette)-1))
		}
		out.Image = append(out.Image, part)
		out.Delay = append(out.Delay, int(f.shown[i]/(10*time.Millisecond)))
		out.Disposal = append(out.Disposal, gif.DisposalNone)
		last = is
	}
	var b bytes.Buffer
	err := gif.EncodeAll(&b, &out)
	return b.Bytes(), err
}

// changed is the part of an image that differs from another one.
func changed(was, is *image.Paletted, stays uint8) *image.Paletted {
	at := image.Rectangle{}
	for y := is.Rect.Min.Y; y < is.Rect.Max.Y; y++ {
		for x := is.Rect.Min.X; x < is.Rect.Max.X; x++ {
			if was.ColorIndexAt(x, y) != is.ColorIndexAt(x, y) {
				at = at.Union(image.Rect(x, y, x+1, y+1))
			}
		}
	}
	if at.Empty() {
		at = image.Rect(0, 0, 1, 1)
	}
	out := image.NewPaletted(at, is.Palette)
	for y := at.Min.Y; y < at.Max.Y; y++ {
		for x := at.Min.X; x < at.Max.X; x++ {
			c := is.ColorIndexAt(x, y)
			if c == was.ColorIndexAt(x, y) {
				c = stays
			}
			out.SetColorIndex(x, y, c)
		}
	}
	return out
}

// colours are those that images are drawn with, and for all others the nearest of them. The most frequent one of each hue comes first, so that a small mark keeps its colour.
type colours struct {
	palette color.Palette
	index   map[color.RGBA]uint8
}

func coloursOf(images []*image.RGBA, most int) colours {
	counts := map[color.RGBA]int{}
	for _, i := range images {
		for p := 0; p < len(i.Pix); p += 4 {
			counts[color.RGBA{i.Pix[p], i.Pix[p+1], i.Pix[p+2], i.Pix[p+3]}]++
		}
	}
	frequent := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int { return cmp.Compare(counts[b], counts[a]) })
	c := colours{index: map[color.RGBA]uint8{}}
	hues := map[[3]uint8]bool{}
	var rest []color.RGBA
	for _, f := range frequent {
		if hue := [3]uint8{f.R >> 5, f.G >> 5, f.B >> 5}; !hues[hue] {
			hues[hue] = true
			c.palette = append(c.palette, f)
		} else {
			rest = append(rest, f)
		}
	}
	for _, f := range rest {
		c.palette = append(c.palette, f)
	}
	c.palette = c.palette[:min(most, len(c.palette))]
	for _, f := range frequent {
		c.index[f] = uint8(c.palette.Index(f))
	}
	return c
}

func (c colours) paletted(in *image.RGBA) *image.Paletted {
	out := image.NewPaletted(in.Rect, c.palette)
	for i := range out.Pix {
		out.Pix[i] = c.index[color.RGBA{in.Pix[4*i], in.Pix[4*i+1], in.Pix[4*i+2], in.Pix[4*i+3]}]
	}
	return out
}
