// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"math"

	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/observe"
)

// logs shows the log's lines to the API.
type logs struct{ tail *observe.Tail }

// Read implements api.Logs.
func (l logs) Read() api.LogReader { return logReader{l.tail.Read(math.MaxInt)} }

type logReader struct{ from *observe.Reader }

// Past implements api.LogReader.
func (r logReader) Past() (api.LogLine, bool) {
	line, ok := r.from.Past()
	return shown(line), ok
}

// Next implements api.LogReader.
func (r logReader) Next(ctx context.Context) (api.LogLine, error) {
	line, err := r.from.Next(ctx)
	return shown(line), err
}

func shown(line observe.Line) api.LogLine {
	return api.LogLine{Level: line.Level, Lost: line.Lost, JSON: line.JSON}
}
