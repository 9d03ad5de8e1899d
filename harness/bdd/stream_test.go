// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	startedData = `{"task_id":"t","queue_position":0,"predicted_start_ms":0,"seed":1,"determinism":"strict"}`
	metricsData = `{"phase":"decode","queue_depth":0,"queue_position":0,"predicted_start_ms":0,"on_time_probability":1,"kv_warmth":false}`
	errorData   = `{"code":"CANCELED","message":"the task was canceled","retriable":false}`
)

func endData(text string, tokens int) string {
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf(`{"tokens_in":1,"tokens_out":%d,`, tokens) + `"decode_time_ms":1,"finish_reason":"stop","receipt":{"seed":1,"determinism":"strict","fingerprint":"f",` +
		`"request_digest":"d","transcript_sha256":"` + hex.EncodeToString(sum[:]) + `","transcript_form":"text","replica_id":"r","engine_version":"v","model_digest":"m"}}`
}

func token(i int, text string) event {
	return event{Name: "token", Data: fmt.Sprintf(`{"t":%q,"i":%d}`, text, i)}
}

// log gives the events the ids that they should have.
func log(events ...event) []event {
	running, seq := sha256.New(), 0
	for i, e := range events {
		if e.Name == "metrics" {
			continue
		}
		_, _ = io.WriteString(running, e.Name+"\n"+e.Data+"\n")
		events[i].ID = fmt.Sprintf("%d-%s", seq, hex.EncodeToString(running.Sum(nil)[:4]))
		seq++
	}
	return events
}

func readAll(body string, prior ...event) *stream {
	s := newStream("s", "t", prior)
	s.read(io.NopCloser(strings.NewReader(body)))
	return s
}

// good is a stream without fault.
func good() []event {
	return log(event{Name: "started", Data: startedData}, token(0, "a"), event{Name: "metrics", Data: metricsData}, token(1, "é\n"),
		event{Name: "end", Data: endData("aé\n", 2)})
}

// LO-201, ORCH-2002
func TestTheReaderTakesASoundStream(t *testing.T) {
	s := readAll(": hello\n\n" + frames(good()))
	events, err := s.list()
	require.NoError(t, err)
	require.Len(t, events, 4)
	require.Equal(t, "aé\n", text(events))
	last, err := s.over()
	require.NoError(t, err)
	require.Equal(t, "end", last.Name)

	resumed := readAll(frames(good()[3:]), good()[0], good()[1])
	_, err = resumed.list()
	require.NoError(t, err)
	all, err := resumed.all()
	require.NoError(t, err)
	require.Equal(t, frames(events), frames(all))
}

// A reader that takes anything would prove nothing.
//
// LO-201, ORCH-2002, LO-204
func TestTheReaderRefusesEveryBreach(t *testing.T) {
	started := event{Name: "started", Data: startedData}
	whole := frames(good())
	for name, body := range map[string]string{
		"a gap":                        frames(slices.Delete(good(), 1, 2)),
		"a repeat":                     frames(slices.Insert(good(), 1, good()[1])),
		"another hash":                 strings.Replace(whole, good()[3].ID, "2-00000000", 1),
		"a byte changed":               strings.Replace(whole, `"t":"a"`, `"t":"b"`, 1),
		"no id":                        strings.Replace(whole, "id: "+good()[1].ID+"\n", "", 1),
		"an id on a metrics frame":     strings.Replace(whole, "event: metrics", "id: 9-00000000\nevent: metrics", 1),
		"the order of the lines":       strings.Replace(whole, "id: "+good()[0].ID+"\nevent: started", "event: started\nid: "+good()[0].ID, 1),
		"an unknown field":             strings.Replace(whole, "event: started", "retry: 5\nevent: started", 1),
		"CRLF":                         strings.ReplaceAll(whole, "\n", "\r\n"),
		"no blank after data":          "data:" + whole,
		"an end within a frame":        strings.TrimSuffix(whole, "\n"),
		"an event behind the end":      whole + ": fine\n\n" + event{Name: "metrics", Data: metricsData}.Frame(),
		"no `started`":                 frames(log(token(0, "a"))),
		"two `started`":                frames(log(started, started)),
		"metrics first":                event{Name: "metrics", Data: metricsData}.Frame() + whole,
		"another task":                 frames(log(event{Name: "started", Data: strings.Replace(startedData, `"t"`, `"u"`, 1)})),
		"an unknown event":             frames(log(started, event{Name: "tokens", Data: `{}`})),
		"a token count with a gap":     frames(log(started, token(1, "a"))),
		"an empty token":               frames(log(started, token(0, ""))),
		"another transcript":           frames(log(started, token(0, "a"), event{Name: "end", Data: endData("b", 1)})),
		"a song":                       frames(log(started, event{Name: "token", Data: `{"t":"a","i":0,"channel":"song"}`})),
		"a call that nobody named":     frames(log(started, event{Name: "tool_call", Data: `{"n":0,"arguments":"{}"}`})),
		"thinking in a plain digest":   frames(log(started, event{Name: "token", Data: `{"t":"a","i":0,"channel":"reasoning"}`}, event{Name: "end", Data: endData("a", 1)})),
		"another count of tokens":      frames(log(started, token(0, "a"), event{Name: "end", Data: endData("a", 2)})),
		"another seed in the receipt":  frames(log(started, event{Name: "end", Data: strings.Replace(endData("", 0), `"seed":1`, `"seed":2`, 1)})),
		"a receipt without a field":    frames(log(started, event{Name: "end", Data: strings.Replace(endData("", 0), `"fingerprint":"f",`, "", 1)})),
		"a field that nobody promised": frames(log(started, event{Name: "error", Data: strings.Replace(errorData, "{", `{"trace":"x",`, 1)})),
		"data that is no JSON":         frames(log(started, event{Name: "error", Data: "oops"})),
	} {
		_, err := readAll(body).list()
		require.Error(t, err, name)
	}
	_, err := readAll(frames(log(started, token(0, "a")))).over()
	require.ErrorContains(t, err, "without a terminal event")
}

