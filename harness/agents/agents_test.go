// SPDX-License-Identifier: GPL-3.0-or-later

//go:build agents

package agents

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/scripted"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// The pool has one replica of one slot, whose process is the scripted engine: it can be busy, and it can be killed.
const config = `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
pools:
  - {id: coder, model: {id: coder, ref: "file:%[1]s"}, device: cpu, ctx: 131072, timeouts: {wall: 10m, idle: 10m}, provisioning: {mode: binary, path: %[2]q, args: ["--script", %[3]q]}}
`

const (
	pond = "Frogs wait by the pond."
	busy = "Be busy for a while"

	agentWithin = 3 * time.Minute
	waiting     = 6 * time.Second // longer than a front holds a stream's head back
)

// scene is what happens while an agent works.
type scene string

const (
	calm   scene = "undisturbed"
	queued scene = "queued behind other work"
	killed scene = "its worker killed within the first call's arguments"
)

// run is one agent in one scene.
type run struct {
	agent
	scene scene
	file  string // that it is to write
	mark  string // the file that the engine makes where it waits to be killed
}

func (r run) prompt() string {
	return fmt.Sprintf("Write one line into the file %s, read the file, and tell me what it says. The line: %s", r.file, pond)
}

// rules are the engine's turns: the write, the read, the answer. What else an agent asks, such as for a title, gets a plain answer.
func (r run) rules() []scripted.Rule {
	yes := true
	write, read := r.write(r.file, pond), r.read(r.file)
	first, rest := write, scripted.Call{Arguments: write.Arguments[9:]}
	first.Arguments = write.Arguments[:9]
	steps := []scripted.Step{{Text: "I write the file.", Cut: 5}, {Call: &first}}
	if r.scene == killed {
		steps = append(steps, scripted.Step{PauseMS: int(agentWithin.Milliseconds()), OnceFile: r.mark})
	}
	return []scripted.Rule{
		{Contains: r.file, Role: "tool", Match: pond, Play: []scripted.Step{{Text: "The file says: " + pond, Cut: 4}}},
		{Contains: r.file, Role: "tool", Play: []scripted.Step{{Call: &read, Cut: 8}}},
		{Match: r.prompt(), Role: "user", Tools: &yes, Play: append(steps, scripted.Step{Call: &rest, Cut: 8})},
	}
}

// box is a daemon and its agents.
type box struct {
	lab      *daemon.Lab
	d        *daemon.Daemon
	packages string
}

// Each agent writes a file by its own tool, reads it back and finishes: undisturbed, queued behind other work, and with a worker that is killed in mid-answer.
//
// LO-423
func TestAgents(t *testing.T) {
	packages := os.Getenv("LLORCH_AGENTS")
	require.NotEmpty(t, packages, "these tests need agents from npm: run `go tool mage agents`")
	b := box{packages: filepath.Join(packages, "node_modules")}
	var err error
	b.lab, err = daemon.NewLab(t.Context(), t.TempDir(), "../..", "./harness/scripted/cmd/scripted")
	require.NoError(t, err)
	t.Cleanup(b.lab.Close)
	var runs []run
	var script scripted.Script
	for _, a := range agents {
		for i, s := range []scene{calm, queued, killed} {
			name := fmt.Sprintf("%s-%d", strings.ToLower(strings.ReplaceAll(a.name, " ", "-")), i+1)
			work := filepath.Join(b.lab.Dir, name, "work")
			require.NoError(t, os.MkdirAll(work, 0o700))
			r := run{a, s, filepath.Join(work, "note.txt"), filepath.Join(b.lab.Dir, name, "mark")}
			runs, script.Rules = append(runs, r), append(script.Rules, r.rules()...)
		}
	}
	script.Rules = append(script.Rules,
		scripted.Rule{Match: busy, Play: []scripted.Step{{Text: "I am."}, {PauseMS: int(agentWithin.Milliseconds())}}},
		scripted.Rule{Play: []scripted.Step{{Text: "A note about frogs"}}})
	b.serve(t, script)
	var report strings.Builder
	for _, r := range runs {
		t.Run(r.name+", "+string(r.scene), func(t *testing.T) { report.WriteString(b.play(t, r)) })
	}
	if name := os.Getenv("LLORCH_AGENTS_REPORT"); name != "" {
		require.NoError(t, os.WriteFile(name, []byte(report.String()), 0o600))
	}
}

// serve starts the daemon.
func (b *box) serve(t *testing.T, s scripted.Script) {
	t.Helper()
	data, err := json.Marshal(s)
	require.NoError(t, err)
	script, file := filepath.Join(b.lab.Dir, "script.json"), filepath.Join(b.lab.Dir, "c.yaml")
	require.NoError(t, os.WriteFile(script, data, 0o600))
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, config, b.lab.Model, b.lab.Program("scripted"), script), 0o600))
	b.d, err = b.lab.Serve(t.Context(), daemon.Options{Config: file, Options: process.Options{Args: []string{"--no-self-test"}, Env: b.lab.Env(b.lab.Dir, nil)}})
	require.NoError(t, err)
	t.Cleanup(b.d.Kill)
	_, err = b.d.Idle(t.Context(), "coder")
	require.NoError(t, err)
}

