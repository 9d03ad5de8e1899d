// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/nvmlstub"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/source"
	"github.com/llama-orch/llama-orch/harness/standin"
)

// The pools: three models that take turns on the cards, or have one, and two engines that do as they are told.
const config = `
bind_addr: %[1]s
data_dir: state
auth: {optional_on_loopback: true}
log: {level: debug}
budgets: {session: {tokens: 5000}}
policy: {allow: ["*", "127.0.0.1", "localhost"]}
catalog: {folders: [.], endpoints: {hf: %[6]q}}
pools:
  - {id: writer, model: {id: writer, ref: "file:writer.gguf"}, ctx: 256, device: [0], lifecycle: on_demand, provisioning: {mode: binary, path: %[2]q, args: %[3]s}}
  - {id: coder, model: {id: coder, ref: "file:coder.gguf"}, ctx: 256, device: [1], provisioning: {mode: binary, path: %[2]q, args: %[3]s}}
  - {id: lab, model: {id: lab, ref: label}, queue: {capacity: 2000}, timeouts: {wall: 10m, idle: 10m}, provisioning: {mode: external, urls: [%[4]q]}}
  - {id: quick, model: {id: quick, ref: label}, provisioning: {mode: external, urls: %[5]s}}
`

const token = "a-token-of-the-lab-1234"

// box is what the cases share.
type box struct {
	t      testing.TB
	lab    *daemon.Lab
	dir    string
	env    map[string]string
	fake   *fakeengine.Engine // of pool lab: one slot
	hub    *source.Source     // of models
	addr   string
	config string
	served *daemon.Daemon
	b      *browser
}

func end(s *httptest.Server) {
	s.CloseClientConnections()
	s.Close()
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func newBox(t testing.TB) *box {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	lab, err := daemon.NewLab(t.Context(), dir, "../..")
	require.NoError(t, err)
	x := &box{t: t, lab: lab, dir: dir, fake: fakeengine.New(fakeengine.Options{}), addr: freeAddr(t), config: filepath.Join(dir, "c.yaml")}
	lib, exe, state := filepath.Join(dir, "nvml"), filepath.Join(dir, "standin"), filepath.Join(dir, "cards")
	require.NoError(t, os.MkdirAll(lib, 0o700))
	_, err = nvmlstub.Build(lib)
	require.NoError(t, err)
	require.NoError(t, standin.Build(t.Context(), lab.Root, exe))
	cards := nvmlstub.Reference()
	cards.Cards[0].Processes = []nvmlstub.Process{{PID: 4194305, Used: 3 << 30}}
	require.NoError(t, cards.Write(state))
	require.NoError(t, standin.WriteModel(filepath.Join(dir, "writer.gguf"), "writer", 14<<30))
	require.NoError(t, standin.WriteModel(filepath.Join(dir, "coder.gguf"), "coder", 5<<30))
	args, err := json.Marshal(standin.Args(state, lab.Model, lab.Libs))
	require.NoError(t, err)
	slow := httptest.NewServer(x.fake)
	t.Cleanup(func() { end(slow) })
	var quick []string // with the others, ten replicas
	for range 7 {
		s := httptest.NewServer(fakeengine.New(fakeengine.Options{}))
		t.Cleanup(func() { end(s) })
		quick = append(quick, s.URL)
	}
	x.hub, err = source.Hub()
	require.NoError(t, err)
	t.Cleanup(func() { end(x.hub.Server) })
	urls, err := json.Marshal(quick)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(x.config, fmt.Appendf(nil, config, x.addr, exe, args, slow.URL, urls, x.hub.Server.URL), 0o600))
	x.env = map[string]string{"LD_LIBRARY_PATH": lib, nvmlstub.Env: state}
	t.Cleanup(func() { lab.Close() })
	x.serve("")
	t.Cleanup(func() { x.served.Kill() })
	return x
}

// serve starts the daemon; with a token, callers on this machine need it too.
func (x *box) serve(token string) {
	env, conf := map[string]string{"LLORCH_API_TOKEN": token}, x.config
	maps.Copy(env, x.env)
	if token != "" {
		text, err := os.ReadFile(x.config)
		require.NoError(x.t, err)
		conf = filepath.Join(x.dir, "locked.yaml")
		require.NoError(x.t, os.WriteFile(conf, bytes.Replace(text, []byte("optional_on_loopback: true"), []byte("optional_on_loopback: false"), 1), 0o600))
	}
	var err error
	x.served, err = x.lab.Serve(x.t.Context(), daemon.Options{Config: conf, Token: token, Options: process.Options{
		Name: "the daemon", Args: []string{"--no-self-test"}, // which would wait on an engine that is told to
		Env: x.lab.Env(x.dir, env),
	}})
	require.NoError(x.t, err)
}

