// SPDX-License-Identifier: GPL-3.0-or-later

// Package page is the front of the status page (HME-050). A browser gets one page, rendered here, and then one stream of what changes in it.
// What the page does, such as to cancel a task, it does by the native API, with a cookie in place of the token.
package page

import (
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/a-h/templ"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// Where the front is mounted: at Root alone, and at Prefix with all that lies under it.
const (
	Root   = "/"
	Prefix = "/page"
)

const (
	eventsPath = Prefix + "/events"
	loginPath  = Prefix + "/login"
	logoutPath = Prefix + "/logout"
)

// Views are what the page shows. The API shows the same.
type Views interface {
	// Pools are the pools with their replicas.
	Pools() []api.HealthView
	GPUs() api.GPUsView
	// Live are the tasks that run, with at most tail bytes of what each has said, and the first tasks that wait in each pool.
	Live(first, tail int) []task.Live
	// Ends changes when a task has ended.
	Ends() uint64
	// Recent are tasks that have ended, the newest first.
	Recent(ctx context.Context, most int) ([]task.Status, error)
	Outlook() task.Outlook
	Swaps() []task.Swap
	Sessions(most int) []task.SessionStatus
	// Budget is what is left for the callers with the token.
	Budget() task.Budgets
	Models() []api.CatalogModel
	Host() Host
}

// Host is the machine, in bytes. 0: it does not tell.
type Host struct {
	MemoryFree, DiskFree int64 // the disk is that of the data folder
}

// Door lets browsers in.
type Door interface {
	Login(r *http.Request, token string) (*http.Cookie, error)
	Logout(r *http.Request) (*http.Cookie, error)
}

// Options are what a Front is made from. Views, Logs, Door, Else and Native are needed.
type Options struct {
	Views   Views
	Logs    api.Logs
	Door    Door
	Else    gate.Front // answers at Root who accepts no HTML
	Native  gate.Front // words what the page refuses
	Version string
	Log     *zap.Logger // default none
}

// Front implements gate.Front.
type Front struct {
	o      Options
	assets map[string]asset
	live   *publisher
}

//go:embed assets
var files embed.FS

// asset is a file of the page, as it is sent.
type asset struct {
	kind          string
	plain, packed []byte
}

// New makes a front.
func New(o Options) (*Front, error) {
	if o.Views == nil || o.Logs == nil || o.Door == nil || o.Else == nil || o.Native == nil {
		return nil, errors.New("page: Views, Logs, Door, Else and Native are needed")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	o.Log = o.Log.Named("page")
	f := &Front{o: o, assets: map[string]asset{}, live: newPublisher(o.Views, o.Log)}
	list, err := files.ReadDir("assets")
	if err != nil {
		return nil, fmt.Errorf("read the page's files: %w", err)
	}
	for _, e := range list {
		b, err := files.ReadFile("assets/" + e.Name())
		if err != nil {
			return nil, fmt.Errorf("read the page's files: %w", err)
		}
		f.assets[Prefix+"/"+e.Name()] = asset{kind: mime.TypeByExtension(path.Ext(e.Name())), plain: b, packed: pack(b)}
	}
	return f, nil
}

// pack compresses what every page loads.
func pack(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b) // a buffer takes all
	_ = z.Close()
	return out.Bytes()
}

// Start lets pages follow the server. It implements lifecycle.Service.
func (f *Front) Start(ctx context.Context) error { return f.live.Start(ctx) }

// Stop ends their streams.
func (f *Front) Stop(ctx context.Context) error { return f.live.Stop(ctx) }

var get, post = []string{http.MethodGet}, []string{http.MethodPost}

// Route implements gate.Front. The page itself, its files and its login are for anybody: who may not call gets the field for the token.
func (f *Front) Route(r *http.Request) gate.Route {
	switch r.URL.Path {
	case Root:
		if !f.browser(r) {
			return f.o.Else.Route(r)
		}
		return gate.Route{Operation: "page.show", Access: gate.Anybody, Methods: get}
	case eventsPath:
		return gate.Route{Operation: "page.events", Methods: get}
	case loginPath:
		return gate.Route{Operation: "page.login", Access: gate.Anybody, Methods: post}
	case logoutPath:
		return gate.Route{Operation: "page.logout", Access: gate.Anybody, Methods: post}
	}
	if _, ok := f.assets[r.URL.Path]; ok {
		return gate.Route{Operation: "page.file", Access: gate.Anybody, Methods: get}
	}
	return gate.Route{}
}

// browser reports whether a request is for the page and not for what else answers there.
func (f *Front) browser(r *http.Request) bool {
	return r.Method == http.MethodGet && acceptsHTML(r.Header.Values("Accept"))
}

// acceptsHTML reports whether a list of media types names HTML. A wildcard does not: clients that are no browsers send it.
func acceptsHTML(accept []string) bool {
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, params, err := mime.ParseMediaType(part)
		if err == nil && kind == "text/html" {
			return strings.Trim(params["q"], "0.") != "" || params["q"] == ""
		}
	}
	return false
}