// play runs an agent, checks what it did, and returns its transcript.
func (b *box) play(t *testing.T, r run) string {
	t.Helper()
	before := b.tasks(t)
	var other client.Admission
	if r.scene == queued {
		var err error
		other, err = b.d.Client.Submit(t.Context(), fmt.Appendf(nil, `{"model_ref":"coder","prompt":%q}`, busy))
		require.NoError(t, err)
	}
	ended := make(chan struct{})
	var said string
	var failed error
	go func() {
		defer close(ended)
		said, failed = b.start(t.Context(), r)
	}()
	switch r.scene {
	case queued:
		b.release(t, other.TaskID, ended)
	case killed:
		b.kill(t, r, ended)
	}
	<-ended
	require.NoError(t, failed, said)
	written, err := os.ReadFile(r.file)
	require.NoError(t, err, said)
	require.Equal(t, pond, strings.TrimSpace(string(written)))
	require.Contains(t, said, "The file says: "+pond)
	made := slices.DeleteFunc(b.tasks(t), func(one taskView) bool {
		return slices.ContainsFunc(before, func(o taskView) bool { return o.ID == one.ID })
	})
	return b.transcript(t, r, made, string(written))
}

// release waits until a task of the agent is queued behind another one, leaves it there for a while, and cancels the other one.
func (b *box) release(t *testing.T, other string, ended <-chan struct{}) {
	t.Helper()
	require.NoError(t, watch.Until(t.Context(), "the agent's task to be queued", func() error {
		select {
		case <-ended:
			return watch.Never(errors.New("the agent ended before"))
		default:
		}
		if !slices.ContainsFunc(b.tasks(t), func(one taskView) bool { return one.State == "queued" && one.ID != other }) {
			return errors.New("no other task is queued")
		}
		return nil
	}))
	select { // the agent gets its head and comments
	case <-ended:
	case <-time.After(waiting):
	}
	_, err := b.d.Client.Cancel(t.Context(), other)
	require.NoError(t, err)
}

// kill waits until the engine is in the middle of a call, and kills it.
func (b *box) kill(t *testing.T, r run, ended <-chan struct{}) {
	t.Helper()
	require.NoError(t, watch.Until(t.Context(), "the engine to be in the middle of an answer", func() error {
		select {
		case <-ended:
			return watch.Never(errors.New("the agent ended before"))
		default:
		}
		_, err := os.Stat(r.mark)
		return err
	}))
	engines := daemon.Running(b.lab.Program("scripted"))
	require.Len(t, engines, 1)
	engines[0].Kill()
}

// start runs an agent to its end, with a HOME of its own and nothing of this process's environment, and returns what it wrote. Whatever goes to another machine
// is sent to a proxy that is not there.
func (b *box) start(ctx context.Context, r run) (string, error) {
	work := filepath.Dir(r.file)
	home := filepath.Join(filepath.Dir(work), "home")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return "", err
	}
	for name, text := range r.files {
		file := filepath.Join(home, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(file, []byte(b.here(text)), 0o600); err != nil {
			return "", err
		}
	}
	ctx, stop := context.WithTimeout(ctx, agentWithin)
	defer stop()
	args := append(r.command(b.packages), r.prompt())
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Dir, c.WaitDelay = work, time.Second
	c.Env = []string{
		"HOME=" + home, "PATH=" + filepath.Join(b.packages, ".bin") + ":/usr/bin:/bin", "TERM=dumb",
		"HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost",
	}
	for _, one := range append(slices.Clone(r.env), r.quiet...) {
		c.Env = append(c.Env, b.here(one))
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.String(), err
}

// here puts the daemon's address into a configuration.
func (b *box) here(text string) string { return strings.ReplaceAll(text, handbookURL, b.d.URL) }

// taskView is what the native API tells of a task.
type taskView struct {
	ID       string    `json:"task_id"`
	State    string    `json:"state"`
	Accepted time.Time `json:"accepted_at"`
	In       int       `json:"tokens_in"`
}

// tasks are the last tasks, the oldest first.
func (b *box) tasks(t *testing.T) []taskView {
	t.Helper()
	data, err := b.d.Client.Get(t.Context(), "/v1/tasks?limit=100")
	require.NoError(t, err)
	var list struct{ Tasks []taskView }
	require.NoError(t, json.Unmarshal(data, &list))
	slices.SortStableFunc(list.Tasks, func(a, b taskView) int { return a.Accepted.Compare(b.Accepted) })
	return list.Tasks
}

// transcript tells a run in ten lines.
func (b *box) transcript(t *testing.T, r run, made []taskView, written string) string {
	t.Helper()
	lines := []string{fmt.Sprintf("%s, %s", r.name, r.scene), "asked: " + strings.ReplaceAll(r.prompt(), r.file, "note.txt")}
	for i, one := range made {
		stream, err := b.d.Client.Open(t.Context(), one.ID)
		require.NoError(t, err)
		require.NoError(t, stream.Rest())
		stream.Close()
		said := strings.TrimSpace(stream.Log.Text())
		if end := stream.Log.End; end != nil {
			for _, c := range end.ToolCalls {
				said += fmt.Sprintf(" → %s %s", c.Name, strings.ReplaceAll(c.Arguments, r.file, "note.txt"))
			}
		}
		lines = append(lines, fmt.Sprintf("task %d of %d, %s, %d tokens in: %s", i+1, len(made), one.State, one.In, said))
	}
	lines = append(lines, fmt.Sprintf("in note.txt: %q", written))
	return strings.Join(lines, "\n  ") + "\n"
}
