// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/task"
)

// talker is a daemon that answers each task with its number. A task whose question has "wait" in it waits until it is canceled.
type talker struct {
	*daemon
	mu    sync.Mutex
	asked []*gen.TaskRequest
	logs  map[gen.TaskID]*stream.Log
}

func newTalker() *talker { return &talker{daemon: newDaemon(), logs: map[gen.TaskID]*stream.Log{}} }

func (d *talker) CreateTask(_ context.Context, r *gen.TaskRequest) (*gen.AdmissionHeaders, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse != nil {
		return nil, d.refuse
	}
	d.asked = append(d.asked, r)
	log := stream.New(task.Started{TaskID: string(r.TaskID.Value), QueuePosition: 2, PredictedStartMS: 90000, Seed: 7, Determinism: task.Strict}, time.Now)
	d.logs[r.TaskID.Value] = log
	writer := log.Begin()
	text, _ := r.Messages[len(r.Messages)-1].Content.Value.GetString()
	if strings.Contains(text, "wait") {
		log.Publish()
	} else if err := writer.Append(task.Piece{Kind: task.EventText, Text: fmt.Sprintf("answer %d", len(d.asked))}); err != nil {
		return nil, err
	} else {
		said, digest := log.Transcript()
		log.End(task.End{TokensOut: 1, FinishReason: task.FinishStop, Receipt: task.Receipt{Seed: 7, Determinism: task.Strict, TranscriptSHA256: digest, TranscriptForm: said.Form(), ReplicaID: "r"}})
		log.Publish()
	}
	return &gen.AdmissionHeaders{Location: "/v1/tasks/t", Response: gen.Admission{TaskID: r.TaskID.Value, PoolID: "default", Seed: 7, Determinism: gen.DeterminismStrict}}, nil
}

func (d *talker) StreamTask(ctx context.Context, p gen.StreamTaskParams, w http.ResponseWriter) error {
	d.mu.Lock()
	own := &daemon{log: d.logs[p.ID]}
	d.mu.Unlock()
	return own.StreamTask(ctx, p, w)
}

func (d *talker) CancelTask(_ context.Context, p gen.CancelTaskParams) (*gen.CancelResultHeaders, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.canceled = append(d.canceled, p.ID)
	last, _ := d.logs[p.ID].Seal()
	return &gen.CancelResultHeaders{Response: gen.CancelResult{TaskID: p.ID, Outcome: gen.OutcomeCanceled, LastEventID: gen.EventID(last)}}, nil
}

// said are the texts of the messages that the last task had.
func (d *talker) said() (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.asked[len(d.asked)-1].Messages {
		text, _ := m.Content.Value.GetString()
		all = append(all, string(m.Role)+": "+text)
	}
	return all
}

// LO-932: through a pipe, each line is a turn.
func TestChat(t *testing.T) {
	t.Parallel()
	d := newTalker()
	addr := serve(t, d)
	file := filepath.Join(t.TempDir(), "talk.json")
	got := call(t.Context(), addr, strings.Join([]string{
		"one", "two \\", "lines", "/retry", "/system be brief", "three", "/save " + file, "/model", "/help", "/clear", "/system", "/model haiku", "four", "/exit", "never",
	}, "\n"), "chat")
	require.Zero(t, got.code, got.err)
	for i := range 5 {
		require.Regexp(t, fmt.Sprintf("(?m)^answer %d$", i+1), got.out)
	}
	require.NotContains(t, got.out, "answer 6")
	require.Equal(t, []string{"user: four"}, d.said())
	d.asked = d.asked[:4]
	require.Equal(t, []string{"system: be brief", "user: one", "assistant: answer 1", "user: two \nlines", "assistant: answer 3", "user: three"}, d.said(), "/retry replaces the answer")
	require.Contains(t, got.out, "/retry")
	var saved struct {
		Model    string
		Messages []struct{ Role, Content string }
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &saved))
	require.Len(t, saved.Messages, 7)
	require.Equal(t, "answer 4", saved.Messages[6].Content)

	for input, want := range map[string]string{
		"/sistem x": "did you mean /system?", "/zzzzzz": "/help lists", "/retry": "nothing was asked yet", "/save": "/save FILE", "/save " + file: "file exists", "/model haik": "did you mean haiku?", "/model gpt": "/model lists them",
	} {
		got := call(t.Context(), addr, input+"\nnever", "chat")
		require.Equal(t, exitUsage, got.code, input)
		require.Contains(t, got.err, want)
	}
	got = call(t.Context(), addr, "one\ntwo\n", "chat", "--json", "--temperature", "0", "--max-tokens", "5")
	require.Zero(t, got.code, got.err)
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	require.Len(t, lines, 2)
	var said reply
	require.NoError(t, json.Unmarshal([]byte(lines[1]), &said))
	require.Equal(t, "stop", string(said.FinishReason))
	require.NotEmpty(t, said.Receipt.TranscriptSHA256)
	require.Equal(t, 5, d.asked[len(d.asked)-1].MaxTokens.Value)
	markdown := filepath.Join(t.TempDir(), "talk.md")
	require.Zero(t, call(t.Context(), addr, "one\n/save "+markdown+"\n", "chat").code)
	text, err = os.ReadFile(markdown)
	require.NoError(t, err)
	require.Regexp(t, `^\*\*user\*\*\n\none\n\n\*\*assistant\*\*\n\nanswer \d+\n\n$`, string(text))
	d.refuse = refusal(429, gen.ErrorCodeADMISSIONREJECT)
	require.Equal(t, exitRefused, call(t.Context(), addr, "one\n", "chat").code)
}

