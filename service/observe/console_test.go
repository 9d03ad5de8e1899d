// SPDX-License-Identifier: GPL-3.0-or-later

package observe_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// console runs f with a logger for a person, and returns its lines.
func console(t *testing.T, o observe.Options, f func(log *zap.Logger)) []string {
	t.Helper()
	var out bytes.Buffer
	o.Out, o.Style.Console, o.Level = &out, true, "debug"
	log, err := observe.NewLogger(o)
	require.NoError(t, err)
	f(log)
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

// LO-620
func TestAConsoleShowsSentences(t *testing.T) {
	j := observe.Job{
		ID: "3f2a81bc-4a5b-4c6d-8e7f-0123456789ab", CorrelationID: "c0ffee00-4a5b-4c6d-8e7f-0123456789ab", Engine: "llamacpp", PoolID: "default", ReplicaID: "default-0",
		Priority: task.Interactive, Workload: task.Completion, Model: "haiku", TokensIn: 14, TokensOut: 17, DecodeTime: 210 * time.Millisecond, Actor: "localhost",
	}
	lines := console(t, observe.Options{}, func(log *zap.Logger) {
		n := observe.NewNarrator(log.Named("scheduler"))
		n.StreamEnded(j, "")
		n.Refused(j, task.Errorf(task.AdmissionReject, "the queue of pool %s is full", j.PoolID))
		tester := j
		tester.Actor = "self-test"
		n.StreamEnded(tester, "")
		log.Named("pool").Warn("a worker ended", append(j.Fields(), zap.Error(errors.New("exit code 3")), zap.Strings("cards", []string{"a b"}))...)
		log.With(zap.String("pool_id", "vectors")).Info("serving", zap.Int("pools", 2), zap.Duration("took_ms", 1500*time.Millisecond), zap.Bool("ok", false), zap.Float64("part", 0.5), zap.Int("none", 0))
		log.Debug("bare")
		log.Error("gone")
	})
	for i, want := range []string{
		`info  scheduler Finished an interactive completion with haiku, sent from this machine, in pool 'default': 14 tokens in, 17 tokens out, decoded in 210 milliseconds.  task=3f2a81bc`,
		`info  scheduler Refused an interactive completion with haiku, sent from this machine, for pool 'default': the queue was full.  task=3f2a81bc  code=ADMISSION_REJECT`,
		`WARN  pool      a worker ended  task=3f2a81bc  correlation_id=c0ffee00  engine=llamacpp  pool_id=default  replica_id=default-0  tokens_in=14  tokens_out=17  decode_time_ms=210  error="exit code 3"  cards=["a b"]`,
		`info            serving  pools=2  took_ms=1500  ok=false  part=0.5  none=0  pool_id=vectors`,
		`debug           bare`,
		`ERROR           gone`,
	} {
		require.Regexp(t, `^\d\d:\d\d:\d\d\.\d{3} `+regexp.QuoteMeta(want)+`$`, lines[i])
	}
	require.Len(t, lines, 6, "the self-test says by itself how it went")
}

// What comes from outside moves no cursor, and no secret is shown, however it is written.
//
// LO-620
func TestAConsoleShowsNoControlCharactersAndNoSecrets(t *testing.T) {
	const token = `the "right"/tökén`
	lines := console(t, observe.Options{Redactor: observe.NewRedactor(token)}, func(log *zap.Logger) {
		log.Info("a\x1b[2Jb\nc "+token, zap.String("name", "x\x1b]0;y\a\u009b"), zap.String("bad", "\xff"), zap.String("secret", token),
			zap.Any("deep", map[string]string{"k": token, "e": "\u009b"}), zap.Error(errors.New("Bearer abcdefghijkl")))
	})
	require.Len(t, lines, 1)
	require.NotRegexp(t, "[\x00-\x1f\u0080-\u009f]", lines[0])
	require.NotContains(t, lines[0], "right")
	require.NotContains(t, lines[0], "abcdefghijkl")
	require.Equal(t, 4, strings.Count(lines[0], observe.Redacted), lines[0])
	require.Contains(t, lines[0], "name=\"x\\x1b]0;y\\a\\u009b\"")
}

// LO-620
func TestColoursAreForTerminalsAlone(t *testing.T) {
	lines := console(t, observe.Options{Style: observe.Style{Colour: true}}, func(log *zap.Logger) { log.Named("pool").Warn("w", zap.Int("n", 1)) })
	require.Contains(t, lines[0], "\x1b[33mWARN \x1b[0m")
	require.Equal(t, 3, strings.Count(lines[0], "\x1b[0m"))

	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer func() { require.NoError(t, errors.Join(r.Close(), w.Close())) }()
	require.Equal(t, observe.Style{}, observe.StyleOf("auto", w, env()))
	require.Equal(t, observe.Style{Console: true}, observe.StyleOf("console", w, env()))
	require.Equal(t, observe.Style{Console: true, Colour: true}, observe.StyleOf("console", w, env("CLICOLOR_FORCE", "1")))
	require.Equal(t, observe.Style{Console: true}, observe.StyleOf("console", w, env("CLICOLOR_FORCE", "1", "NO_COLOR", "1")))
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	defer terminal.Close()
	require.Equal(t, observe.Style{Console: true, Colour: true}, observe.StyleOf("auto", terminal, env()))
	require.Equal(t, observe.Style{Console: true}, observe.StyleOf("auto", terminal, env("TERM", "dumb")))
	require.Equal(t, observe.Style{}, observe.StyleOf("json", terminal, env()))
}

// LO-621
func TestTheJournalIsToldOfLevels(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer func() { require.NoError(t, errors.Join(r.Close(), w.Close())) }()
	var stat syscall.Stat_t
	require.NoError(t, syscall.Fstat(int(w.Fd()), &stat))
	ours := strconv.FormatUint(stat.Dev, 10) + ":" + strconv.FormatUint(stat.Ino, 10)
	require.Equal(t, observe.Style{Priorities: true}, observe.StyleOf("auto", w, func(string) string { return ours }))
	require.Equal(t, observe.Style{}, observe.StyleOf("auto", w, func(string) string { return "1:2" }), "the variable is inherited, the stream is not")

	var out bytes.Buffer
	tail := observe.NewTail()
	log, err := observe.NewLogger(observe.Options{Out: &out, Style: observe.Style{Priorities: true}, Level: "debug", Tail: tail})
	require.NoError(t, err)
	log.Debug("d")
	log.Info("i")
	log.Warn("w")
	log.Error("e")
	var prefixes []string
	for line := range strings.Lines(out.String()) {
		prefixes = append(prefixes, line[:3])
		require.True(t, json.Valid([]byte(line[3:])))
	}
	require.Equal(t, []string{"<7>", "<6>", "<4>", "<3>"}, prefixes)
	first, ok := tail.Read(4).Past()
	require.True(t, ok)
	text, err := first.JSON()
	require.NoError(t, err)
	require.True(t, json.Valid(text), "who reads over the API gets no priorities")
}

// An audit line has no sentence, so it shows who did what, and to what.
//
// LO-620
func TestAConsoleShowsWhoDidWhat(t *testing.T) {
	lines := console(t, observe.Options{}, func(log *zap.Logger) {
		fields := []zap.Field{zap.String("actor", "token:abc123"), zap.String("action", "fetch"), zap.String("target", "https://x/y"), zap.String("decision", "allow")}
		log.Named("policy").Info("a call was decided", append(fields, observe.Audit())...)
		log.Named("batch").Info("a batch was accepted", zap.String("actor", "localhost"))
		fields[0] = zap.String("actor", "self-test")
		log.Info("a call was decided", append(fields, observe.Audit())...)
		log.With(observe.Audit()).Info("told", append(fields, zap.String("human", "It was told."))...)
	})
	require.Len(t, lines, 4)
	require.Contains(t, lines[0], "a call was decided  actor=token:abc123  action=fetch  target=https://x/y  decision=allow")
	require.Contains(t, lines[1], "a batch was accepted  actor=localhost")
	require.Contains(t, lines[2], "actor=self-test  action=fetch")
	require.True(t, strings.HasSuffix(lines[3], "It was told."), lines[3])
}

// Only what has the shape of a UUID is shortened, and nothing of a secret is shown.
//
// LO-620
func TestAConsoleShortensUUIDsAlone(t *testing.T) {
	const token = "deadbeef-4a5b-4c6d-8e7f-0123456789ab"
	lines := console(t, observe.Options{Redactor: observe.NewRedactor(token)}, func(log *zap.Logger) {
		log.Info("m", zap.String("id", "c0ffee00-4a5b-4c6d-8e7f-0123456789ab"), zap.String("file", "file:/srv/models/qwen2.5-7b-q4km.ggu"), zap.String("odd", "a-cdefgh-jklmn-pqrstuvwx-z0123456789"),
			zap.String("token", token), zap.Error(errors.New("write x.db: no space left on device")))
	})
	require.True(t, strings.HasSuffix(lines[0], `m  id=c0ffee00  file=file:/srv/models/qwen2.5-7b-q4km.ggu  odd=a-cdefgh-jklmn-pqrstuvwx-z0123456789  token=[redacted]  error="write x.db: no space left on device"`), lines[0])
}
