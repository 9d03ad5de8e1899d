// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"context"
	"fmt"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// run is one answered task.
type run struct {
	test testCase
	pool string
	task string
	body []byte
	on   *life
	*client.Log
}

func (r *run) receipt() client.Receipt { return r.End.Receipt }

// answer has a pool answer a case.
func (d *life) answer(ctx context.Context, c testCase, poolID, taskID string) (*run, error) {
	ctx, cancel := context.WithTimeout(ctx, watch.Patience)
	defer cancel()
	body, err := c.body(taskID, poolID)
	if err != nil {
		return nil, err
	}
	stream, err := d.submit(ctx, taskID, body)
	if err != nil {
		return nil, err
	}
	if err := stream.Rest(); err != nil {
		return nil, fmt.Errorf("task %s: %w", taskID, err)
	}
	if f := stream.Fail; f != nil {
		return nil, fmt.Errorf("task %s failed: %s: %s\n%s", taskID, f.Code, f.Message, d.Tail(logLines))
	}
	return &run{test: c, pool: poolID, task: taskID, body: body, on: d, Log: stream.Log}, nil
}

func (d *life) submit(ctx context.Context, taskID string, body []byte) (*client.Stream, error) {
	if _, err := d.Client.Submit(ctx, body); err != nil {
		return nil, fmt.Errorf("submit task %s: %w", taskID, err)
	}
	stream, err := d.Client.Open(ctx, taskID)
	if err != nil {
		return nil, fmt.Errorf("stream task %s: %w", taskID, err)
	}
	return stream, nil
}

// ask is like answer but chooses the task id itself. It is for comparisons that need no event ids.
func (d *life) ask(ctx context.Context, c testCase, poolID string) (*run, error) {
	d.runs++
	return d.answer(ctx, c, poolID, fmt.Sprintf("%s-%s-%d", poolID, c.Name, d.runs))
}

// steerTries bounds how often a case runs until it was on the wanted replica. The suite steers placement from outside, by keeping the other replica
// busy. A machine that stalls at the wrong moment can spoil a try.
const steerTries = 400

// onBoth has both replicas of a pool answer a case, and returns all runs. The last two are those on replica 1 and on replica 0.
//
// Of two idle replicas, the first one gets a task (ORCH-3012). The second one gets it while another task runs on the first. That other task is
// best-effort, so it may leave anything in the first replica's cache, and a strict task after it must not notice.
func (d *life) onBoth(ctx context.Context, c testCase, poolID string) ([]*run, error) {
	var all []*run
	for _, index := range []int{1, 0} {
		for try := 0; ; try++ {
			replicas, err := d.Idle(ctx, poolID)
			if err != nil {
				return all, err
			}
			taskID := fmt.Sprintf("%s-on-%d", c.Name, index)
			if try > 0 {
				taskID = fmt.Sprintf("%s-try-%d", taskID, try)
			}
			r, err := d.steered(ctx, c, poolID, taskID, index == 1)
			if err != nil {
				return all, err
			}
			all = append(all, r)
			if r.receipt().ReplicaID == replicas[index].ID {
				break
			}
			if try == steerTries {
				return all, fmt.Errorf("case %s did not get to %s in %d tries", c.Name, replicas[index].ID, steerTries)
			}
		}
	}
	return all, nil
}

func (d *life) steered(ctx context.Context, c testCase, poolID, taskID string, hold bool) (*run, error) {
	if !hold {
		return d.answer(ctx, c, poolID, taskID)
	}
	ctx, cancel := context.WithTimeout(ctx, watch.Patience)
	defer cancel()
	body, err := c.with(map[string]any{ // near-random tokens hardly ever end by themselves
		"determinism": "best_effort", "seed": 7, "max_tokens": 24,
		"params": map[string]any{"temperature": 5, "top_p": 1, "top_k": 0, "min_p": 0},
	}).body("hold-"+taskID, poolID)
	if err != nil {
		return nil, err
	}
	holding, err := d.submit(ctx, "hold-"+taskID, body)
	if err != nil {
		return nil, err
	}
	defer holding.Close()
	for len(holding.Tokens) == 0 && !holding.Over() { // once it has a token, it occupies its replica
		if _, err := holding.Next(); err != nil {
			return nil, fmt.Errorf("the task that holds the first replica: %w", err)
		}
	}
	r, err := d.answer(ctx, c, poolID, taskID)
	if err != nil {
		return nil, err
	}
	if err := holding.Rest(); err != nil {
		return nil, fmt.Errorf("the task that holds the first replica: %w", err)
	}
	if holding.End == nil || holding.End.Receipt.Determinism != "best_effort" {
		return nil, fmt.Errorf("the best-effort task that holds the first replica ended with %v", holding.Events[len(holding.Events)-1])
	}
	return r, nil
}
