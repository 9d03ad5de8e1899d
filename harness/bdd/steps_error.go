// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cucumber/godog"
)

// statuses lists the codes that answers may have, with the HTTP status of each.
var statuses = map[string]int{
	"INVALID_PARAMS": 400, "DEADLINE_UNMET": 400, "MISSING_TOKEN": 401, "BAD_TOKEN": 401, "UNTRUSTED_ARTIFACT": 403, "POLICY_DENIED": 403,
	"NOT_FOUND": 404, "MODEL_NOT_FOUND": 404, "METHOD_NOT_ALLOWED": 405, "CONFLICT": 409, "MODEL_DEPRECATED": 410, "DELETED": 410, "TOO_LARGE": 413,
	"UNSUPPORTED_MEDIA_TYPE": 415,
	"ADMISSION_REJECT":       429, "QUEUE_FULL_DROP_LRU": 429, "RATE_LIMITED": 429, "BUDGET_EXCEEDED": 429, "INTERNAL": 500, "NOT_IMPLEMENTED": 501,
	"POOL_UNREADY": 503, "POOL_UNAVAILABLE": 503, "REPLICA_EXHAUSTED": 503, "SHUTTING_DOWN": 503, "LEDGER_UNAVAILABLE": 503,
}

func (w *world) errorSteps(step define) {
	step(`^I post to "([^"]*)"$`, w.iPost)
	step(`^I post (\d+) bytes to "([^"]*)"$`, w.iPostBytes)
	step(`^I send (GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) "([^"]*)"$`, w.iSend)
	step(`^I send (GET|HEAD|POST|OPTIONS) "([^"]*)" with the headers$`, w.iSendWith)
	step(`^the answer is (\d+)$`, w.theAnswerIs)
	step(`^the answer is (\d+) ([A-Z_]+)$`, w.theAnswerIsCode)
	step(`^its message says "(.*)"$`, w.itsMessageSays)
	step(`^its message does not say "(.*)"$`, w.itsMessageDoesNotSay)
	step(`^its text (says|does not say) "(.*)"$`, w.itsTextSays)
	step(`^its body has$`, w.itsBodyHas)
	step(`^its body lists (\d+) "([^"]*)"$`, w.itsBodyLists)
	step(`^its headers have$`, w.itsHeadersHave)
	step(`^its headers give the same figures as its body$`, w.itsHeadersAgree)
	step(`^I keep its "([^"]*)" as \$([A-Z]+)$`, w.iKeep)
	step(`^the daemon still serves$`, w.theDaemonStillServes)
}

var (
	sound = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)
	leak  = regexp.MustCompile(`goroutine \d|\.go:\d|panic|0x[0-9a-f]{6}|connection refused|dial tcp`)
)

// check checks what every answer must have: a correlation id (OC-CTRL-2052) and, if it is an error, the one envelope with a code of the closed list, the
// right status, and a message that says what to do (OC-CTRL-2030).
func (a *response) check() error {
	if id := a.header.Get("X-Correlation-Id"); !sound.MatchString(id) {
		return fmt.Errorf("it carries the correlation id %q", id)
	}
	if a.status < http.StatusBadRequest {
		return nil
	}
	if !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
		return fmt.Errorf("an error of content type %q", a.header.Get("Content-Type"))
	}
	if openAIs.MatchString(a.what) {
		return a.checkOpenAI()
	}
	e, err := object(string(a.body), []string{"code", "message", "retriable"}, errorFields)
	if err != nil {
		return err
	}
	code, _ := e["code"].(string)
	ofContent := code == "INVALID_PARAMS" && (a.status == http.StatusPreconditionFailed || a.status == http.StatusRequestedRangeNotSatisfiable)
	if statuses[code] != a.status && !ofContent {
		return fmt.Errorf("the code %s belongs to the status %d", code, statuses[code])
	}
	message, _ := e["message"].(string)
	if len(message) < 10 || leak.MatchString(message) {
		return fmt.Errorf("the message tells too little or too much: %q", message)
	}
	if a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable && e["retry_after_ms"] != nil {
		if a.header.Get("Retry-After") == "" {
			return errors.New("Retry-After is missing")
		}
	}
	return nil
}

// openAIs are the paths whose errors have OpenAI's shape.
var openAIs = regexp.MustCompile(` /v1/(responses|audio|images)\b`)

// checkOpenAI checks what every error of OpenAI's dialect must have (LO-404).
func (a *response) checkOpenAI() error {
	var body struct {
		Error struct {
			Message, Type, Code string
		}
	}
	if err := json.Unmarshal(a.body, &body); err != nil {
		return fmt.Errorf("an error of OpenAI's dialect: %w", err)
	}
	e := body.Error
	if len(e.Message) < 10 || leak.MatchString(e.Message) || e.Type == "" || e.Code == "" {
		return errors.New("the error tells too little or too much")
	}
	return nil
}

func (w *world) iPost(path string, body *godog.DocString) error {
	content, err := w.expand(body.Content)
	if err != nil {
		return err
	}
	return w.call(http.MethodPost, path, nil, []byte(content))
}

func (w *world) iPostBytes(n int, path string) error {
	const frame = `{"model_ref":"haiku","prompt":""}`
	body := frame[:len(frame)-2] + strings.Repeat("x", n-len(frame)) + frame[len(frame)-2:]
	return w.call(http.MethodPost, path, nil, []byte(body))
}