// Refuse implements gate.Front.
func (f *Front) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.URL.Path == Root && !f.browser(r) {
		f.o.Else.Refuse(w, r, err)
		return
	}
	f.o.Native.Refuse(w, r, err)
}

// ServeHTTP serves a request that the gate has let through.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == Root {
		w.Header().Add("Vary", "Accept")
		if !f.browser(r) {
			f.o.Else.ServeHTTP(w, r)
			return
		}
	}
	route := gate.CallFrom(r.Context()).Route
	var err error
	switch {
	case len(route.Methods) == 0:
		err = task.Errorf(task.NotFound, "there is no path %q: the status page is at /", task.Clip(r.URL.Path, 100))
	case !slices.Contains(route.Methods, r.Method):
		w.Header().Set("Allow", gate.Allow(route.Methods))
		err = task.Errorf(task.MethodNotAllowed, "%s takes %s, not %s", r.URL.Path, strings.Join(route.Methods, ", "), task.Clip(r.Method, 20))
	case r.URL.Path == Root:
		f.show(w, r)
	case r.URL.Path == eventsPath:
		err = f.events(w, r)
	case r.URL.Path == loginPath:
		err = f.login(w, r)
	case r.URL.Path == logoutPath:
		err = f.logout(w, r)
	default:
		f.file(w, r)
	}
	if err != nil {
		f.Refuse(w, r, err)
	}
}

// policy is what the page may do (LO-605).
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// secure sets the headers of everything that the page consists of.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin") // with none, browsers do not say which page sent a form
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// show sends the page, or the field for the token. Who follows a link of another site has no right to either: the browser sends no cookie then, and a page of
// that site may have asked.
func (f *Front) show(w http.ResponseWriter, r *http.Request) {
	switch id := gate.CallFrom(r.Context()).Identity; {
	case id == "" && fromElsewhere(r.Header):
		f.render(w, r, http.StatusOK, again())
	case id == "":
		f.render(w, r, http.StatusOK, entry(""))
	default:
		f.render(w, r, http.StatusOK, shell(f.o.Version, id != gate.Localhost, f.live.now(r.Context())))
	}
}

// fromElsewhere reports whether a browser is on its way here from another site.
func fromElsewhere(h http.Header) bool {
	site := h.Get("Sec-Fetch-Site")
	return h.Get("Sec-Fetch-Mode") == "navigate" && (site == "cross-site" || site == "same-site")
}

func (f *Front) render(w http.ResponseWriter, r *http.Request, status int, c templ.Component) {
	var b bytes.Buffer
	if err := c.Render(r.Context(), &b); err != nil { // a buffer takes all, so the client is gone
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	f.write(w, r, status, asset{kind: "text/html; charset=utf-8", plain: b.Bytes()})
}

// file sends a file of the page.
func (f *Front) file(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-cache")
	f.write(w, r, http.StatusOK, f.assets[r.URL.Path])
}

func (f *Front) write(w http.ResponseWriter, r *http.Request, status int, a asset) {
	secure(w.Header())
	w.Header().Add("Vary", "Accept-Encoding")
	w.Header().Set("Content-Type", a.kind)
	body := a.plain
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		if a.packed == nil {
			a.packed = pack(a.plain)
		}
		w.Header().Set("Content-Encoding", "gzip")
		body = a.packed
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // else the client is gone
}

// maxForm is more than a form with a token takes.
const maxForm = 16 << 10

// login takes the token, and gives a cookie for it.
func (f *Front) login(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxForm+1))
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err := r.ParseForm(); err != nil || len(body) > maxForm {
		return task.Errorf(task.InvalidParams, "this is no form with a token: open / in a browser and log in there")
	}
	c, err := f.o.Door.Login(r, r.PostForm.Get("token"))
	if err != nil {
		refusal := gate.Refuse(err)
		refusal.Log(r.Context(), f.o.Log)
		refusal.SetHeaders(w.Header())
		f.render(w, r, refusal.Status, entry(refusal.Envelope.Message))
		return nil
	}
	return back(w, r, c)
}

func (f *Front) logout(w http.ResponseWriter, r *http.Request) error {
	c, err := f.o.Door.Logout(r)
	if err != nil {
		return err
	}
	return back(w, r, c)
}

// back sends the browser to the page, with a cookie.
func back(w http.ResponseWriter, _ *http.Request, c *http.Cookie) error {
	http.SetCookie(w, c)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Location", Root)
	w.WriteHeader(http.StatusSeeOther)
	return nil
}
