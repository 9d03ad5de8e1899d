// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/task"
)

// pieces are what a task says that has a bit of everything.
func pieces() []task.Piece {
	return []task.Piece{
		exchangetest.Reasoning("hm"), exchangetest.Reasoning(""), exchangetest.Reasoning("m"), exchangetest.Text("蛙\n"), exchangetest.Call(0, "c0", "f", ""),
		exchangetest.Call(0, "", "", `{"a"`), exchangetest.Call(1, "c1", "g", `{}`), exchangetest.Call(0, "", "", `:1}`), exchangetest.Text("then"), exchangetest.Text(" on"),
	}
}

// plain are pieces of text alone, some of them empty.
func plain() []task.Piece {
	all := []task.Piece{exchangetest.Text("")}
	for i := range 20 {
		all = append(all, exchangetest.Text(fmt.Sprint(i, " frogs\n")), exchangetest.Text(""))
	}
	return all
}

// split are the frames of a stream that have a number, by that. What stands behind the last of them stays with it.
func split(t *testing.T, body string) []string {
	t.Helper()
	var all []string
	for frame := range strings.SplitAfterSeq(body, "\n\n") {
		if strings.HasPrefix(frame, "event: ") {
			require.Contains(t, frame, fmt.Sprintf(`"sequence_number":%d}`, len(all)))
			all = append(all, frame)
		} else if len(all) > 0 {
			all[len(all)-1] += frame
		}
	}
	return all
}

// LO-432: the events behind any number are, byte for byte, those that the first client was sent.
func TestAStreamFromAnyNumber(t *testing.T) {
	for i, said := range [][]task.Piece{pieces(), plain(), pieces(), plain()} {
		background := i > 1
		for name, ends := range map[string]func(l *exchangetest.Line){
			"stop": func(l *exchangetest.Line) { l.Ends(task.FinishStop) }, "length": func(l *exchangetest.Line) { l.Ends(task.FinishLength) },
			"failed":   func(l *exchangetest.Line) { l.Fails(task.Errorf(task.WorkerReset, "gone").Retry(0)) },
			"canceled": func(l *exchangetest.Line) { l.Fails(task.Errorf(task.Canceled, "canceled")) },
		} {
			l := exchangetest.New()
			l.Says(t, said...)
			url := serve(t, l) + "/v1/responses"
			res := exchangetest.Post(t, url, fmt.Sprintf(`{%s,"stream":true,"background":%t}`, ask, background))
			ends(l)
			first, err := io.ReadAll(res.Body)
			require.True(t, err == nil || errors.Is(err, io.ErrUnexpectedEOF), err)
			all := split(t, string(first))
			require.Greater(t, len(all), 20, name)
			for after := range all {
				res := exchangetest.Do(t, http.MethodGet, fmt.Sprintf("%s/resp_t1?stream=true&starting_after=%d", url, after), "")
				require.Equal(t, strings.Join(all[after+1:], ""), exchangetest.Read(t, res.Body), "%s after %d", name, after)
			}
			code, body := get(t, http.MethodGet, fmt.Sprintf("%s/resp_t1?stream=true&starting_after=%d", url, len(all)))
			require.Equal(t, http.StatusBadRequest, code)
			require.Contains(t, body, `"param":"starting_after"`)
			require.Contains(t, body, fmt.Sprintf("number %d", len(all)-1))
		}
	}
}

// LO-432: OpenAI's SDK for Go asks for a stream in the body.
func TestAStreamThatABodyAsksFor(t *testing.T) {
	l := exchangetest.New()
	l.Keep(spoken())
	url := serve(t, l) + "/v1/responses/resp_t9"
	_, want := get(t, http.MethodGet, url+"?stream=1")
	require.Contains(t, want, "response.completed")
	require.Equal(t, want, exchangetest.Read(t, exchangetest.Do(t, http.MethodGet, url, `{"stream":true}`).Body))
	require.NotContains(t, exchangetest.Read(t, exchangetest.Do(t, http.MethodGet, url, `{"stream":false}`).Body), "response.completed")
	for body, says := range map[string]string{`{"stream":3}`: "`stream`", `{`: "not valid JSON"} {
		res := exchangetest.Do(t, http.MethodGet, url, body)
		require.Equal(t, http.StatusBadRequest, res.StatusCode)
		require.Contains(t, exchangetest.Read(t, res.Body), says)
	}
}

