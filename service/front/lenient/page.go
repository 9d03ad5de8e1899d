// SPDX-License-Identifier: GPL-3.0-or-later

package lenient

import (
	"net/url"
	"strconv"

	"github.com/llama-orch/llama-orch/service/task"
)

// Limit is the `limit` of a list.
func Limit(query url.Values, usual, most int) (int, error) {
	text := query.Get("limit")
	if text == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, Bad("limit", "it must be a whole number from 1 to %d, not %q", most, task.Clip(text, maxQuote))
	}
	return n, nil
}

// Ascending reports whether the `order` of a list is from the first to the last. It is the other one where nothing is said.
func Ascending(query url.Values) (bool, error) {
	switch order := query.Get("order"); order {
	case "asc":
		return true, nil
	case "", "desc":
		return false, nil
	default:
		return false, Bad("order", "it must be asc or desc, not %q", task.Clip(order, maxQuote))
	}
}

// Page is the beginning of a list that has more than is wanted where there is more.
func Page[T any](all []T, limit int) (some []T, more bool) {
	return all[:min(limit, len(all))], len(all) > limit
}
