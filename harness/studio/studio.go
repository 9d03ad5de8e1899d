// SPDX-License-Identifier: GPL-3.0-or-later

// Package studio stands in for servers that are no engines of language models: it transcribes (it says how many bytes of which digest it was sent), speaks and draws
// (it sends bytes that follow from what it was asked), and ranks. It is slow, and dies, on demand.
//
// A request's query says how it is served: `wait=begin` and `wait=half` wait, before the answer and in its middle, until the file `go` is in the folder that
// --folder names; `die=begin` and `die=half` end the process there, behind the wait if there is one. While the file `hold` is in that folder, the server is not well. Each served request
// adds a line to the file `served`.
package studio

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Code is what the process exits with where it dies on demand.
const Code = 3

type studio struct {
	model, folder string
	stderr        io.Writer
}

// Main runs the server until ctx ends, and returns the exit code.
func Main(ctx context.Context, args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("studio", flag.ContinueOnError)
	flags.SetOutput(stderr)
	host, port := flags.String("host", "127.0.0.1", "address"), flags.String("port", "", "port")
	s := &studio{stderr: stderr}
	flags.StringVar(&s.model, "model", "", "the model's file, which has to be there")
	flags.StringVar(&s.folder, "folder", "", "folder of what tells it what to do")
	flags.String("cards", "", "the cards that it may use")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if s.model != "" {
		if _, err := os.Stat(s.model); err != nil {
			fmt.Fprintln(stderr, "studio: the model cannot be opened:", err)
			return 1
		}
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(*host, *port))
	if err != nil {
		fmt.Fprintln(stderr, "studio:", err)
		return 1
	}
	server := &http.Server{Handler: s.routes(), ReadHeaderTimeout: time.Minute}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(stderr, "studio:", err)
		return 1
	}
	return 0
}

func (s *studio) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /well", func(w http.ResponseWriter, _ *http.Request) {
		if s.there("hold") {
			http.Error(w, "loading", http.StatusServiceUnavailable)
		}
	})
	m.HandleFunc("POST /v1/audio/transcriptions", s.serve(transcribe))
	m.HandleFunc("POST /v1/audio/speech", s.serve(speak))
	m.HandleFunc("POST /v1/images/generations", s.serve(draw))
	m.HandleFunc("POST /v1/rerank", s.serve(rank))
	m.HandleFunc("GET /voices", s.serve(func(*http.Request) (answer, error) {
		return answer{"application/json", []byte(`{"voices":["low","high"]}`)}, nil
	}))
	return m
}

type answer struct {
	kind string
	body []byte
}

// serve answers with what answers makes of the request, in halves.
func (s *studio) serve(answers func(*http.Request) (answer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a, err := answers(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		if !s.stage(r, "begin") {
			return
		}
		w.Header().Set("Content-Type", a.kind)
		half := len(a.body) / 2
		_, _ = w.Write(a.body[:half])
		_ = http.NewResponseController(w).Flush()
		if !s.stage(r, "half") {
			return
		}
		_, _ = w.Write(a.body[half:])
		s.note(r.URL.Path)
	}
}

// stage waits and dies, where the request says so. It returns false where the client is gone.
func (s *studio) stage(r *http.Request, at string) bool {
	for r.URL.Query().Get("wait") == at && !s.there("go") {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-r.Context().Done():
			s.note("left " + r.URL.Path)
			return false
		}
	}
	if r.URL.Query().Get("die") == at {
		fmt.Fprintln(s.stderr, "studio: panic: asked to die")
		os.Exit(Code) //nolint:revive // that is its death
	}
	return true
}

func (s *studio) there(name string) bool {
	_, err := os.Stat(filepath.Join(s.folder, name))
	return s.folder != "" && err == nil
}

func (s *studio) note(line string) {
	f, err := os.OpenFile(filepath.Join(s.folder, "served"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, line)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		fmt.Fprintln(s.stderr, "studio:", err)
	}
}

// transcribe says what it was sent.
func transcribe(r *http.Request) (answer, error) {
	parts, err := r.MultipartReader()
	if err != nil {
		return answer{}, err
	}
	for {
		part, err := parts.NextPart()
		if err != nil {
			return answer{}, fmt.Errorf("the form has no file: %w", err)
		}
		if part.FormName() != "file" {
			continue
		}
		sum := sha256.New()
		n, err := io.Copy(sum, part)
		if err != nil {
			return answer{}, err
		}
		_, err = io.Copy(io.Discard, r.Body)
		return answer{"application/json", fmt.Appendf(nil, `{"text":"%d bytes of %s"}`, n, hex.EncodeToString(sum.Sum(nil))[:8])}, err
	}
}

// speak makes a sound of a text.
func speak(r *http.Request) (answer, error) {
	var in struct{ Input string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return answer{}, err
	}
	return answer{"audio/wav", []byte("RIFF" + in.Input + strings.Repeat("~", 64))}, nil
}

// draw makes a picture of a prompt.
func draw(r *http.Request) (answer, error) {
	var in struct{ Prompt string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return answer{}, err
	}
	return answer{"image/png", []byte("\x89PNG" + in.Prompt + strings.Repeat("#", 1<<16))}, nil
}

// rank puts the documents in the order of their length.
func rank(r *http.Request) (answer, error) {
	_, err := io.Copy(io.Discard, r.Body)
	return answer{"application/json", []byte(`{"results":[{"index":0,"relevance_score":0.5}]}`)}, err
}
