// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/ardanlabs/jinja"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/task"
)

// envRenders makes a worker's program the process that renders chat templates.
const envRenders = "LLORCH_WORKER_RENDERS"

// The bounds of a template.
const (
	renderTime   = time.Second // of the processor, for one rendering
	renderStack  = 32 << 20
	renderMemory = 512 << 20 // of the whole process, with what the runtime takes
	maxRendered  = 16 << 20  // bytes of a prompt
	maxReason    = 300       // bytes of what is said about a template
)

// exitTime is the exit code of the process when a template took too long. Where memory or stack run out, the runtime ends it: nobody can
// recover that.
const exitTime = 5

// rendering is a line of the process's standard input, and rendered the line that answers.
type rendering struct {
	Source   string         `json:"source"`
	Messages []task.Message `json:"messages"`
}

type rendered struct {
	Prompt  string `json:"prompt,omitempty"`
	Broken  string `json:"broken,omitempty"`  // what is wrong with the template
	Refused string `json:"refused,omitempty"` // what the template says against the messages
}

// serveTemplates renders until its input ends.
func serveTemplates(in io.Reader, out io.Writer) int {
	runtime.GOMAXPROCS(2) // one for the watch
	debug.SetMaxStack(renderStack)
	debug.SetMemoryLimit(renderMemory / 2) // from there on it collects harder
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: renderMemory, Max: renderMemory}); err != nil {
		return ExitFailure
	}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return ExitOK
		}
		var what rendering
		if err != nil || json.Unmarshal(line, &what) != nil {
			return ExitFailure
		}
		done := watchTime()
		var answer bytes.Buffer
		err = json.NewEncoder(&answer).Encode(render(what)) // one line
		done()
		if err == nil {
			_, err = out.Write(answer.Bytes())
		}
		if err != nil {
			return ExitFailure
		}
	}
}

// watchTime ends the process when it has used the processor for too long. It counts no time in which a busy machine lets others run.
func watchTime() (done func()) {
	over, joined := make(chan struct{}), make(chan struct{})
	begun := cpuTime()
	go func() {
		defer close(joined)
		look := time.NewTicker(20 * time.Millisecond)
		defer look.Stop()
		for {
			select {
			case <-over:
				return
			case <-look.C:
				if cpuTime()-begun > renderTime {
					os.Exit(exitTime)
				}
			}
		}
	}()
	return func() { close(over); <-joined }
}

func cpuTime() time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func render(what rendering) (answer rendered) {
	defer func() {
		if p := recover(); p != nil { // the library does, for instance where a text is to be repeated less than 0 times
			answer = rendered{Broken: "it computes what cannot be"}
		}
	}()
	t, err := jinja.Compile(what.Source)
	if err != nil {
		return rendered{Broken: task.Clip(err.Error(), maxReason)}
	}
	messages := make([]any, len(what.Messages))
	for i, m := range what.Messages {
		messages[i] = map[string]any{"role": m.Role, "content": m.Content}
	}
	prompt, err := t.Render(map[string]any{"messages": messages, "add_generation_prompt": true})
	switch {
	case err != nil:
		return rendered{Refused: task.Clip(err.Error(), maxReason)}
	case len(prompt) > maxRendered:
		return rendered{Broken: fmt.Sprintf("it makes a prompt of %d bytes, and %d are the most", len(prompt), maxRendered)}
	}
	return rendered{Prompt: prompt}
}
