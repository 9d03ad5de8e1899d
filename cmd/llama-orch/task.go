// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/llama-orch/llama-orch/sdk"
)

const timeLayout = "2006-01-02 15:04:05"

type cancelCmd struct {
	ID string `arg:"" help:"The task's id."`
}

// Run cancels a task. If the task had ended already, that is no error.
func (c *cancelCmd) Run(a *app) error {
	result, err := a.client.Cancel(a.ctx, c.ID)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(result)
	}
	return a.table([][]string{
		{"TASK", "OUTCOME", "LAST EVENT"},
		{result.TaskID, string(result.Outcome), result.LastEventID},
	})
}

type rmCmd struct {
	ID []string `arg:"" help:"The tasks' ids."`
}

// removed is what --json prints.
type removed struct {
	TaskID  string `json:"task_id"`
	Deleted bool   `json:"deleted"`
}

// Run deletes tasks, up to the first that cannot be deleted.
func (c *rmCmd) Run(a *app) error {
	for _, id := range c.ID {
		if err := a.client.Delete(a.ctx, id); err != nil {
			return err
		}
		if a.json {
			if err := a.printJSON(removed{TaskID: id, Deleted: true}); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintf(a.out, "deleted task %s\n", id); err != nil {
			return fmt.Errorf("printing: %w", err)
		}
	}
	return nil
}

// selfTestActor is the actor of the tasks that the server sends itself at its start.
const selfTestActor = "self-test"

type tasksCmd struct {
	State    string `enum:",queued,running,completed,failed,canceled" default:"" placeholder:"STATE" help:"Only queued, running, completed, failed or canceled ones."`
	Limit    int    `placeholder:"N" help:"At most this many (default: as the server chooses)."`
	SelfTest bool   `help:"Show the tasks of the server's self-tests, too."`
}

// Run lists tasks.
func (c *tasksCmd) Run(a *app) error {
	tasks, err := c.list(a)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(&sdk.TaskList{Tasks: tasks})
	}
	rows := [][]string{{"TASK", "STATE", "AHEAD", "PRIORITY", "MODEL", "POOL", "TOKENS", "ACCEPTED"}}
	for _, t := range tasks {
		ahead := ""
		if t.State == sdk.TaskStateQueued {
			ahead = strconv.Itoa(t.QueuePosition)
		}
		state := string(t.State)
		if !t.DeletedAt.IsZero() {
			state += ", deleted"
		}
		rows = append(rows, []string{
			t.TaskID, state, ahead, string(t.Priority), t.ModelRef, t.PoolID,
			strconv.Itoa(t.TokensOut), t.AcceptedAt.Local().Format(timeLayout),
		})
	}
	return a.table(rows)
}

// mostTasks is the contract's limit.
const mostTasks = 500

// list asks for more where the self-test's tasks, which it leaves out, took the place of others.
func (c *tasksCmd) list(a *app) ([]sdk.TaskStatus, error) {
	tasks, err := a.client.List(a.ctx, sdk.TaskState(c.State), c.Limit)
	if err != nil || c.SelfTest {
		return tasks, err
	}
	full, others := len(tasks), usersTasks(tasks)
	if len(others) == full || c.Limit > 0 && full < c.Limit {
		return others, nil
	}
	tasks, err = a.client.List(a.ctx, sdk.TaskState(c.State), mostTasks)
	others = usersTasks(tasks)
	return others[:min(len(others), cmp.Or(c.Limit, full))], err
}

// usersTasks are those that the server did not send itself.
func usersTasks(tasks []sdk.TaskStatus) []sdk.TaskStatus {
	return slices.DeleteFunc(slices.Clone(tasks), func(t sdk.TaskStatus) bool { return t.Actor == selfTestActor })
}

type taskCmd struct {
	ID string `arg:"" help:"The task's id."`
}

// Run shows one task.
func (c *taskCmd) Run(a *app) error {
	t, err := a.client.Get(a.ctx, c.ID)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(t)
	}
	rows := [][]string{
		{"task", t.TaskID},
		{"state", string(t.State)},
		{"model", t.ModelRef},
		{"pool", t.PoolID},
		{"engine", t.Engine},
		{"replica", t.ReplicaID},
		{"workload", string(t.Workload)},
		{"priority", string(t.Priority)},
		{"sent by", t.Actor},
		{"seed", strconv.FormatInt(t.Seed, 10)},
		{"determinism", string(t.Determinism)},
		{"accepted", t.AcceptedAt.Local().Format(timeLayout)},
		{"started", when(t.StartedAt)},
		{"finished", when(t.FinishedAt)},
		{"tokens in", strconv.Itoa(t.TokensIn)},
		{"tokens out", strconv.Itoa(t.TokensOut)},
		{"last event", t.LastEventID},
	}
	if t.State == sdk.TaskStateQueued {
		rows = append(rows, []string{"ahead", strconv.Itoa(t.QueuePosition)},
			[]string{"predicted start", duration(t.PredictedStartMS) + " after it was accepted"})
	}
	if end := t.End; end != nil {
		rows = append(rows, []string{"decode time", duration(end.DecodeTimeMS)}, []string{"finished by", string(end.FinishReason)},
			[]string{"fingerprint", end.Receipt.Fingerprint}, []string{"request", end.Receipt.RequestDigest},
			[]string{"transcript", end.Receipt.TranscriptSHA256}, []string{"transcript form", string(cmp.Or(end.Receipt.TranscriptForm, sdk.ReceiptTranscriptFormText))})
		for _, event := range end.Receipt.ContinuedAt {
			rows = append(rows, []string{"continued", fmt.Sprintf("by another worker, from event %d on", event)})
		}
		for _, c := range end.ToolCalls {
			rows = append(rows, []string{"call", fmt.Sprintf("%s %s as %s", c.Name, c.Arguments, c.ID)})
		}
	}
	if v := t.EnergyJ; v != nil {
		rows = append(rows, []string{"energy", joules(*v)})
	}
	if v := t.EnergyCost; v != nil {
		rows = append(rows, []string{"cost of energy", strconv.FormatFloat(*v, 'g', -1, 64)})
	}
	if e := t.Error; e != nil {
		rows = append(rows, []string{"error", e.Message + " (" + string(e.Code) + ")"})
	}
	return a.table(rows)
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(timeLayout)
}