func (x *box) url(path string) string { return "http://" + x.addr + path }

// submit sends a task of pool lab.
func (x *box) submit(id, prompt, more string) {
	x.t.Helper()
	words, err := json.Marshal(prompt)
	require.NoError(x.t, err)
	_, err = x.served.Client.Submit(x.t.Context(), fmt.Appendf(nil, `{"task_id":%q,"model_ref":"lab","prompt":%s,"max_tokens":64%s}`, id, words, more))
	require.NoError(x.t, err)
}

// state is the state of a task, as the API has it.
func (x *box) state(id string) string {
	x.t.Helper()
	body, err := x.served.Client.Get(x.t.Context(), "/v1/tasks/"+id)
	require.NoError(x.t, err)
	var s struct {
		State string `json:"state"`
	}
	require.NoError(x.t, json.Unmarshal(body, &s))
	return s.State
}

// view opens a view of the page.
func (x *box) view(name string) {
	x.t.Helper()
	x.b.run(chromedp.Navigate("about:blank"), chromedp.Navigate(x.url("/#"+name)))
	x.b.until(fmt.Sprintf("document.getElementById(%q) && !document.getElementById(%q).hidden", name, name))
	x.b.says("#link", "live")
}

// act is an answer to a request that comes with a cookie, or none, as a browser would send it from a page of an origin.
func (x *box) act(method, path, body, cookie, origin string) (int, http.Header) {
	x.t.Helper()
	r, err := http.NewRequestWithContext(x.t.Context(), method, x.url(path), strings.NewReader(body))
	require.NoError(x.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", origin)
	r.AddCookie(&http.Cookie{Name: "llorch_session", Value: cookie})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(r)
	require.NoError(x.t, err)
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	require.NoError(x.t, err)
	return answer.StatusCode, answer.Header
}

// One daemon and one browser, through every view.
//
// HME-050, LO-603, LO-604, LO-605, LO-606, LO-607, LO-608, LO-609, LO-610, LO-611, LO-612, LO-616
func TestPage(t *testing.T) {
	x := newBox(t)
	x.b = open(t)
	x.b.look("light", 1280, 900)
	for _, c := range []struct {
		name string
		run  func(*box)
	}{
		{"the overview follows the server", (*box).overview},
		{"a click cancels a task", (*box).cancels},
		{"the queue is long", (*box).longQueue},
		{"a task has its receipt, its proof and its reasons", (*box).details},
		{"the task that was asked for last is shown", (*box).lastWanted},
		{"models are loaded and unloaded", (*box).switches},
		{"a model is fetched", (*box).fetches},
		{"the playground asks two models", (*box).playground},
		{"the playground asks once", (*box).asksOnce},
		{"a link of another site leads to the page", (*box).linked},
		{"the log follows the server", (*box).logs},
		{"by keyboard alone", (*box).keyboard},
		{"everything is accessible", (*box).accessible},
		{"the screenshots", (*box).shots},
		{"the page comes back after the daemon was killed", (*box).killed},
		{"with a token there is a login", (*box).login},
	} {
		if !t.Run(c.name, func(t *testing.T) {
			x.t, x.b.t = t, t
			c.run(x)
			x.b.quiet()
		}) {
			return
		}
	}
}

// Text from outside is text.
func (x *box) overview() {
	x.fake.SetScript(fakeengine.Script{Text: []string{"first ", "<b id='evil'>bold</b> ", "third "}, Tokens: 3, Stepped: true})
	x.view("overview")
	x.b.says("[data-group=pools]", "quick")
	x.b.says("[data-group=cards]", "NVIDIA GeForce RTX 3090")
	x.b.says("[data-group=cards]", "41 °C")
	x.b.says("[data-group=cards]", "coder")
	x.b.says("[data-group=cards]", "other programs 3.3 GiB")
	x.submit("runs", "<script id='evil'>document.title='evil'</script>", "")
	x.b.says("[data-group=running] [data-key=runs]", "running")
	x.fake.Release(2)
	x.b.says("[data-key=runs] .says", "first <b id='evil'>bold</b>")
	x.submit("waits", "later", `,"deadline_ms":3600000`)
	x.b.says("[data-group=waiting] [data-key=waits]", "lab")
	x.b.says("[data-key=waits]", "100 %")
	x.b.says("[data-key=waiting] .value", "1")
	x.b.until("document.querySelector('[data-key=waits] time').textContent.match(/^(\\d+ (s|m|h)|any moment)/)")
	x.fake.Release(10)
	x.b.says("[data-group=recent] [data-key=runs]", "completed")
	x.b.says("[data-group=running]", "Nothing runs")
	x.b.says("[data-group=outlook]", "started when it was predicted")
	require.True(x.t, js[bool](x.b, "document.getElementById('evil') === null && document.title === 'llama-orch'"))
	x.fake.Reset()
}

func (x *box) cancels() {
	x.fake.SetScript(fakeengine.Script{Stepped: true})
	x.submit("cancel-me", "for ever", "")
	x.submit("me-too", "waits", "")
	for _, id := range []string{"me-too", "cancel-me"} {
		button := fmt.Sprintf("[data-key=%s] [data-call]", id)
		x.b.until(fmt.Sprintf("document.querySelector(%q)", button))
		x.b.run(chromedp.Click(chromedp.CSS(button)))
		x.b.says("#said", "Cancel: "+id)
		x.b.says("[data-group=recent] [data-key="+id+"]", "canceled")
		require.Equal(x.t, "canceled", x.state(id))
	}
	x.fake.Reset()
}

const many = 1000

// fill has one task run and many wait.
func (x *box) fill() {
	x.t.Helper()
	x.fake.SetScript(fakeengine.Script{Stepped: true})
	for i := range many + 1 {
		x.submit(fmt.Sprintf("many-%04d", i), "one of many", `,"priority":"batch"`)
	}
}

// Of a thousand tasks the page has a few, and what it is sent stays small.
func (x *box) longQueue() {
	x.fill()
	x.b.says("[data-key=waiting] .value", fmt.Sprint(many))
	x.b.says("[data-group=waiting]", fmt.Sprintf("and %d more in the queue of lab", many-20))
	require.Equal(x.t, 21, js[int](x.b, "document.querySelectorAll('[data-group=waiting] tr').length"))
	x.b.run(chromedp.Click(chromedp.CSS("[data-group=waiting] a[data-state]")))
	x.b.says("#tasks-count", "100 of the newest 500")
	require.Equal(x.t, 100, js[int](x.b, "document.querySelectorAll('#tasks-rows tr').length"))
	x.b.run(chromedp.Click(chromedp.CSS("#tasks-more")))
	x.b.says("#tasks-count", "200 of the newest 500")
	js[bool](x.b, "document.querySelector('#tasks-rows [data-call]').focus() || true")
	held := js[string](x.b, "document.activeElement.dataset.path")
	x.submit("newest", "one more", `,"priority":"batch"`)
	x.b.until("document.querySelector('#tasks-rows tr')?.dataset.key === 'newest'") // by itself
	require.Equal(x.t, held, js[string](x.b, "document.activeElement.dataset.path"), "the focus stays on its task")
	require.Equal(x.t, 200, js[int](x.b, "document.querySelectorAll('#tasks-rows tr').length"))
	size, files := x.loads()
	require.Less(x.t, size, 100_000.0, "LO-608")
	require.Greater(x.t, files, 5, "style, scripts and the page itself")
	x.fake.Release(1)
}

// cancelAll cancels all tasks of a state.
func (x *box) cancelAll(state string) {
	x.t.Helper()
	for left := true; left; {
		body, err := x.served.Client.Get(x.t.Context(), "/v1/tasks?limit=500&state="+state)
		require.NoError(x.t, err)
		var list struct {
			Tasks []struct {
				ID string `json:"task_id"`
			} `json:"tasks"`
		}
		require.NoError(x.t, json.Unmarshal(body, &list))
		for _, task := range list.Tasks {
			_, err := x.served.Client.Cancel(x.t.Context(), task.ID)
			require.NoError(x.t, err)
		}
		left = len(list.Tasks) > 0
	}
}

func (x *box) details() {
	x.cancelAll("queued") // the thousand go
	x.cancelAll("running")
	x.fake.Reset()
	x.submit("told", "tell me", "")
	x.view("tasks")
	x.b.run(chromedp.Click(chromedp.CSS("#tasks-form button")))
	x.b.until("document.querySelector('#tasks-rows [data-task=told]')")
	x.b.run(chromedp.Click(chromedp.CSS("#tasks-rows [data-task=told]")))
	x.b.says("#task-body", "transcript sha256")
	x.b.until("!document.getElementById('task-proof').hidden")
	require.Equal(x.t, 200.0, js[float64](x.b, "fetch(document.getElementById('task-proof').href).then((r) => r.status)"))
	x.b.run(chromedp.Click(chromedp.CSS("[data-do=why]")))
	x.b.says("#task-said", "It would run on lab-0")
	x.b.says("#task-why", "chosen: lab-0")
	x.b.says("#task-why", "Why it ran on lab-0")
	x.b.run(chromedp.Click(chromedp.CSS("[data-do=replay]")))
	x.b.says("#task-said", "The same transcript as before")
	x.fake.SetScript(fakeengine.Script{Text: []string{"something ", "else "}}) // a replica that breaks its promise
	x.b.run(chromedp.Click(chromedp.CSS("[data-do=replay]")))
	x.b.says("#task-said", "Another transcript than before")
	x.fake.Reset()
	x.b.run(chromedp.Click(chromedp.CSS("[data-do=close]")))
	x.b.until("!document.getElementById('task').open")
}

func (x *box) switches() {
	x.view("models")
	x.b.says("[data-group=switches] [data-key=writer]", "unloaded")
	x.b.run(chromedp.Click(chromedp.CSS("[aria-label='Load writer']")))
	x.b.says("[data-group=switches] [data-key=writer]", "ready")
	require.NotEmpty(x.t, js[string](x.b, "document.querySelector('[data-group=cards] .ours0')?.getAttribute('width') || ''"), "its memory is in the bar")
	x.b.says("[data-group=swaps]", "somebody asked for it")
	require.Zero(x.t, js[int](x.b, "document.querySelectorAll(\"[aria-label='Unload coder']\").length"), "it is pinned")
	x.b.run(chromedp.Click(chromedp.CSS("[aria-label='Drain coder']")))
	x.b.says("[data-group=switches] [data-key=coder]", "drained")
	x.b.run(chromedp.Click(chromedp.CSS("[aria-label='Resume coder']")))
	x.b.says("[data-group=switches] [data-key=coder]", "ready")
	x.b.run(chromedp.Click(chromedp.CSS("[aria-label='Unload writer']")))
	x.b.says("[data-group=switches] [data-key=writer]", "unloaded")
	_, err := x.served.Client.Submit(x.t.Context(), []byte(`{"task_id":"wakes","model_ref":"writer","prompt":"Write a haiku about rain containing \"seven\".\n\n","max_tokens":16,"session_id":"00000000-0000-4000-8000-000000000001"}`))
	require.NoError(x.t, err)
	x.b.says("[data-group=swaps]", "load writer")
	x.b.says("[data-group=swaps]", "1 task waits for it")
	x.b.says("[data-group=recent] [data-key=wakes]", "completed")
	x.b.says("[data-group=sessions]", "00000000-0000-4000-8000-000000000001")
	x.b.until("/49\\d\\d tokens/.test(document.querySelector('[data-group=sessions]').textContent)") // of 5000
}

func (x *box) playground() {
	x.view("playground")
	x.b.until("document.querySelector('#play [name=first]').options.length >= 4")
	x.b.run(
		chromedp.SetValue(chromedp.CSS("#play [name=first]"), "lab"), chromedp.SetValue(chromedp.CSS("#play [name=second]"), "quick"),
		chromedp.SetValue(chromedp.CSS("#play [name=seed]"), "7"), chromedp.SetValue(chromedp.CSS("#play [name=max_tokens]"), "12"),
		chromedp.SendKeys(chromedp.CSS("#words"), "say <i>something</i>"), chromedp.Click(chromedp.CSS("#play [type=submit]")),
	)
	for _, side := range []string{"first", "second"} {
		x.b.says("[data-facts="+side+"]", "12 tokens")
		x.b.says("[data-facts="+side+"]", "seed 7")
		x.b.says("[data-talk="+side+"]", "say <i>something</i>")
	}
	// Stop is a cancel.
	x.fake.SetScript(fakeengine.Script{Stepped: true})
	x.b.run(chromedp.SetValue(chromedp.CSS("#play [name=second]"), ""), chromedp.Focus(chromedp.CSS("#words")), chromedp.KeyEvent(kb.Enter, chromedp.KeyModifiers(chromedp.ModifierCtrl)))
	x.b.until("!document.getElementById('halt').disabled")
	x.b.run(chromedp.Click(chromedp.CSS("#halt")))
	x.b.says("[data-facts=first]", "canceled")
	x.fake.Reset()
	// A chat goes on.
	x.b.run(chromedp.SetValue(chromedp.CSS("#play [name=kind]"), "chat"), chromedp.Click(chromedp.CSS("#anew")))
	for turn := range 2 {
		x.b.run(chromedp.Click(chromedp.CSS("#play [type=submit]")))
		x.b.until(fmt.Sprintf("document.querySelectorAll('[data-talk=first] .asked').length === %d && document.querySelector('[data-facts=first]').textContent.includes('12 tokens')", turn+1))
	}
	x.b.until("!document.querySelector('#play [type=submit]').disabled")
}

// From the top of the page to a canceled task without a mouse.
func (x *box) keyboard() {
	x.fake.SetScript(fakeengine.Script{Stepped: true})
	x.submit("by-key", "for ever", "")
	x.view("overview")
	x.b.until("document.querySelector('[data-key=by-key] [data-call]')")
	reach := func(what string) {
		x.t.Helper()
		for range 60 {
			x.b.run(chromedp.KeyEvent(kb.Tab))
			if js[bool](x.b, "document.activeElement.matches("+quoted(what)+")") {
				require.True(x.t, js[bool](x.b, "document.activeElement.matches(':focus-visible') && getComputedStyle(document.activeElement).outlineStyle !== 'none'"), "the focus is seen")
				return
			}
		}
		require.Fail(x.t, "the keyboard does not get to "+what)
	}
	reach(".skip")
	reach("nav a[href='#models']")
	x.b.run(chromedp.KeyEvent(kb.Enter))
	x.b.until("!document.getElementById('models').hidden")
	require.Equal(x.t, "main", js[string](x.b, "document.activeElement.id"), "the focus goes with the view")
	x.view("overview")
	reach("[data-key=by-key] [data-task]")
	x.b.run(chromedp.KeyEvent(kb.Enter))
	x.b.until("document.getElementById('task').open")
	x.b.run(chromedp.KeyEvent(kb.Escape))
	x.b.until("!document.getElementById('task').open")
	reach("[data-key=by-key] [data-call]")
	x.fake.Release(3) // the row changes under the focus
	x.b.says("[data-key=by-key] [data-name=Tokens]", "3")
	require.True(x.t, js[bool](x.b, "document.activeElement.matches('[data-key=by-key] [data-call]')"), "the focus stays while the row changes")
	x.b.run(chromedp.KeyEvent(kb.Enter))
	x.b.says("[data-group=recent] [data-key=by-key]", "canceled")
	x.fake.Reset()
}

// busy has one task run and others wait.
func (x *box) busy() {
	x.fake.SetScript(fakeengine.Script{Stepped: true, Text: strings.SplitAfter(haiku, " ")})
	x.fake.Release(14)
	for i := range 12 {
		_, err := x.served.Client.Submit(x.t.Context(), fmt.Appendf(nil, `{"task_id":"line-%d","model_ref":"quick","prompt":"a line %[1]d","max_tokens":%d}`, i+1, 16+7*i%40))
		require.NoError(x.t, err)
	}
	for i, about := range []string{"winter", "the sea", "a train", "an old pond", "first light"} {
		more := `,"priority":"batch"`
		if i%2 == 1 {
			more = `,"deadline_ms":90000`
		}
		x.submit(fmt.Sprintf("haiku-%s", strings.ReplaceAll(about, " ", "-")), "Write about "+about, more)
	}
}

const haiku = "the old clock strikes ten / snow lies deep upon the roof / somewhere a dog barks "

func (x *box) accessible() {
	x.busy()
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 390} {
			x.b.look(scheme, width, 900)
			for _, view := range []string{"overview", "tasks", "models", "logs", "playground"} {
				x.view(view)
				if view == "tasks" {
					x.b.until("document.querySelector('#tasks-rows tr')")
				}
				if view == "logs" {
					x.b.until("document.querySelectorAll('#log-lines p').length > 5")
				}
				x.b.accessible(fmt.Sprintf("%s, %s, %d wide", view, scheme, width))
				require.LessOrEqual(x.t, js[int](x.b, "document.documentElement.scrollWidth"), int(width), "%s is no wider than the screen", view)
			}
			x.view("overview")
			x.b.run(chromedp.Click(chromedp.CSS("[data-group=recent] [data-task]")))
			x.b.until("document.querySelector('#task-body dl')")
			x.b.accessible("the dialog, " + scheme)
		}
	}
	x.b.look("light", 1280, 900)
}