// screen is a terminal with the program in it.
type screen struct {
	t    *testing.T
	tty  *os.File
	cmd  *exec.Cmd
	mu   sync.Mutex
	text strings.Builder
	news chan struct{}
}

func atTerminal(t *testing.T, addr string, args ...string) *screen {
	t.Helper()
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(tty.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	line, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(int(line.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}))
	exe, err := os.Executable()
	require.NoError(t, err)
	s := &screen{t: t, tty: tty, cmd: exec.Command(exe, args...), news: make(chan struct{}, 1)}
	s.cmd.Env = append(os.Environ(), asMain+"=1", addrEnv+"="+addr, "TERM=xterm", "NO_COLOR=")
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = line, line, line
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, s.cmd.Start())
	require.NoError(t, line.Close())
	read := make(chan struct{})
	go func() { // ends when the program has ended
		defer close(read)
		buffer := make([]byte, 4096)
		for {
			n, err := s.tty.Read(buffer)
			s.mu.Lock()
			s.text.Write(buffer[:n])
			s.mu.Unlock()
			select {
			case s.news <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_, _ = s.cmd.Process.Wait()
		<-read
		require.NoError(t, tty.Close())
	})
	return s
}

func (s *screen) types(text string) {
	_, err := io.WriteString(s.tty, text)
	require.NoError(s.t, err)
}

// shows waits until the screen has got a text, and forgets what came before its end.
func (s *screen) shows(text string) {
	s.t.Helper()
	hung := time.After(30 * time.Second)
	for {
		s.mu.Lock()
		got := s.text.String()
		_, after, found := strings.Cut(got, text)
		if found {
			s.text.Reset()
			s.text.WriteString(after)
		}
		s.mu.Unlock()
		if found {
			return
		}
		select {
		case <-s.news:
		case <-hung:
			require.FailNow(s.t, "it is not shown", "%q in %q", text, got)
		}
	}
}

// LO-932: at a terminal: editing, history, the place in line, and a Ctrl-C that cancels the answer and not the chat.
func TestChatAtATerminal(t *testing.T) {
	t.Parallel()
	d := newTalker()
	s := atTerminal(t, serve(t, d), "chat")
	s.shows("haiku at http")
	s.shows(">>> ")
	s.types("onx\x7fe\r") // with a typo, and a backspace
	s.shows("answer 1")
	require.Equal(t, []string{"user: one"}, d.said())
	s.shows(">>> ")
	s.types("\x1b[A\r") // the line before
	s.shows("answer 2")
	require.Equal(t, []string{"user: one", "assistant: answer 1", "user: one"}, d.said())
	s.shows(">>> ")
	s.types("please wait\r")
	s.shows("ahead in line")
	s.types("\x03")
	s.shows("canceled")
	require.Len(t, d.canceledTasks(), 1)
	s.shows(">>> ")
	s.types("lost\x03still here\r") // at the prompt it empties the line
	s.shows("answer 4")
	require.Equal(t, "user: still here", d.said()[len(d.said())-1])
	require.NotContains(t, d.said(), "user: please wait", "what has no answer is not part of the conversation")
	s.shows(">>> ")
	s.types("\x1b[200~first\rsecond\x1b[201~\r") // pasted
	s.shows("answer 5")
	require.Equal(t, "user: first\nsecond", d.said()[len(d.said())-1])
	s.shows(">>> ")
	s.types("please wait\r")
	s.shows("ahead in line")
	s.types("\x03")
	s.shows("canceled")
	s.shows(">>> ")
	s.types("/syste\r")
	s.shows("did you mean /system?")
	s.shows(">>> ")
	s.types("\x04")
	state, err := s.cmd.Process.Wait()
	require.NoError(t, err)
	require.Zero(t, state.ExitCode())
}

// LO-932: a signal at the prompt ends the program, and the terminal is as it was.
func TestChatGivesTheTerminalBack(t *testing.T) {
	t.Parallel()
	s := atTerminal(t, serve(t, newTalker()), "chat")
	s.shows(">>> ")
	before, err := unix.IoctlGetTermios(int(s.tty.Fd()), unix.TCGETS)
	require.NoError(t, err)
	require.Zero(t, before.Lflag&unix.ECHO, "raw")
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	state, err := s.cmd.Process.Wait()
	require.NoError(t, err)
	require.Equal(t, exitInterrupted, state.ExitCode())
	after, err := unix.IoctlGetTermios(int(s.tty.Fd()), unix.TCGETS)
	require.NoError(t, err)
	require.NotZero(t, after.Lflag&unix.ECHO)
}
