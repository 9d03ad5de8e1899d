// SPDX-License-Identifier: GPL-3.0-or-later

package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/tape"
)

// samples is how many exchanges of one shape are checked: the same operation, the same status, media type and code, the same fields.
const samples = 3

// Answers are the different exchanges of a record.
type Answers struct {
	Recorded int // in all
	Cut      int // whose client left before the end; only of streams it is checked what came
	Kept     []tape.Exchange

	// What Prism does not look at is checked of each exchange: the events of streams.
	Streams, Events int
	Wrong           []string

	seen map[string]int
}

// fronts begin the paths of other dialects, which harness/dialect holds against their owners' documents, and those of the status page.
var fronts = []string{
	"/api/", "/page/", "/v1/audio/", "/v1/batches", "/v1/chat/", "/v1/completions", "/v1/embeddings", "/v1/files", "/v1/images/", "/v1/messages", "/v1/models", "/v1/rerank", "/v1/responses",
}

// Take adds an exchange, unless there are enough like it, or it is in another dialect. At / is the status page, or Ollama's line.
func (a *Answers) Take(d *Document, e tape.Exchange) {
	if e.Target == "/" || slices.ContainsFunc(fronts, func(path string) bool { return strings.HasPrefix(e.Target, path) }) {
		return
	}
	a.Recorded++
	if !e.Whole && media(e) != "text/event-stream" {
		a.Cut++
		return
	}
	if e.Status == http.StatusOK && media(e) == "text/event-stream" {
		events, err := d.Stream(e)
		if a.Streams, a.Events = a.Streams+1, a.Events+events; err != nil {
			a.Wrong = append(a.Wrong, mismatch(e, err.Error()))
		}
	}
	if a.seen == nil {
		a.seen = map[string]int{}
	}
	key := fmt.Sprint(e.Method, " ", name(d.operation(e.Method, e.Target)), e.Status, media(e), shape(e))
	if e.Status < http.StatusBadRequest {
		key += fields(e.Request) // what is served is looked at from both sides
	}
	if a.seen[key]++; a.seen[key] <= samples {
		a.Kept = append(a.Kept, e)
	}
}

// mismatch says what of an exchange does not fit.
func mismatch(e tape.Exchange, wrong ...string) string {
	return fmt.Sprintf("%s %s → %d %s: %s; it answered %.300s", e.Method, e.Target, e.Status, media(e), strings.Join(wrong, "; "), e.Body)
}

func name(o *operation) string {
	if o == nil {
		return "none"
	}
	return o.id
}

func media(e tape.Exchange) string {
	kind, _, err := mime.ParseMediaType(e.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return kind
}

// shape tells answers apart by what they have: the code of an error, and the names of fields.
func shape(e tape.Exchange) string {
	if media(e) == "text/event-stream" {
		return fmt.Sprint(strings.Count(string(e.Body), "event: error"), strings.Count(string(e.Body), "event: end"))
	}
	return fields(e.Body)
}

func fields(body []byte) string {
	var v any
	if json.Unmarshal(body, &v) != nil {
		return ""
	}
	fields := map[string]bool{}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, v := range v {
				walk(at+"."+k, v)
			}
		case []any:
			for _, v := range v {
				walk(at, v)
			}
		case string:
			if strings.HasSuffix(at, ".code") || strings.HasSuffix(at, "state") {
				at += "=" + v
			}
			fields[at] = true
		case nil:
			fields[at+"=null"] = true
		default:
			fields[at] = true
		}
	}
	walk("", v)
	return strings.Join(slices.Sorted(maps.Keys(fields)), " ")
}

// Refusal holds an error against the codes that the document names for its operation, or, where it has no operation, against what is said of all.
// What a status says of a code, the proxy checks.
//
// A HEAD has no operation of its own: its status is one of the GET's.
func (d *Document) Refusal(e tape.Exchange) error {
	o := d.operation(e.Method, e.Target)
	if e.Method == http.MethodHead && o != nil && !slices.Contains(o.statuses, strconv.Itoa(e.Status)) {
		return fmt.Errorf("the document does not name the status %d for %s", e.Status, o.id)
	}
	if e.Status < http.StatusBadRequest || e.Method == http.MethodHead {
		return nil
	}
	if err := d.fits(refusal, string(e.Body)); err != nil {
		return fmt.Errorf("its body is no envelope: %w", err)
	}
	var envelope struct{ Code string }
	if err := json.Unmarshal(e.Body, &envelope); err != nil {
		return err //nolint:wrapcheck // it was valid above
	}
	if o != nil && !slices.Contains(o.codes, envelope.Code) {
		return fmt.Errorf("the document does not name the code %s for %s", envelope.Code, o.id)
	}
	return nil
}

// Stream holds the events of a stream against their schemas, and counts them. A stream that the client left ends where it left.
func (d *Document) Stream(e tape.Exchange) (events int, err error) {
	o := d.operation(e.Method, e.Target)
	if o == nil {
		return 0, errors.New("the document has no such stream")
	}
	body := e.Body
	if !e.Whole {
		body = body[:bytes.LastIndex(body, []byte("\n\n"))+len("\n\n")]
		if bytes.IndexByte(body, '\n') < 0 {
			return 0, nil
		}
	}
	for in := client.NewScanner(bytes.NewReader(body)); ; events++ {
		event, err := in.Next()
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err == nil && event.ID != "" {
			id, _ := json.Marshal(event.ID) // a string can be
			err = d.fits(eventID, string(id))
		}
		if at, ok := o.events[event.Name]; err == nil && ok {
			err = d.fits(at, event.Data)
		} else if err == nil {
			err = fmt.Errorf("the document has no such event of %s", o.id)
		}
		if err != nil {
			return events, fmt.Errorf("event %q %s: %w", event.Name, event.Data, err)
		}
	}
}
