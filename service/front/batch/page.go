// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"net/url"
	"strconv"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// limitOf is the `limit` of a list.
func limitOf(query url.Values, usual, most int) (int, error) {
	text := query.Get("limit")
	if text == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, lenient.Bad("limit", "it must be a whole number from 1 to %d, not %q", most, task.Clip(text, 40))
	}
	return n, nil
}

// page is the beginning of a list that has one more than is wanted where there are more.
func page[T any](all []T, limit int) (some []T, more bool) {
	if len(all) > limit {
		return all[:limit], true
	}
	return all, false
}
