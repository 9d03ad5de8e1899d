// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const soundLine = `{"level":"info","ts":"2026-11-22T22:07:01.2Z","logger":"scheduler","msg":"cancel","actor":"localhost","action":"cancel",` +
	`"target":"pool:default","task":"rain-1","human":"Canceled a completion in its pool while it was waiting.","job_id":"rain-1","session_id":"","correlation_id":"c",` +
	`"engine":"llamacpp","engine_version":"v","pool_id":"default","replica_id":"","queue_position":0,"predicted_start_ms":0,"tokens_in":1,` +
	`"tokens_out":0,"decode_time_ms":0}`

// The check of the log lines finds each kind of breach.
//
// ORCH-3027, ORCH-3300, LO-846
func TestLogContractFindsBreaches(t *testing.T) {
	require.NoError(t, checkLine(soundLine))
	require.NoError(t, checkLine(`{"level":"warn","ts":"2026-11-22T22:07:01Z","logger":"pool","msg":"replica is not ready"}`))
	for name, replaced := range map[string][2]string{
		"no JSON":               {`{"level"`, `level`},
		"a list":                {soundLine, `[1]`},
		"a time without a zone": {`01.2Z`, `01.2`},
		"a local time":          {`01.2Z`, `01.2+02:00`},
		"an unknown level":      {`"info"`, `"notice"`},
		"no message":            {`"msg":"cancel"`, `"msg":""`},
		"a field missing":       {`"session_id":"",`, ``},
		"a number as text":      {`"tokens_in":1`, `"tokens_in":"1"`},
		"a text as number":      {`"replica_id":""`, `"replica_id":0`},
		"no short id":           {`"task":"rain-1",`, ``},
		"a duration, no unit":   {`"tokens_in"`, `"took":5,"tokens_in"`},
		"no actor":              {`"actor":"localhost",`, ``},
		"no sentence":           {`Canceled a completion in its pool while it was waiting.`, `cancel`},
		"no full stop":          {`waiting.`, `waiting`},
		"a hash":                {`its pool`, `pool 0a1b2c3d`},
		"a UUID":                {`its pool`, `3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10`},
		"a sixth event":         {`"msg":"cancel"`, `"msg":"drain"`},
	} {
		broken := strings.Replace(soundLine, replaced[0], replaced[1], 1)
		require.NotEqual(t, soundLine, broken, name)
		require.Error(t, checkLine(broken), name)
	}
	require.Error(t, checkLine(`{"level":"warn","ts":"2026-11-22T22:07:01Z","logger":"scheduler","msg":"a run failed","job_id":"rain-1"}`))
}

type wrote []string

func (w wrote) Lines() []string { return w }

// AUTH-1007, ORCH-3027
func TestLogContractFindsCanaries(t *testing.T) {
	for name, plant := range map[string]func(*logContract){
		"the daemon's token": func(c *logContract) { c.watch(wrote{}, "the-canary-token") },
		"a sent token":       func(c *logContract) { c.secret("Bearer the-canary-token") },
		"a prompt":           func(c *logContract) { c.body([]byte(`{"prompt":"one\nthe-canary-token is \"two\""}`)) },
		"a message":          func(c *logContract) { c.body([]byte(`{"messages":[{"role":"user","content":"the-canary-token"}]}`)) },
		"an input":           func(c *logContract) { c.body([]byte(`{"inputs":["a","the-canary-token"]}`)) },
		"a stop string":      func(c *logContract) { c.body([]byte(`{"params":{"stop":["the-canary-token"]}}`)) },
		"generated text":     func(c *logContract) { c.generated("short\nthe-canary-token\n") },
	} {
		c := newLogContract()
		plant(c)
		c.watch(wrote{soundLine}, "")
		lines, err := c.check()
		require.NoError(t, err, name)
		require.Equal(t, 1, lines)
		c.watch(wrote{strings.Replace(soundLine, `"c"`, `"the-canary-token is"`, 1)}, "")
		_, err = c.check()
		require.ErrorContains(t, err, "holds", name)
	}
}