// HME-042
func TestAScenarioFailsForAnErrorThatNobodyAsserted(t *testing.T) {
	w := newWorld(&lab{})
	w.last = &response{what: "GET /x", status: 404}
	require.ErrorContains(t, w.settled(), "GET /x")
	require.NoError(t, w.theAnswerIs(http.StatusNotFound))
	require.NoError(t, w.settled())

	s := readAll(frames(log(event{Name: "started", Data: startedData}, event{Name: "error", Data: errorData})))
	s.close = context.CancelFunc(func() {})
	w.streams["s"] = s
	require.ErrorContains(t, w.unseen(), "CANCELED")
	require.Error(t, w.theStreamEndsWith("s", "end"))
	require.NoError(t, w.theStreamEndsWith("s", "error CANCELED"))
	require.NoError(t, w.unseen())
}

// OC-CTRL-2030, OC-CTRL-2052
func TestAnAnswerIsHeldAgainstTheEnvelope(t *testing.T) {
	const sane = `{"code":"NOT_FOUND","message":"there is no such thing","retriable":false}`
	for name, c := range map[string]struct {
		status     int
		kind, body string
		id         string
		ok         bool
	}{
		"sound":             {404, "application/json", sane, "x", true},
		"no correlation id": {404, "application/json", sane, "", false},
		"plain text":        {404, "text/plain", "404 page not found", "x", false},
		"another status":    {400, "application/json", sane, "x", false},
		"an unknown code":   {404, "application/json", strings.Replace(sane, "NOT_FOUND", "GONE", 1), "x", false},
		"a cause":           {404, "application/json", strings.Replace(sane, "thing", "dial tcp 127.0.0.1:1", 1), "x", false},
		"another field":     {404, "application/json", strings.Replace(sane, "{", `{"stack":"x",`, 1), "x", false},
		"no Retry-After":    {429, "application/json", strings.Replace(sane, "NOT_FOUND", "ADMISSION_REJECT", 1), "x", false},
	} {
		h := http.Header{"Content-Type": {c.kind}}
		if c.id != "" {
			h.Set("X-Correlation-Id", c.id)
		}
		a := &response{what: "GET /x", status: c.status, header: h, body: []byte(c.body)}
		require.Equal(t, c.ok, a.check() == nil, name)
	}
}

func TestMatch(t *testing.T) {
	v, err := decode([]byte(`{"a":{"b":[1,"two"]},"n":1.5,"s":"7"}`))
	require.NoError(t, err)
	for _, c := range []struct {
		path, want string
		ok         bool
	}{
		{"a.b.0", "1", true},
		{"a.b.0", "2", false},
		{"a.b.1", "two", true},
		{"a.b.1", "/^t.o$/", true},
		{"a.b.1", "/x/", false},
		{"a.b.2", "absent", true},
		{"a.b.2", "present", false},
		{"a.b", "present", true},
		{"a.b", "absent", false},
		{"n", ">= 1.5", true},
		{"n", "> 1.5", false},
		{"n", "< 2", true},
		{"s", "> 1", false},
		{"s", "7", true},
		{"a.b", `[1, "two"]`, true},
		{"zzz", "1", false},
		{".", "present", true},
	} {
		require.Equal(t, c.ok, match(dig(v, c.path), c.want) == nil, "%s is %s", c.path, c.want)
	}
	_, err = decode([]byte("3f8a"))
	require.Error(t, err)
}

// ORCH-3028
func TestSumOfSeries(t *testing.T) {
	s := series{samples: []sample{
		{"x", labelsOf(`a="1",b="2"`), 3}, {"x", labelsOf(`a="1",b="4"`), 5}, {"y", nil, 7},
	}}
	total, found := s.sum(`x{a="1"}`)
	require.True(t, found)
	require.InDelta(t, 8, total, 0)
	total, _ = s.sum(`x{b="4"}`)
	require.InDelta(t, 5, total, 0)
	_, found = s.sum(`x{b="9"}`)
	require.False(t, found)
}
