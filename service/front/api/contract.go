// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-faster/yaml"

	"github.com/llama-orch/llama-orch/contracts/openapi"
	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// live are the operations that are served; all others of the contract answer NOT_IMPLEMENTED. /v1/capabilities and the
// 501s both come from here.
var live = map[gen.OperationName]bool{
	gen.CreateTaskOperation:         true,
	gen.ListTasksOperation:          true,
	gen.GetTaskOperation:            true,
	gen.StreamTaskOperation:         true,
	gen.CancelTaskOperation:         true,
	gen.DeleteTaskOperation:         true,
	gen.CreateSessionOperation:      true,
	gen.GetSessionOperation:         true,
	gen.DeleteSessionOperation:      true,
	gen.GetCapabilitiesOperation:    true,
	gen.ListPoolsOperation:          true,
	gen.GetPoolHealthOperation:      true,
	gen.GetFingerprintOperation:     true,
	gen.DrainPoolOperation:          true,
	gen.ReloadPoolOperation:         true,
	gen.ResumePoolOperation:         true,
	gen.LoadPoolOperation:           true,
	gen.UnloadPoolOperation:         true,
	gen.ListGpusOperation:           true,
	gen.ListHostsOperation:          true,
	gen.ExplainPlacementOperation:   true,
	gen.ReloadConfigOperation:       true,
	gen.StreamLogsOperation:         true,
	gen.RegisterWorkerOperation:     true,
	gen.GetLivenessOperation:        true,
	gen.GetReadinessOperation:       true,
	gen.GetMetricsOperation:         true,
	gen.CreateModelOperation:        true,
	gen.ListModelsOperation:         true,
	gen.GetModelOperation:           true,
	gen.DeleteModelOperation:        true,
	gen.VerifyModelOperation:        true,
	gen.SetModelStateOperation:      true,
	gen.ListEnginesOperation:        true,
	gen.CreateArtifactOperation:     true,
	gen.ListArtifactsOperation:      true,
	gen.GetArtifactOperation:        true,
	gen.GetArtifactContentOperation: true,
}

// schema is a node of the contract that describes values.
type schema = map[string]any

// operation is one method of one path of the contract.
type operation struct {
	name         gen.OperationName
	id           string
	method, path string
	plane        string
	body         schema            // nil: the operation takes none
	shape        *shape            // of body
	params       map[string]schema // by "in name"
	query        []string          // the names of its query parameters, sorted
	open         bool              // needs no token
	guarded      bool              // needs the token on loopback too
}

func (o *operation) notImplemented() error {
	return task.Errorf(task.NotImplemented, "%s %s is not implemented yet; GET /v1/capabilities lists what is live", o.method, o.path)
}

// contract is what the server reads of openapi.yaml at start: the operations, and the schemas by which it explains a
// refusal.
type contract struct {
	version    string
	root       map[string]any
	operations []*operation // by path, then method
	methods    []string     // of all operations, sorted
	byName     map[gen.OperationName]*operation
}

func loadContract() (*contract, error) {
	c := &contract{byName: map[gen.OperationName]*operation{}}
	if err := yaml.Unmarshal(openapi.Document, &c.root); err != nil {
		return nil, fmt.Errorf("read the API contract: %w", err)
	}
	c.version, _ = dig[string](c.root, "info", "version")
	paths, _ := dig[map[string]any](c.root, "paths")
	for path, v := range paths {
		item, _ := v.(map[string]any)
		shared, _ := item["parameters"].([]any)
		for method, v := range item {
			raw, ok := v.(map[string]any)
			if !ok {
				continue // the path's own parameters
			}
			o, err := c.operation(strings.ToUpper(method), path, raw, shared)
			if err != nil {
				return nil, fmt.Errorf("read the API contract: %s %s: %w", method, path, err)
			}
			c.operations = append(c.operations, o)
			c.byName[o.name] = o
		}
	}
	for _, o := range c.operations {
		c.methods = append(c.methods, o.method)
	}
	slices.Sort(c.methods)
	c.methods = slices.Compact(c.methods)
	slices.SortFunc(c.operations, func(a, b *operation) int {
		return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.method, b.method))
	})
	return c, nil
}

func (c *contract) operation(method, path string, raw map[string]any, shared []any) (*operation, error) {
	o := &operation{method: method, path: path, params: map[string]schema{}}
	o.id, _ = raw["operationId"].(string)
	tags, _ := raw["tags"].([]any)
	if o.id == "" || len(tags) != 1 {
		return nil, fmt.Errorf("operationId and one tag are needed")
	}
	o.name = strings.ToUpper(o.id[:1]) + o.id[1:]
	o.plane, _ = tags[0].(string)
	if security, ok := raw["security"].([]any); ok {
		o.open, o.guarded = len(security) == 0, len(security) > 0
	}
	o.body, _ = dig[schema](raw, "requestBody", "content", "application/json", "schema")
	o.shape = c.shapeOf(o.body, map[string]*shape{})
	own, _ := raw["parameters"].([]any)
	for _, v := range slices.Concat(shared, own) {
		p, _ := v.(map[string]any)
		p = c.resolve(p)
		name, _ := p["name"].(string)
		in, _ := p["in"].(string)
		o.params[in+" "+name], _ = p["schema"].(map[string]any)
		if in == "query" {
			o.query = append(o.query, name)
		}
	}
	slices.Sort(o.query)
	return o, nil
}

// resolve follows a $ref, and joins an allOf of one schema with the fields beside it.
func (c *contract) resolve(s schema) schema {
	if ref, ok := s["$ref"].(string); ok {
		target, _ := dig[schema](c.root, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		return c.resolve(target)
	}
	if all, ok := s["allOf"].([]any); ok && len(all) == 1 {
		base, _ := all[0].(map[string]any)
		joined := maps.Clone(c.resolve(base))
		for k, v := range s {
			if k != "allOf" {
				joined[k] = v
			}
		}
		return joined
	}
	return s
}

// dig reads the value under a path of keys.
func dig[T any](node any, keys ...string) (v T, ok bool) {
	for _, key := range keys {
		m, _ := node.(map[string]any)
		node = m[key]
	}
	v, ok = node.(T)
	return v, ok
}
