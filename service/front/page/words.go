// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/a-h/templ"

	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/task"
)

// keyed hands a row its key, by the context.
func keyed(key string, c templ.Component) templ.Component {
	return templ.ComponentFunc(func(ctx context.Context, w io.Writer) error {
		return c.Render(context.WithValue(ctx, keyName{}, key), w)
	})
}

type keyName struct{}

func key(ctx context.Context) string {
	k, _ := ctx.Value(keyName{}).(string)
	return k
}

// mark names the shape of a state; the word stands beside it.
func mark(state string) string {
	switch state {
	case "ready", "active":
		return "full"
	case "loading", "provisioning", "starting", "backoff", "draining":
		return "half"
	case "fetching":
		return "down"
	case "drained", "retired", "stopped":
		return "square"
	case "failed":
		return "cross"
	case "completed":
		return "tick"
	case "canceled":
		return "dash"
	case "running":
		return "play"
	}
	return "ring"
}

// tone is the colour of a state.
func tone(state string) string {
	switch state {
	case "ready", "active", "completed":
		return "good"
	case "failed":
		return "bad"
	case "loading", "fetching", "provisioning", "starting", "backoff", "draining", "running":
		return "busy"
	}
	return "calm"
}

func gib(b int64) string { return strconv.FormatFloat(float64(b)/(1<<30), 'f', 1, 64) }

// size is a number of bytes for people.
func size(b int64) string {
	switch {
	case b >= 1<<30:
		return gib(b) + " GiB"
	case b >= 1<<20:
		return fmt.Sprintf("%d MiB", b>>20)
	case b >= 1<<10:
		return fmt.Sprintf("%d KiB", b>>10)
	}
	return fmt.Sprintf("%d B", b)
}

// span is a time for people, in two parts at most.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", max(d, 0).Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d m %02d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %02d m", int(d.Hours()), int(d.Minutes())%60)
}

func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func percent(f float64) string { return fmt.Sprintf("%.0f %%", 100*f) }

// share is a part of a whole as the width of a bar.
func share(part, whole int64) string {
	if whole <= 0 {
		return "0%"
	}
	return strconv.FormatFloat(100*float64(max(part, 0))/float64(whole), 'f', 2, 64) + "%"
}

func plural(n int, one string) string {
	if n == 1 {
		return one
	}
	return one + "s"
}

func orElse(s, other string) string { return cmp.Or(s, other) }

// budget is what is left, in words.
func budget(b task.Budgets) string {
	var parts []string
	if !b.Tokens.IsZero() {
		parts = append(parts, fmt.Sprintf("%d tokens", b.Tokens.Left))
	}
	if !b.TimeMS.IsZero() {
		parts = append(parts, span(time.Duration(b.TimeMS.Left)*time.Millisecond))
	}
	if !b.Cost.IsZero() {
		parts = append(parts, fmt.Sprintf("cost %.4g", b.Cost.Left))
	}
	if !b.Joules.IsZero() {
		parts = append(parts, fmt.Sprintf("%.0f J", b.Joules.Left))
	}
	if len(parts) == 0 {
		return "not bounded"
	}
	return strings.Join(parts, ", ")
}

// took is how long an ended task ran.
func took(t task.Status) string {
	if t.StartedAt.IsZero() || t.FinishedAt.IsZero() {
		return "–"
	}
	return span(t.FinishedAt.Sub(t.StartedAt))
}

// early says how a task's start compares with what was predicted for it.
func early(t task.Status) string {
	if t.StartedAt.IsZero() {
		return "did not start"
	}
	waited := t.StartedAt.Sub(t.AcceptedAt)
	switch off := waited - t.PredictedStart; {
	case off.Abs() < time.Second/10:
		return "as predicted"
	case off > 0:
		return span(off) + " late"
	default:
		return span(-off) + " early"
	}
}

// segment is a part of a card's memory.
type segment struct {
	class, label  string
	x, width, has string
}

// models are the models of replicas, by the replica.
func models(pools []api.HealthView) map[string]string {
	of := map[string]string{}
	for i := range pools {
		for _, r := range pools[i].Replicas {
			of[r.ID] = pools[i].Pool.Model.ID
		}
	}
	return of
}

// segments are a card's memory: ours by replica, what is promised, and of others. The rest is free.
func segments(g api.GPUView, models map[string]string) (all []segment) {
	at, ours := int64(0), 0
	put := func(class, label string, bytes int64) {
		if bytes > 0 {
			all = append(all, segment{class, label, share(at, g.VRAMTotal), share(bytes, g.VRAMTotal), size(bytes)})
			at += bytes
		}
	}
	holders := slices.Clone(g.Holders)
	slices.SortStableFunc(holders, func(a, b api.HolderView) int { return cmp.Compare(a.ReplicaID, b.ReplicaID) })
	for _, h := range holders {
		if h.ReplicaID != "" {
			label := h.ReplicaID
			if m := models[h.ReplicaID]; m != "" {
				label = m + " (" + h.ReplicaID + ")"
			}
			put(fmt.Sprintf("ours%d", ours%4), label, h.Used)
			ours++
		}
	}
	put("promised", "promised", g.VRAMPromised)
	put("foreign", "other programs", g.VRAMOther)
	return all
}

// told is the part of a card's memory bar in one sentence.
func told(g api.GPUView, all []segment) string {
	parts := make([]string, 0, len(all)+1)
	for _, s := range all {
		parts = append(parts, s.label+" "+s.has)
	}
	return strings.Join(append(parts, "free "+size(g.VRAMFree)), ", ")
}

// device is where a replica computes.
func device(r api.ReplicaView) string {
	if len(r.Cards) == 0 {
		return r.Device
	}
	return "GPU " + strings.Trim(strings.ReplaceAll(fmt.Sprint(r.Cards), " ", ", "), "[]")
}

// at is the path of what is done with something that has an id.
func at(under, id, do string) string { return under + "/" + url.PathEscape(id) + "/" + do }
