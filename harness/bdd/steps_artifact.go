// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

func (w *world) artifactSteps(step define) {
	step(`^its body is "([^"]*)"$`, w.itsBodyIs)
	step(`^I post to "([^"]*)" a body that is said to have (\d+) bytes, and keep the connection$`, w.iPostALie)
	step(`^I post to "([^"]*)" a body that is said to have (\d+) bytes, and hang up early$`, w.iHangUpEarly)
	step(`^I get the proof of task "([^"]*)"$`, w.iGetTheProof)
	step(`^no artifact is on the disk$`, w.noArtifactIsOnTheDisk)
	step(`^no file of the data folder holds "(.*)" or the text of stream "([^"]*)"$`, w.noFileHolds)
	step(`^I run "llama-orch ([^"]*)"$`, w.iRunTheClient)
}

func (w *world) itsBodyIs(want string) error {
	a, err := w.answered()
	if err == nil && string(a.body) != want {
		err = fmt.Errorf("it is %.200q", a.body)
	}
	return err
}

// begun is a body whose beginning comes first. After it comes nothing for a while, or the end.
type begun struct {
	*strings.Reader
	more <-chan struct{} // nil: it ends at once
}

func (b begun) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) && b.more != nil {
		<-b.more
	}
	return n, err
}

func (w *world) lie(ctx context.Context, path string, size int64, more <-chan struct{}) (*http.Request, error) {
	r, err := w.request(ctx, http.MethodPost, path, nil, []byte{})
	if err != nil {
		return nil, err
	}
	r.Body, r.GetBody = io.NopCloser(begun{strings.NewReader(`{"kind": "plan", "content": "half`), more}), nil
	r.ContentLength = size
	return r, nil
}

// iPostALie gets its answer although the body never comes.
func (w *world) iPostALie(path string, size int64) error {
	if err := w.settled(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), watch.Patience)
	defer cancel()
	r, err := w.lie(ctx, path, size, ctx.Done())
	if err != nil {
		return err
	}
	w.last, err = answer(w.daemon.client, r)
	return err
}

// iHangUpEarly does what a client does when its machine goes down.
func (w *world) iHangUpEarly(path string, size int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), watch.Patience)
	defer cancel()
	r, err := w.lie(ctx, path, size, nil)
	if err != nil {
		return err
	}
	if res, err := w.daemon.client.Do(r); err == nil {
		_ = res.Body.Close()
		return fmt.Errorf("there was an answer, %d", res.StatusCode)
	}
	return nil
}

// iGetTheProof gets the task's bundle, which is there as soon as its end is told.
func (w *world) iGetTheProof(name string) error {
	t, err := w.task(name)
	if err != nil {
		return err
	}
	if err := w.iSend(http.MethodGet, "/v1/artifacts?kind=proof&task_id="+t.id); err != nil {
		return err
	}
	if err := w.has("artifacts.0.task_id", t.id); err != nil {
		return err
	}
	body, err := decode(w.last.body)
	if err != nil {
		return err
	}
	return w.iSend(http.MethodGet, "/v1/artifacts/"+plain(dig(body, "artifacts.0.id"))+"/content")
}

// noArtifactIsOnTheDisk looks into the store's folders, where every artifact, and what is received of one, is a file.
func (w *world) noArtifactIsOnTheDisk() error {
	var found []string
	for _, in := range []string{"sha256/*/*", "tmp/*"} {
		some, err := filepath.Glob(filepath.Join(w.dir, "data", "artifacts", in))
		if err != nil {
			return fmt.Errorf("look for artifacts: %w", err)
		}
		found = append(found, some...)
	}
	if len(found) > 0 {
		return fmt.Errorf("there is %s, and more: %d in all", found[0], len(found))
	}
	return nil
}

// noFileHolds looks for a prompt and its answer in everything that the daemon keeps.
func (w *world) noFileHolds(prompt, name string) error {
	s, err := w.stream(name)
	if err != nil {
		return err
	}
	var answer string
	s.Look(func() { answer = text(s.events) })
	if len(answer) < minText {
		return fmt.Errorf("the answer %q is too short to be looked for", answer)
	}
	held, err := w.filesHold(prompt, answer)
	if err == nil && len(held) > 0 {
		err = fmt.Errorf("look through the data folder: %s", strings.Join(held, ", "))
	}
	return err
}

// filesHold says which of the files that the daemon keeps hold which of the words.
func (w *world) filesHold(words ...string) (held []string, err error) {
	files := 0
	err = filepath.WalkDir(filepath.Join(w.dir, "data"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		for _, word := range words {
			if strings.Contains(string(data), word) {
				held = append(held, fmt.Sprintf("%s holds %q", path, word))
			}
		}
		return err
	})
	if err == nil && files == 0 {
		err = errors.New("there are no files")
	}
	if err != nil {
		return held, fmt.Errorf("look through the data folder: %w", err)
	}
	return held, nil
}

// iRunTheClient runs the command line's program against the daemon.
func (w *world) iRunTheClient(line string) error {
	line, err := w.expand(line)
	if err != nil {
		return err
	}
	if w.daemon == nil {
		return errors.New("the scenario has started no daemon")
	}
	if w.command, err = w.lab.Start(process.Options{
		Name: "llama-orch", Exe: w.lab.Program("llama-orch"), Args: strings.Fields(line),
		Env: append(w.lab.Env(w.dir, w.setup.env), "LLORCH_ADDR="+w.daemon.URL, "TZ=UTC"),
	}); err != nil {
		return err
	}
	w.code, err = w.command.Exit()
	return err
}
