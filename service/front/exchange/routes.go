// SPDX-License-Identifier: GPL-3.0-or-later

package exchange

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// Operation is one call of a dialect.
type Operation struct {
	Name   string // for the log, such as openai.chat
	Serve  func(w http.ResponseWriter, r *http.Request) error
	Upload int64 // as in gate.Route
}

// Routes are a front's operations, by path and method. A path that ends with a slash stands for all that lie under it,
// but / for itself alone.
type Routes map[string]map[string]Operation

// Paths are where the front is to be mounted: what lies under a path comes with it.
func (t Routes) Paths() (paths []string) {
	for path := range t {
		paths = append(paths, strings.TrimSuffix(path, "/"))
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// find returns the operations of a path, by method; nil: there is no such path.
func (t Routes) find(path string) map[string]Operation {
	if o, ok := t[path]; ok {
		return o
	}
	best := ""
	for at := range t {
		if len(at) > 1 && strings.HasSuffix(at, "/") && strings.HasPrefix(path, at) && len(at) > len(best) {
			best = at
		}
	}
	return t[best]
}

// Route says what the gate needs to know of a request.
func (t Routes) Route(r *http.Request) gate.Route {
	at := t.find(r.URL.Path)
	o := at[r.Method]
	return gate.Route{Operation: o.Name, Upload: o.Upload, Methods: slices.Sorted(maps.Keys(at))}
}

// Serve has the request's operation serve it. The error is what the front is to refuse it with.
func (t Routes) Serve(w http.ResponseWriter, r *http.Request) error {
	Identify(w.Header(), r)
	at := t.find(r.URL.Path)
	o, ok := at[r.Method]
	switch {
	case at == nil:
		return NoPath(r)
	case !ok:
		return NoMethod(w, r, at)
	}
	return o.Serve(w, r)
}

// NoPath refuses a path that there is not.
func NoPath(r *http.Request) error {
	return task.Errorf(task.NotFound, "there is no path %q", task.Clip(r.URL.Path, 100))
}

// NoMethod refuses a method that is not among those of a path.
func NoMethod[T any](w http.ResponseWriter, r *http.Request, methods map[string]T) error {
	allowed := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
	w.Header().Set("Allow", allowed)
	return task.Errorf(task.MethodNotAllowed, "%s takes %s, not %s", task.Clip(r.URL.Path, 100), allowed, task.Clip(r.Method, 20))
}

// Identify gives an answer the request's id (LO-402).
func Identify(h http.Header, r *http.Request) {
	id := gate.CallFrom(r.Context()).CorrelationID
	h.Set("X-Request-Id", id)
	h.Set("Request-Id", id)
}

// Under is what a request's path has behind a path that ends with a slash.
func Under(r *http.Request, path string) string { return strings.TrimPrefix(r.URL.Path, path) }