// LO-432: a reader of a response that runs gets what comes, from where it stands.
func TestAStreamGoesOn(t *testing.T) {
	l := exchangetest.New()
	url := serve(t, l) + "/v1/responses"
	exchangetest.Read(t, exchangetest.Post(t, url, `{`+ask+`,"background":true}`).Body)
	l.Says(t, pieces()[:5]...)
	code, body := get(t, http.MethodGet, url+"/resp_t1?stream=true&starting_after=999")
	require.Equal(t, http.StatusBadRequest, code)
	require.Contains(t, body, "no event 999")
	res := exchangetest.Do(t, http.MethodGet, url+"/resp_t1?stream=true&starting_after=4", "")
	require.Equal(t, http.StatusOK, res.StatusCode)
	l.Says(t, pieces()[5:]...)
	l.Ends(task.FinishStop)
	_, all := get(t, http.MethodGet, url+"/resp_t1?stream=true")
	require.Equal(t, strings.Join(split(t, all)[5:], ""), exchangetest.Read(t, res.Body))
	require.Zero(t, l.Cancels())
}

// LO-432: while a response is decoded again, a reader may hold more than there is. It waits, and is told where the response ends before that.
func TestAReaderWhoHoldsMore(t *testing.T) {
	for _, lost := range []bool{false, true} {
		l := exchangetest.New()
		l.Again = true
		url := serve(t, l) + "/v1/responses"
		exchangetest.Read(t, exchangetest.Post(t, url, `{`+ask+`,"background":true}`).Body)
		res := exchangetest.Do(t, http.MethodGet, url+"/resp_t1?stream=true&starting_after=6", "")
		require.Equal(t, http.StatusOK, res.StatusCode)
		if lost {
			l.Fails(task.Errorf(task.WorkerReset, "gone").Retry(0))
			got := exchangetest.Read(t, res.Body)
			require.Equal(t, "event: error\ndata: {\"type\":\"error\",\"code\":\"invalid_value\",\"message\":\"this response has no event 6: its last one is number 2. "+
				"Leave `starting_after` out to read it from the start\",\"param\":\"starting_after\",\"sequence_number\":7}\n\n", got)
			continue
		}
		l.Says(t, exchangetest.Text("a"), exchangetest.Text("b"), exchangetest.Text("c"))
		l.Ends(task.FinishStop)
		require.Equal(t, []string{"output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed"}, types(events(t, exchangetest.Read(t, res.Body))))
	}
}

// LO-432: what is no number of an event is refused by name.
func TestWhatIsNoNumber(t *testing.T) {
	l := exchangetest.New()
	l.Keep(spoken())
	url := serve(t, l) + "/v1/responses/resp_t9?stream=true&starting_after="
	for _, text := range []string{"-1", "x", "1.5", "1e3", "", "99999999999999999999", "resp_t9", "+%00", strings.Repeat("9", 10000)} {
		code, body := get(t, http.MethodGet, url+text)
		require.Equal(t, http.StatusBadRequest, code, text)
		require.Contains(t, body, `"param":"starting_after"`)
		require.Less(t, len(body), 600)
	}
}

// FuzzStartingAfter: what stands behind it is a number from 0, or refused.
func FuzzStartingAfter(f *testing.F) {
	for _, seed := range []string{"0", "-1", "007", "2147483648", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := startingAfter(url.Values{afterParam: {text}})
		if err != nil {
			require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
			return
		}
		require.GreaterOrEqual(t, n, 0)
	})
}

// long is a response of so many tokens.
func long(tokens int) task.Record {
	r := spoken()
	r.Transcript = task.Transcript{}
	for range tokens {
		r.Transcript.Text += "frog "
		r.Transcript.Ends = append(r.Transcript.Ends, len(r.Transcript.Text))
	}
	return r
}

// How long a client waits that resumes at the end of a long response, over HTTP.
func BenchmarkResumeAtTheEnd(b *testing.B) {
	r := long(10_000)
	l := exchangetest.New()
	l.Keep(r)
	k := kept{Record: r}
	require.NoError(b, json.Unmarshal(r.Task.Request.Front.Reply, &k.reply))
	last := k.events(math.MaxInt).last(k.Events())
	url := exchangetest.Serve(b, l, front) + "/v1/responses/resp_t9?stream=true&starting_after=" + fmt.Sprint(last-1)
	client := &http.Client{Transport: &http.Transport{}} // which checks nothing
	defer client.CloseIdleConnections()
	var sum [32]byte
	for b.Loop() {
		res, err := client.Get(url)
		require.NoError(b, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(b, err)
		require.NoError(b, res.Body.Close())
		if now := sha256.Sum256(body); sum == [32]byte{} {
			sum = now
		} else {
			require.Equal(b, sum, now)
		}
	}
}
