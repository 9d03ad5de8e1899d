// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// logger is a daemon, as far as the contract is about it.
type logger interface{ Lines() []string }

// logContract checks every log line of every daemon of the run, once all scenarios are over, against the promises about log lines (ORCH-3027,
// ORCH-3300, AUTH-1007). Each prompt that was sent, each text that was generated and each token in use is a canary: no line may hold any
// of them.
type logContract struct {
	mu       sync.Mutex
	daemons  []logger
	canaries map[string]string // key: what no line may hold; value: what that is
}

func newLogContract() *logContract { return &logContract{canaries: map[string]string{}} }

// watch adds a daemon and its secret.
func (c *logContract) watch(d logger, token string) {
	c.mu.Lock()
	c.daemons = append(c.daemons, d)
	c.mu.Unlock()
	c.secret(token)
}

// secret plants the text after the scheme of an Authorization header.
func (c *logContract) secret(credentials string) {
	if _, after, found := strings.Cut(credentials, " "); found {
		credentials = after
	}
	if len(credentials) >= minSecret {
		c.plant(credentials, "a token")
	}
}

// Shorter texts are not looked for: they could be words of any line.
const (
	minSecret = 8
	minText   = 12
)

// breaks matches the places where a text of several lines looks different in JSON.
var breaks = regexp.MustCompile(`[\n\r\t"\\]+`)

func (c *logContract) words(text, what string) {
	for _, piece := range breaks.Split(text, -1) {
		if piece = strings.TrimSpace(piece); len(piece) >= minText {
			c.plant(piece[:min(len(piece), 120)], what)
		}
	}
}

func (c *logContract) plant(canary, what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.canaries[canary] = what
}

func (c *logContract) generated(text string) { c.words(text, "generated text") }

// body plants the prompts of a submit, even if something else in it is wrong.
func (c *logContract) body(body []byte) {
	var sent map[string]any
	if json.Unmarshal(body, &sent) != nil {
		return
	}
	for _, field := range []string{"prompt", "messages", "inputs"} {
		c.prompt(sent[field])
	}
	c.prompt(dig(sent, "params.stop"))
}

func (c *logContract) prompt(v any) {
	switch v := v.(type) {
	case string:
		c.words(v, "a prompt")
	case []any:
		for _, inner := range v {
			c.prompt(inner)
		}
	case map[string]any:
		c.prompt(v["content"])
	}
}

// check is called once no daemon writes any more. It returns how many lines there were.
func (c *logContract) check() (lines int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.daemons {
		written := d.Lines()
		for _, line := range written {
			if wrong := checkLine(line); wrong != nil {
				err = errors.Join(err, fmt.Errorf("%w, in the line %.600s", wrong, line))
			}
		}
		lines += len(written)
		all := strings.Join(written, "\n")
		for canary, what := range c.canaries {
			if at := strings.Index(all, canary); at >= 0 {
				before, _, _ := strings.Cut(all[at:], "\n")
				err = errors.Join(err, fmt.Errorf("a line of the log holds %s: %.600s%s", what, all[strings.LastIndex(all[:at], "\n")+1:at], before))
			}
		}
	}
	return lines, err
}

var (
	narrates = []string{"admission", "placement", "stream_start", "stream_end", "cancel"}
	levels   = []string{"debug", "info", "warn", "error"}
	sentence = regexp.MustCompile(`^[A-Z][^\n]* [^\n]* [^\n]*\.$`)
	opaque   = regexp.MustCompile(`(?i)[0-9a-f]{8}`)
	unitless = regexp.MustCompile(`(^|_)(took|wait|waited|elapsed|duration|ttl|timeout|within|interval|delay|idle|latency|uptime)(_s|_seconds|_ns|_us)?$`) // LO-846
)

// told lists the fields that every line about a task has (ORCH-3027), and says whether each is a number.
var told = map[string]bool{
	"job_id": false, "session_id": false, "engine": false, "engine_version": false, "pool_id": false, "replica_id": false,
	"queue_position": true, "predicted_start_ms": true, "tokens_in": true, "tokens_out": true, "decode_time_ms": true,
	"correlation_id": false,
}

// checkLine says what is wrong with a single line.
func checkLine(line string) error {
	l := parseLog(line)
	if l == nil || strings.TrimSpace(line)[0] != '{' {
		return errors.New("it is no JSON object")
	}
	var err error
	ts, _ := l["ts"].(string)
	if at, wrong := time.Parse(time.RFC3339Nano, ts); wrong != nil || at.Location() != time.UTC {
		err = errors.Join(err, fmt.Errorf("`ts` is %v", l["ts"]))
	}
	level, _ := l["level"].(string)
	msg, _ := l["msg"].(string)
	if !slices.Contains(levels, level) || msg == "" {
		err = errors.Join(err, fmt.Errorf("level %q, msg %q", level, msg))
	}
	for field := range l {
		if unitless.MatchString(field) {
			err = errors.Join(err, fmt.Errorf("%s does not say its unit", field))
		}
	}
	switch {
	case slices.Contains(narrates, msg):
		return errors.Join(err, narrated(l))
	case l["human"] != nil:
		err = errors.Join(err, errors.New("it is narrated, and none of the five events"))
	case l["job_id"] != nil:
		err = errors.Join(err, tells(l))
	}
	return err
}

// tells checks the fields of a line about a task.
func tells(l logLine) (err error) {
	for field, number := range told {
		switch l[field].(type) {
		case json.Number:
			if !number {
				err = errors.Join(err, fmt.Errorf("%s is a number", field))
			}
		case string:
			if number {
				err = errors.Join(err, fmt.Errorf("%s is a text", field))
			}
		default:
			err = errors.Join(err, fmt.Errorf("%s is missing", field))
		}
	}
	return err
}

// narrated checks a line that tells an event.
func narrated(l logLine) error {
	err := tells(l)
	for _, field := range []string{"actor", "action", "target", "task"} {
		if text, _ := l[field].(string); text == "" && (field != "task" || l["job_id"] != "") {
			err = errors.Join(err, fmt.Errorf("%s is missing", field))
		}
	}
	human, _ := l["human"].(string)
	id, _ := l["job_id"].(string)
	if !sentence.MatchString(human) || opaque.MatchString(human) || len(id) >= minSecret && strings.Contains(human, id) {
		err = errors.Join(err, fmt.Errorf("`human` is no plain sentence: %q", human))
	}
	return err
}
