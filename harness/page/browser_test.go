// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// patience is what only a hang reaches.
const patience = 60 * time.Second

// browser is one tab of a real browser, and what it complained about.
type browser struct {
	t   testing.TB
	ctx context.Context //nolint:containedctx // chromedp keeps the tab in it
	axe string

	mu         sync.Mutex
	complaints []string
}

// open starts a browser. It has no sandbox, which a container may not allow: it sees nothing but the daemon of this test.
func open(t testing.TB) *browser {
	t.Helper()
	tools := os.Getenv("LLORCH_PAGE_TOOLS")
	require.NotEmpty(t, tools, "these tests need a browser from npm: run `go tool mage check:page` or `page:bench`")
	at := filepath.Join(tools, "browser")
	home := t.TempDir()
	fonts := filepath.Join(home, "fonts.conf") // so that text looks the same on a machine without fonts
	require.NoError(t, os.WriteFile(fonts, fmt.Appendf(nil, `<?xml version="1.0"?><fontconfig><dir>%s</dir><cachedir>%s</cachedir></fontconfig>`,
		filepath.Join(at, "fonts"), filepath.Join(home, "fonts")), 0o600))
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(filepath.Join(at, "chromium")), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(filepath.Join(home, "profile")),
		chromedp.Flag("hide-scrollbars", true),
		chromedp.Env("LD_LIBRARY_PATH="+filepath.Join(at, "lib")+":"+at, "FONTCONFIG_FILE="+fonts, "HOME="+home, "TZ=UTC"),
		chromedp.WSURLReadTimeout(patience),
	)
	all, stopAll := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stop := chromedp.NewContext(all)
	axe, err := os.ReadFile(filepath.Join(tools, "node_modules/axe-core/axe.min.js"))
	require.NoError(t, err)
	b := &browser{t: t, ctx: ctx, axe: string(axe)}
	require.NoError(t, chromedp.Do(ctx))
	messages, heard := chromedp.Console(ctx), make(chan struct{})
	go func() { // joined below
		defer close(heard)
		b.hear(messages)
	}()
	t.Cleanup(func() {
		stop()
		stopAll()
		<-heard
	})
	return b
}

// hear notes what a developer would see in the console: errors, warnings, and what the policy refused.
func (b *browser) hear(messages iter.Seq2[chromedp.ConsoleMessage, error]) {
	for m, err := range messages {
		if err != nil {
			return
		}
		if m.Type == chromedp.ConsoleError || m.Type == chromedp.ConsoleWarning || m.IsException() {
			b.mu.Lock()
			b.complaints = append(b.complaints, m.String()+" "+m.URL)
			b.mu.Unlock()
		}
	}
}

// quiet fails for what the browser complained about, but for what the step had it run into.
func (b *browser) quiet(but ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.complaints {
		known := false
		for _, k := range but {
			known = known || strings.Contains(c, k)
		}
		require.True(b.t, known, "the browser complained: %s", c)
	}
	b.complaints = nil
}

func (b *browser) run(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.ctx, patience)
	defer stop()
	require.NoError(b.t, chromedp.Do(ctx, steps...))
}

// js is the value of an expression.
func js[T any](b *browser, expression string) T {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.ctx, patience)
	defer stop()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	require.NoError(b.t, err, "%.300s", expression)
	return v
}

// until waits for an expression to be true.
func (b *browser) until(expression string) {
	b.t.Helper()
	end := time.Now().Add(patience)
	for !js[bool](b, "!!("+expression+")") {
		if time.Now().After(end) {
			require.Fail(b.t, "the page does not become so", "%s\nthe page: %s", expression, js[string](b, "document.body.innerText"))
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// says waits until an element has a text.
func (b *browser) says(selector, text string) {
	b.t.Helper()
	b.until(fmt.Sprintf("document.querySelector(%s)?.textContent.includes(%s)", quoted(selector), quoted(text)))
}

func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// look sets scheme and width.
func (b *browser) look(scheme string, width, height int64) {
	b.t.Helper()
	b.run(chromedp.EmulateViewport(width, height), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	}))
}

// accessible has axe-core look at the page, as it is.
func (b *browser) accessible(what string) {
	b.t.Helper()
	if !js[bool](b, "'axe' in window") {
		b.run(chromedp.Evaluate[chromedp.Void](b.axe + ";null"))
	}
	found := js[[]string](b, `axe.run().then((r) => r.violations.map((v) => v.id + ": " + v.help + ": " + v.nodes.map((n) => n.html + " " + n.failureSummary).join(" | ")))`)
	require.Empty(b.t, found, what)
}
