// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
)

// Guard is the guardian of a daemon, in a process of its own (ADR 020). It waits for the end of in, on which the daemon tells it its mark, and then
// ends what the daemon's workers have left. The process must ignore signals that ask it to end: it ends when the daemon does.
func Guard(in io.Reader) error {
	from := bufio.NewReader(in)
	line, err := from.ReadString('\n')
	mark := strings.TrimSuffix(line, "\n")
	if err != nil || !marks.MatchString(mark+"0") {
		return fmt.Errorf("a guardian is told the mark of its daemon, and this is none: %.40q", line)
	}
	if _, err := io.Copy(io.Discard, from); err != nil {
		return fmt.Errorf("wait for the daemon's end: %w", err)
	}
	endMarked(mark)
	return nil
}

// guardian is the process that runs Guard.
type guardian struct {
	argv []string // none: no guardian is started

	mu    sync.Mutex // guards what follows
	stdin io.Closer  // its end tells the guardian that the daemon has ended
	ended chan struct{}
}

// watch starts the guardian, where none runs. Without one, a worker's children outlive a kill -9 of the daemon until the next start.
func (g *guardian) watch(mark string, log *zap.Logger) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.argv) == 0 {
		return
	}
	if g.ended != nil {
		select {
		case <-g.ended: // somebody ended it
			_ = g.stdin.Close()
		default:
			return
		}
	}
	g.ended = nil
	cmd := exec.Command(g.argv[0], g.argv[1:]...) //nolint:noctx // the end of its standard input ends it
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.Dir = string(os.PathSeparator)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // and no parent-death signal
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = io.WriteString(stdin, mark+"\n")
	}
	if err != nil {
		log.Warn("no guardian was started: if this process is killed, what its workers have started may stay until the next start", zap.Error(err))
		if cmd.Process == nil {
			return
		}
	}
	ended := make(chan struct{})
	g.stdin, g.ended = stdin, ended
	go func() { // joined by end
		defer close(ended)
		_ = contain.Do(log, "the wait for the guardian panicked: it counts as ended", func() { _ = cmd.Wait() }) // how it ended does not matter
	}()
}

// end ends the guardian.
func (g *guardian) end(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended == nil {
		return nil
	}
	_ = g.stdin.Close()
	select {
	case <-g.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
