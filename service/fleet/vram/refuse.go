// SPDX-License-Identifier: GPL-3.0-or-later

package vram

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// A refusal is a *task.Error that wraps one of these, or a *ShortageError if there is too little memory.
var (
	ErrNoDriver  = errors.New("no usable NVIDIA driver")
	ErrUnhealthy = errors.New("the card is not healthy")
)

// ShortageError says why a reservation does not fit. Its figures are bytes.
type ShortageError struct {
	Need  int64
	Card  int // the card that is too small, or the one with the most free; -1: no such card
	Free  int64
	Total int64
	Never bool // not even an empty card would hold it, so neither waiting nor evicting helps
}

func (e *ShortageError) Error() string {
	return fmt.Sprintf("need %d bytes on card %d, of %d bytes in all and %d free", e.Need, e.Card, e.Total, e.Free)
}

// NeverFits reports whether err is a refusal that no waiting and no eviction will change.
func NeverFits(err error) bool {
	var short *ShortageError
	return errors.As(err, &short) && short.Never
}

// retryAfter is when it makes sense to ask again, if somebody has to give memory back first.
const retryAfter = 5 * time.Second

func noDriver(why string) error {
	return task.Errorf(task.PoolUnavailable, "%s", why).Because(ErrNoDriver)
}

func stale(since time.Duration) error {
	return task.Errorf(task.PoolUnavailable,
		"the NVIDIA driver has not told its free memory for %d s: look at `nvidia-smi` and `dmesg`, and restart the machine if it hangs", int(since.Seconds())).Because(ErrNoDriver)
}

func missing(index, cards int) error {
	have := fmt.Sprintf("which has %d cards, counted from 0", cards)
	if cards == 1 {
		have = "which has one card, 0"
	}
	return task.Errorf(task.PoolUnavailable, "`device` names card %d, which is not in this machine, %s: correct it, or say `device: auto`", index, have).
		Because(&ShortageError{Card: -1, Never: true})
}

func sick(c CardView) error {
	return task.Errorf(task.PoolUnavailable, "%s is not used for now: %s", c.name(), c.Problem).Retry(retryAfter).Because(ErrUnhealthy)
}

func tooLarge(need int64, c CardView) error {
	return task.Errorf(task.PoolUnavailable,
		"a worker needs %s on %s, which has %s in all, so waiting will not help: use a smaller model, quantisation or `ctx`, or another `device`",
		Size(need), c.name(), Size(c.Total)).Because(&ShortageError{Need: need, Card: c.Index, Free: c.Free, Total: c.Total, Never: true})
}

func noRoom(need int64, c CardView) error {
	return task.Errorf(task.PoolUnavailable,
		"a worker needs %s on %s, and %s are free there: drain another pool, end what else holds its memory (`nvidia-smi` shows it), or lower `ctx` or `slots`",
		Size(need), c.name(), Size(c.Free)).Retry(retryAfter).Because(&ShortageError{Need: need, Card: c.Index, Free: c.Free, Total: c.Total})
}

// noCard is the refusal if no card was named. Most is the healthy card with the most free memory, largest the card with the most memory
// in all.
func noCard(need int64, most, largest *CardView, sickly *CardView) error {
	switch {
	case need > largest.Total:
		return task.Errorf(task.PoolUnavailable,
			"a worker needs %s on one card, and the largest, %s, has %s in all, so waiting will not help: use a smaller model, quantisation or `ctx`, or split it with `device` and `tensor_split`",
			Size(need), largest.name(), Size(largest.Total)).Because(&ShortageError{Need: need, Card: largest.Index, Free: largest.Free, Total: largest.Total, Never: true})
	case most == nil:
		return sick(*sickly)
	default:
		also := ""
		if sickly != nil {
			also = fmt.Sprintf("; %s is not used for now: %s", sickly.name(), sickly.Problem)
		}
		return task.Errorf(task.PoolUnavailable,
			"a worker needs %s on one card, and the most that is free is %s on %s: drain another pool, end what else holds its memory (`nvidia-smi` shows it), or lower `ctx` or `slots`%s",
			Size(need), Size(most.Free), most.name(), also).Retry(retryAfter).Because(&ShortageError{Need: need, Card: most.Index, Free: most.Free, Total: most.Total})
	}
}

// Size writes bytes for people.
func Size(bytes int64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%.0f MiB", math.Ceil(float64(bytes)/(1<<20)))
	default:
		return fmt.Sprintf("%d bytes", bytes)
	}
}
