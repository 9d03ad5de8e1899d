// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"fmt"
	"net/http"
	"sync"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
)

// flood has the daemon write a line for each of so many requests, and one more about a path.
func (x *box) flood(lines int, path string) {
	x.t.Helper()
	const clients = 8
	var all sync.WaitGroup
	problems := make(chan error, clients)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	defer client.CloseIdleConnections()
	get := func(path string) error {
		r, err := http.NewRequestWithContext(x.t.Context(), http.MethodGet, x.url(path), nil)
		if err != nil {
			return err
		}
		answer, err := client.Do(r)
		if err != nil {
			return err
		}
		return answer.Body.Close()
	}
	for range clients {
		all.Go(func() {
			for range lines / clients {
				if err := get("/healthz"); err != nil {
					problems <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(problems)
	for err := range problems {
		require.NoError(x.t, err)
	}
	require.NoError(x.t, get(path))
}

func (x *box) logs() {
	const shown = "document.querySelectorAll('#log-lines p').length"
	x.view("logs")
	x.b.until(shown + " > 10")
	x.b.says("#log-lines", "debug")
	x.flood(8, "/v1/%3Cb%20id=evil%3E")
	x.b.says("#log-lines", "<b id=evil>")
	require.True(x.t, js[bool](x.b, "document.getElementById('evil') === null"))

	// A flood moves past, and the page stays as small as it is.
	x.flood(6000, "/v1/behind-the-flood")
	x.b.says("#log-lines", "behind-the-flood")
	require.LessOrEqual(x.t, js[int](x.b, shown), 500)
	x.b.says("#log-count", "the newest 500")
	require.True(x.t, js[bool](x.b, "(({ scrollTop, clientHeight, scrollHeight }) => scrollHeight - scrollTop - clientHeight < 2)(document.getElementById('log-lines'))"), "it follows")

	// Held still, nothing moves until it is let go, and then nothing of the newest is missing.
	x.b.run(chromedp.Click(chromedp.CSS("#log-hold")))
	x.flood(8, "/v1/while-it-was-held")
	x.b.says("#log-count", "more")
	require.False(x.t, js[bool](x.b, "document.getElementById('log-lines').textContent.includes('while-it-was-held')"))
	x.b.until("parseInt(document.getElementById('log-count').textContent) >= 9")
	x.b.run(chromedp.Click(chromedp.CSS("#log-hold")))
	x.b.says("#log-lines", "while-it-was-held")

	// By level, pool and text.
	x.filter("level", "warn")
	x.b.until(fmt.Sprintf("![...document.querySelectorAll('#log-lines .state')].some((e) => !/warn|error/.test(e.textContent)) && document.getElementById('log-count').textContent !== 'the newest 500' && %s >= 0", shown))
	x.filter("level", "")
	x.filter("pool_id", "quick")
	x.submit("not-this-pool", "say something", "")
	_, err := x.served.Client.Submit(x.t.Context(), []byte(`{"task_id":"this-pool","model_ref":"quick","prompt":"say something","max_tokens":4}`))
	require.NoError(x.t, err)
	x.b.until("document.querySelector('#log-lines [data-task=this-pool]')")
	require.Zero(x.t, js[int](x.b, "document.querySelectorAll('#log-lines [data-task=not-this-pool]').length"))
	x.filter("pool_id", "")
	x.filter("text", "WHILE-IT-was")
	x.b.until(shown + " === 1")

	// A task leads to its lines, live, and they lead to the task.
	x.fake.SetScript(fakeengine.Script{Stepped: true})
	x.submit("followed", "for ever", "")
	x.view("overview")
	x.b.until("document.querySelector('[data-key=followed] [data-task]')")
	x.b.run(chromedp.Click(chromedp.CSS("[data-key=followed] [data-task]")))
	x.b.until("document.getElementById('task').open && document.querySelector('#task-body dl')")
	x.b.run(chromedp.Click(chromedp.CSS("[data-do=why]")))
	x.b.says("#task-said", "It would wait in pool lab") // its only slot is busy
	x.fake.Release(1)
	x.b.says("#task-body", "1 out")
	x.b.says("#task-why", "slots are busy") // while the facts change
	x.b.run(chromedp.Click(chromedp.CSS("#task [data-log]")))
	x.b.until("!document.getElementById('logs').hidden && !document.getElementById('task').open")
	x.b.says("#log-lines", "followed")
	before := js[int](x.b, shown)
	_, err = x.served.Client.Cancel(x.t.Context(), "followed")
	require.NoError(x.t, err)
	x.b.until(fmt.Sprintf("%s > %d", shown, before))
	require.Zero(x.t, js[int](x.b, "[...document.querySelectorAll('#log-lines p')].filter((e) => !e.querySelector('[data-task=followed]') && !e.textContent.includes('followed')).length"))
	x.b.run(chromedp.Click(chromedp.CSS("#log-lines [data-task=followed]")))
	x.b.until("document.getElementById('task').open")
	x.b.run(chromedp.Click(chromedp.CSS("[data-do=close]")))
	x.fake.Reset()
}

// filter sets a part of the filter, as a user does who goes on to the next field.
func (x *box) filter(name, value string) {
	x.t.Helper()
	field := "#log-form [name=" + name + "]"
	x.b.run(chromedp.SetValue(chromedp.CSS(field), value))
	js[bool](x.b, fmt.Sprintf("document.querySelector(%s).dispatchEvent(new Event('change', { bubbles: true }))", quoted(field)))
}
