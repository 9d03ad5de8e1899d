// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// ofCommands are the settings that only pools of engine command have, and ofOthers those that only the others have (LO-466).
var (
	ofCommands = []string{"routes", "health", "memory"}
	ofOthers   = []string{
		"workload", "ctx", "threads", "sampler_profile", "params", "price", "determinism", "model.name",
	}
)

// routePattern is what a route has to match: a plain path, or all paths below one.
var routePattern = regexp.MustCompile(`^(/[A-Za-z0-9][A-Za-z0-9._~-]*)+(/\*)?$`)

// taken are the paths that this server has itself, each with what lies below it. A rerank may be passed through, and then goes by its model.
var taken = []string{
	"/v1/tasks", "/v1/sessions", "/v1/capabilities", "/v1/pools", "/v1/gpus", "/v1/placement", "/v1/config", "/v1/workers", "/v1/catalog", "/v1/artifacts",
	"/v1/hosts", "/v1/chat", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/responses", "/v1/files", "/v1/batches", "/v1/messages",
	"/api", "/metrics", "/healthz", "/readyz", "/upstream",
}

// Taken reports whether a route would take a path of this server's own, and which.
func Taken(route string) (path string, is bool) {
	at, below := strings.CutSuffix(route, "/*")
	for _, own := range taken {
		if at == own || strings.HasPrefix(at, own+"/") || below && strings.HasPrefix(own, at+"/") {
			return own, true
		}
	}
	return "", false
}

// command checks what is peculiar to a pool of engine command, and refuses elsewhere what only such a pool has.
func (c *Config) command(ps *problems, p *Pool, path string) {
	if p.Engine == "" { // it could not be read
		return
	}
	at := func(field string) position { return c.where.of(path + "." + field) }
	without, remedy := ofCommands, "remove it, or set engine: command"
	if p.Engine == task.Command {
		without, remedy = ofOthers, "remove it: nothing is known of what the server does with a request"
	}
	for _, field := range without {
		if c.where.set(path + "." + field) {
			ps.add(at(field), fmt.Sprintf("%s has no effect in a pool of engine %s", field, p.Engine), remedy)
		}
	}
	if p.Engine != task.Command {
		p.Health = ""
		return
	}
	p.Workload = task.Opaque
	c.program(ps, p, path)
	if len(p.Routes) == 0 {
		ps.add(at("routes"), "routes is missing", `name the paths that the server takes, like routes: ["/v1/audio/transcriptions"]`)
	}
	for i, route := range p.Routes {
		at := at(fmt.Sprintf("routes[%d]", i))
		own, is := Taken(route)
		switch {
		case route == "": // was reported already
		case !routePattern.MatchString(route) || len(route) > maxRoute:
			ps.add(at, fmt.Sprintf("%q is no route", task.Clip(route, maxQuote)), "write a path like /v1/audio/speech, or /v1/audio/* for all paths below")
		case is:
			ps.add(at, fmt.Sprintf("%s would take requests for %s, which this server answers itself", route, own), "name other paths; /upstream/POOL reaches every path of the server")
		case slices.Contains(p.Routes[:i], route):
			ps.add(at, route+" is named twice", "name each path once")
		}
	}
}

// maxRoute is how long a route may be, as the API's contract has it.
const maxRoute = 256

// program checks how the server is started.
func (c *Config) program(ps *problems, p *Pool, path string) {
	v := &p.Provisioning
	at := func(field string) position { return c.where.of(path + ".provisioning." + field) }
	switch v.Mode {
	case ModeBinary:
		if !slices.ContainsFunc(v.Args, func(arg string) bool { return strings.Contains(arg, "{port}") }) {
			ps.add(at("args"), "provisioning.args does not say {port}", `tell the server on which port to listen, like args: ["--host", "{host}", "--port", "{port}"]`)
		}
	case ModeBuiltin, ModePackage, ModeSource:
		ps.add(at("mode"), fmt.Sprintf("a pool of engine command cannot have provisioning.mode %s", v.Mode), "use binary, container or external")
	}
}