func (w *world) iSend(method, path string) error { return w.call(method, path, nil, nil) }

func (w *world) iSendWith(method, path string, t *godog.Table) error {
	rows, err := w.rows(t)
	if err != nil {
		return err
	}
	var body []byte
	if at := slices.IndexFunc(rows, func(r row) bool { return r.name == "body" }); at >= 0 {
		body, rows = []byte(rows[at].value), slices.Delete(rows, at, at+1)
	}
	return w.call(method, path, rows, body)
}

func (w *world) answered() (*response, error) {
	if w.last == nil {
		return nil, errors.New("the scenario has sent no request")
	}
	return w.last, nil
}

func (w *world) theAnswerIs(status int) error {
	a, err := w.answered()
	if err != nil {
		return err
	}
	a.asserted = true
	if a.status != status {
		return fmt.Errorf("the answer to %s is %d %s", a.what, a.status, a.body)
	}
	return nil
}

func (w *world) theAnswerIsCode(status int, code string) error {
	if err := w.theAnswerIs(status); err != nil {
		return err
	}
	return w.has("code", code)
}

// answeredJSON returns the last answer and its decoded body.
func (w *world) answeredJSON() (*response, any, error) {
	a, err := w.answered()
	if err != nil {
		return nil, nil, err
	}
	body, err := decode(a.body)
	return a, body, err
}

// has looks into the body of the last answer.
func (w *world) has(path, want string) error {
	a, body, err := w.answeredJSON()
	if err != nil {
		return err
	}
	if err := match(dig(body, path), want); err != nil {
		return fmt.Errorf("%s: %w, in %s", path, err, a.body)
	}
	return nil
}

func (w *world) message() (string, error) {
	var e struct {
		Message string `json:"message"`
	}
	a, err := w.answered()
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(a.body, &e); err != nil {
		return "", fmt.Errorf("read the error: %w", err)
	}
	return e.Message, nil
}

func (w *world) itsMessageSays(part string) error {
	message, err := w.message()
	if err == nil && !strings.Contains(message, part) {
		err = fmt.Errorf("the message is %q", message)
	}
	return err
}

// itsTextSays looks at a body that is no JSON.
func (w *world) itsTextSays(how, part string) error {
	a, err := w.answered()
	if err != nil {
		return err
	}
	part = strings.ReplaceAll(part, `\"`, `"`)
	if strings.Contains(string(a.body), part) != (how == "says") {
		return fmt.Errorf("the text is %q", a.body)
	}
	return nil
}

func (w *world) itsMessageDoesNotSay(part string) error {
	message, err := w.message()
	if err == nil && strings.Contains(message, part) {
		err = fmt.Errorf("the message is %q", message)
	}
	return err
}

func (w *world) itsBodyHas(t *godog.Table) error {
	rows, err := w.rows(t)
	for _, r := range rows {
		err = errors.Join(err, w.has(r.name, r.value))
	}
	return err
}

func (w *world) itsBodyLists(n int, path string) error {
	_, body, err := w.answeredJSON()
	if err != nil {
		return err
	}
	if list, ok := dig(body, path).([]any); !ok || len(list) != n {
		return fmt.Errorf("%s is %s", path, show(dig(body, path)))
	}
	return nil
}

func (w *world) itsHeadersHave(t *godog.Table) error {
	a, err := w.answered()
	if err != nil {
		return err
	}
	rows, err := w.rows(t)
	for _, r := range rows {
		var got any = absent{}
		if values := a.header.Values(r.name); len(values) > 0 {
			got = values[0]
		}
		if wrong := match(got, r.value); wrong != nil {
			err = errors.Join(err, fmt.Errorf("header %s: %w", r.name, wrong))
		}
	}
	return err
}

// itsHeadersAgree checks the figures of a 429 (ORCH-2007): X-Backoff-Ms equals retry_after_ms, and Retry-After is the same in whole seconds,
// rounded up and at least 1.
func (w *world) itsHeadersAgree() error {
	a, err := w.answered()
	if err != nil {
		return err
	}
	var body struct {
		MS int64 `json:"retry_after_ms"`
	}
	if err := json.Unmarshal(a.body, &body); err != nil {
		return fmt.Errorf("read the error: %w", err)
	}
	seconds := strconv.FormatInt(max((body.MS+999)/1000, 1), 10)
	if body.MS < 1 || a.header.Get("X-Backoff-Ms") != strconv.FormatInt(body.MS, 10) || a.header.Get("Retry-After") != seconds {
		return fmt.Errorf("X-Backoff-Ms is %q, Retry-After %q, and the body %s", a.header.Get("X-Backoff-Ms"), a.header.Get("Retry-After"), a.body)
	}
	return nil
}

func (w *world) iKeep(path, name string) error {
	_, body, err := w.answeredJSON()
	if err != nil {
		return err
	}
	value := dig(body, path)
	if err := match(value, "present"); err != nil {
		return err
	}
	w.kept[name] = plain(value)
	return nil
}

func (w *world) theDaemonStillServes() error {
	if err := w.submit("still", nil); err != nil {
		return err
	}
	if err := w.theAnswerIs(http.StatusAccepted); err != nil {
		return err
	}
	if err := w.follow("still", "still", nil, nil, ""); err != nil {
		return err
	}
	return w.theStreamEndsWith("still", "end")
}
