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
	renderTime   = 500 * time.Millisecond // of the processor, for one rendering
	renderWait   = time.Second            // where the machine is busy: by then it may have used renderLeast, which is far more than any good template needs
	renderLeast  = 100 * time.Millisecond
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
	Source string          `json:"source"`
	Chat   json.RawMessage `json:"chat"` // an object: what the template may use, by name
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

// watchTime ends the process when a rendering has used the processor for too long, and before the daemon, which waits for 2 s, takes the
// worker for one that hangs. A rendering that a busy machine does not let run is not to blame.
func watchTime() (done func()) {
	over, joined := make(chan struct{}), make(chan struct{})
	begun, since := cpuTime(), time.Now()
	go func() {
		defer close(joined)
		look := time.NewTicker(20 * time.Millisecond)
		defer look.Stop()
		for {
			select {
			case <-over:
				return
			case <-look.C:
				if used := cpuTime() - begun; used > renderTime || used > renderLeast && time.Since(since) > renderWait {
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
	chat, err := object(what.Chat)
	if err != nil {
		return rendered{Refused: task.Clip(err.Error(), maxReason)}
	}
	prompt, err := t.Render(chat)
	switch {
	case err != nil:
		return rendered{Refused: task.Clip(err.Error(), maxReason)}
	case len(prompt) > maxRendered:
		return rendered{Broken: fmt.Sprintf("it makes a prompt of %d bytes, and %d are the most", len(prompt), maxRendered)}
	}
	return rendered{Prompt: prompt}
}
