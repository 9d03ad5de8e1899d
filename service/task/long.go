// SPDX-License-Identifier: GPL-3.0-or-later

package task

import "fmt"

// TooLongError is the cause of INVALID_PARAMS where a prompt leaves no room for an answer. Fronts word it as their clients know it.
type TooLongError struct {
	Tokens int // of the prompt
	Ctx    int // tokens that the context holds
}

func (t *TooLongError) Error() string {
	return fmt.Sprintf("%d tokens in a context of %d", t.Tokens, t.Ctx)
}
