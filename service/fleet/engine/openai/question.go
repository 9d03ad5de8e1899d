// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/task"
)

// ask returns the field that a question is about; nil: the server does not tell it.
func (e *Engine) ask(ctx context.Context, q Question, model string) (any, error) {
	if q.Path == "" {
		return nil, nil
	}
	var answer any
	var err error
	if q.Post {
		err = e.c.Post(ctx, q.Path, map[string]string{"model": model}, &answer)
	} else {
		err = e.c.Get(ctx, q.Path, &answer)
	}
	if ctx.Err() != nil || task.HasCode(err, task.PolicyDenied) {
		return nil, err
	}
	if status, ok := errors.AsType[*httpsse.StatusError](err); ok && status.Status/100 == 5 {
		return nil, err // it has the path, and is not well
	}
	if err != nil { // what a server does not tell, it need not
		return nil, nil //nolint:nilerr // see above
	}
	return field(answer, q.Field, model), nil
}

// field finds what stands at a path; nil: nothing.
func field(at any, path, model string) any {
	for step := range strings.SplitSeq(path, ".") {
		switch in := at.(type) {
		case map[string]any:
			at = in[step]
		case []any:
			n, err := strconv.Atoi(step)
			if step == "=" {
				n = slices.IndexFunc(in, func(item any) bool { return field(item, "id", "") == model })
			} else if err != nil {
				return nil
			}
			if n < 0 || n >= len(in) {
				return nil
			}
			at = in[n]
		default:
			return nil
		}
	}
	return at
}

// words are the words of an answer, which is one or a list of them.
func words(answer any) (all []string) {
	if list, ok := answer.([]any); ok {
		for _, item := range list {
			all = append(all, fmt.Sprint(item))
		}
		return all
	}
	return []string{fmt.Sprint(answer)}
}

// whole is a number of tokens that a server tells; 0: it tells none.
func whole(name string, answer any) (int, error) {
	n, ok := answer.(float64)
	if !ok {
		return 0, nil
	}
	return int(n), engine.Believe(engine.Figure{Name: name, Value: n, Most: engine.MaxTokens})
}

// features are those of the server that its model has.
func (e *Engine) features(ctx context.Context, p *Profile, model string) ([]task.Feature, error) {
	all := slices.Clone(p.Features)
	for _, t := range p.Tells {
		answer, err := e.ask(ctx, t.Question, model)
		if err != nil {
			return nil, err
		}
		if answer == nil { // it does not tell, so it may
			continue
		}
		told := words(answer)
		for word, feature := range t.Words {
			if !slices.Contains(told, word) {
				all = slices.DeleteFunc(all, func(f task.Feature) bool { return f == feature })
			}
		}
	}
	for _, t := range p.Trials {
		passes, err := e.passes(ctx, t, model)
		if err != nil {
			return nil, err
		}
		if !passes {
			all = slices.DeleteFunc(all, func(f task.Feature) bool { return f == t.Feature })
		}
	}
	return all, nil
}
