// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap/zapcore"

	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	linesEvery = time.Second / 5
	shownLines = 500  // as many as the page keeps
	readMost   = 5000 // lines at a time, so that a flood does not hold up what else the page gets
	maxWish    = 256  // characters of a part of a filter
)

// logWish is which lines a page asks for. False: none.
func logWish(q url.Values) (api.LogFilter, bool, error) {
	if q.Get("log") != "on" {
		return api.LogFilter{}, false, nil
	}
	f := api.LogFilter{Level: zapcore.DebugLevel, PoolID: q.Get("pool_id"), TaskID: q.Get("task_id"), Text: strings.ToLower(q.Get("text"))}
	for name, value := range map[string]string{"pool_id": f.PoolID, "task_id": f.TaskID, "text": f.Text} {
		if n := utf8.RuneCountInString(value); n > maxWish {
			return f, false, task.Errorf(task.InvalidParams, "%s has %d characters, and may have %d", name, n, maxWish)
		}
	}
	if level := q.Get("level"); level != "" {
		if err := f.Level.UnmarshalText([]byte(level)); err != nil {
			return f, false, task.Errorf(task.InvalidParams, "there is no level %q: say debug, info, warn or error", task.Clip(level, 20))
		}
	}
	return f, true, nil
}

// tail is the lines of the log for one page (LO-616). The page's goroutine owns it.
type tail struct {
	from   api.LogReader
	filter api.LogFilter
	kept   []logged // that wait to be sent, the newest
	lost   int      // lines that are missing behind them
	begun  bool     // the page has got the first of them
}

// logged is a line, and how many are missing before it.
type logged struct {
	lost int
	line []byte
}

// followLog begins with the last lines that are there.
func followLog(from api.LogReader, filter api.LogFilter) *tail {
	t := &tail{from: from, filter: filter}
	for line, more := from.Past(); more; line, more = from.Past() {
		t.take(line)
	}
	if len(t.kept) > 0 {
		t.kept[0].lost = 0 // those before it are older than what the page shows
	}
	return t
}

// read takes what has been written meanwhile. It waits for nothing.
func (t *tail) read(ctx context.Context) {
	at, stop := context.WithCancel(ctx)
	stop()
	for range readMost {
		line, err := t.from.Next(at)
		if err != nil { // there is no more now
			return
		}
		t.take(line)
	}
}

func (t *tail) take(line api.LogLine) {
	t.lost += line.Lost
	text, err := t.filter.Wanted(line)
	switch {
	case err != nil:
		t.lost++
	case text != nil:
		t.kept = append(t.kept, logged{t.lost, text})
		t.lost = 0
	}
	if len(t.kept) > shownLines {
		t.kept[1].lost += t.kept[0].lost + 1
		t.kept = t.kept[1:]
	}
}

// frame is what was kept as an event: `log` begins anew, and `lines` goes on. A number stands for so many lines that are missing. Nil: there is nothing new.
func (t *tail) frame() []byte {
	name := "lines"
	if !t.begun {
		name = "log"
	} else if len(t.kept) == 0 && t.lost == 0 {
		return nil
	}
	out := fmt.Appendf(nil, "event: %s\ndata: [", name)
	put := func(format string, value any) {
		if out[len(out)-1] != '[' {
			out = append(out, ',')
		}
		out = fmt.Appendf(out, format, value)
	}
	for _, e := range t.kept {
		if e.lost > 0 {
			put("%d", e.lost)
		}
		put("%s", e.line)
	}
	if t.lost > 0 {
		put("%d", t.lost)
	}
	t.kept, t.lost, t.begun = nil, 0, true
	return append(out, "]\n\n"...)
}