// The stream goes on with a server that knows nothing of the last one.
func (x *box) killed() {
	x.view("logs")
	x.b.until("document.querySelector('#log-lines p')")
	x.served.Kill()
	x.b.says("#link", "not connected")
	x.fake.Reset()
	x.serve("")
	x.b.says("#link", "live")
	x.b.says("#log-lines", "addr="+x.addr)
	x.b.run(chromedp.Click(chromedp.CSS("nav a[href='#overview']")))
	x.submit("after", "the restart", "")
	x.b.says("[data-group=recent] [data-key=after]", "completed")
	x.b.quiet("ERR_")
}

func (x *box) login() {
	code, err := x.served.Stop(syscall.SIGTERM)
	require.NoError(x.t, err)
	require.Zero(x.t, code, "an open page does not hold up the stop")
	x.serve(token)
	own := x.url("")
	x.b.run(chromedp.Navigate(x.url("/")))
	x.b.until("document.querySelector('#token')")
	x.b.accessible("the login")
	x.b.run(chromedp.SendKeys(chromedp.CSS("#token"), "a wrong one"+kb.Enter))
	x.b.says(".problem", "the token is not this server's")
	x.b.quiet("401", "ERR_")
	x.b.run(chromedp.SendKeys(chromedp.CSS("#token"), token+kb.Enter))
	x.b.says("#link", "live")
	require.Empty(x.t, js[string](x.b, "document.cookie"), "no script sees the cookie")
	x.linked()
	x.b.run(chromedp.Navigate(x.url("/#tasks")))
	x.b.until("document.querySelector('#tasks-rows [data-task=after]')")
	x.served.Kill()
	x.serve(token)
	x.b.says("#link", "live")
	x.b.run(chromedp.Click(chromedp.CSS("form[action='/page/logout'] button")))
	x.b.until("document.querySelector('#token')")
	x.b.quiet("ERR_")

	status, header := x.act(http.MethodPost, "/page/login", "token="+token, "", own)
	require.Equal(x.t, http.StatusSeeOther, status)
	set, err := http.ParseSetCookie(header.Get("Set-Cookie"))
	require.NoError(x.t, err)
	require.True(x.t, set.HttpOnly)
	require.Equal(x.t, http.SameSiteStrictMode, set.SameSite)
	require.NotContains(x.t, set.Value, token)
	for _, c := range []struct {
		method, path, cookie, origin string
		status                       int
	}{
		{http.MethodGet, "/v1/tasks", set.Value, own, http.StatusOK},
		{http.MethodGet, "/v1/tasks", "x" + set.Value[1:], own, http.StatusUnauthorized},
		{http.MethodGet, "/v1/tasks", "", own, http.StatusUnauthorized},
		{http.MethodPost, "/v1/tasks/after/cancel", set.Value, own, http.StatusOK},
		{http.MethodPost, "/v1/tasks/after/cancel", set.Value, "http://elsewhere.example", http.StatusForbidden},
		{http.MethodPost, "/v1/tasks/after/cancel", set.Value, "", http.StatusForbidden},
		{http.MethodPost, "/page/login", "", "http://elsewhere.example", http.StatusForbidden},
		{http.MethodPost, "/page/logout", set.Value, "http://elsewhere.example", http.StatusForbidden},
		{http.MethodGet, "/page/events", "", own, http.StatusUnauthorized},
		{http.MethodPost, "/page/logout", set.Value, own, http.StatusSeeOther},
		{http.MethodGet, "/v1/tasks", set.Value, own, http.StatusUnauthorized},
	} {
		status, _ := x.act(c.method, c.path, "token="+token, c.cookie, c.origin)
		require.Equal(x.t, c.status, status, "%+v", c)
	}
}
