// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
)

// lastWanted has the answer about one task come behind that about another, which was asked for later.
func (x *box) lastWanted() {
	x.submit("second", "tell me more", "")
	x.view("tasks")
	x.b.run(chromedp.Click(chromedp.CSS("#tasks-form button")))
	x.b.until("document.querySelector('#tasks-rows [data-task=second]')")
	require.True(x.t, js[bool](x.b, `(() => {
		const real = window.fetch;
		window.held = new Promise((go) => { window.release = go; });
		window.fetch = async (path, ...rest) => {
			if (String(path) === "/v1/tasks") window.sent = JSON.parse(rest[0].body);
			const answer = await real(path, ...rest);
			if (String(path) === "/v1/tasks/told") {
				await window.held;
				setTimeout(() => { window.came = true; }, 200);
			}
			return answer;
		};
		document.querySelector("#tasks-rows [data-task=told]").click();
		document.querySelector("#tasks-rows [data-task=second]").click();
		return true;
	})()`))
	x.b.until("!document.getElementById('task-proof').hidden")
	x.b.run(chromedp.Evaluate[chromedp.Void]("window.release();null"))
	x.b.until("window.came")
	require.Equal(x.t, "Task second", js[string](x.b, "document.getElementById('task-title').textContent"))
	require.Equal(x.t, "proof-second.json", js[string](x.b, "document.getElementById('task-proof').download"))
	x.b.run(chromedp.Click(chromedp.CSS("[data-do=replay]")))
	x.b.says("#task-said", "The same transcript as before")
	require.Equal(x.t, "second", js[string](x.b, "window.sent.replay_of"), "the one that is shown is sent again")
	x.b.run(chromedp.Click(chromedp.CSS("[data-do=close]")))
}

// asksOnce clicks twice before the first task is there.
func (x *box) asksOnce() {
	x.fake.SetScript(fakeengine.Script{Stepped: true})
	x.view("playground")
	x.b.until("document.querySelector('#play [name=first]').options.length >= 4")
	x.b.run(chromedp.SetValue(chromedp.CSS("#play [name=first]"), "lab"), chromedp.SetValue(chromedp.CSS("#play [name=second]"), ""), chromedp.SendKeys(chromedp.CSS("#words"), "once"))
	x.b.run(chromedp.Evaluate[chromedp.Void]("for (let i = 0; i < 3; i++) document.querySelector('#play [type=submit]').click();null"))
	x.b.until("!document.getElementById('halt').disabled")
	require.Equal(x.t, 1, js[int](x.b, "document.querySelectorAll('[data-talk=first] .asked').length"))
	body, err := x.served.Client.Get(x.t.Context(), "/v1/tasks?limit=500")
	require.NoError(x.t, err)
	live := strings.Count(string(body), `"state":"running"`) + strings.Count(string(body), `"state":"queued"`)
	require.Equal(x.t, 1, live)
	x.b.run(chromedp.Click(chromedp.CSS("#halt")))
	x.b.says("[data-facts=first]", "canceled")
	x.fake.Reset()
}

// linked follows links of pages elsewhere: on another port of this machine, and on another site.
func (x *box) linked() {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, "<!DOCTYPE html><title>elsewhere</title><link rel=icon href='data:,'><a href=%q>there</a>", x.url("/"))
	}))
	defer end(other)
	for _, at := range []string{other.URL, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)} {
		x.b.run(chromedp.Navigate(at), chromedp.Click(chromedp.CSS("a")))
		x.b.says("#link", "live")
	}
}
