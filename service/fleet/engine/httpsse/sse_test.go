// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

type event struct{ name, data string }

// parse feeds a parser with what a reader gives.
func parse(r io.Reader, limit int) (events []event, err error) {
	p := parser{limit: limit}
	b := make([]byte, 4096)
	for {
		n, ended := r.Read(b)
		_, err := p.feed(b[:n], func(e Event) (bool, error) {
			events = append(events, event{string(e.Name), string(e.Data)})
			return true, nil
		})
		if err != nil {
			return events, err
		}
		if ended != nil {
			return events, p.end()
		}
	}
}

// ORCH-3054
func TestTheParserFollowsTheStandard(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want []event
		err  error
	}{
		"empty":                     {"", nil, io.EOF},
		"one":                       {"data: a\n\n", []event{{"", "a"}}, io.EOF},
		"CRLF":                      {"data: a\r\n\r\ndata: b\r\n\r\n", []event{{"", "a"}, {"", "b"}}, io.EOF},
		"CR":                        {"data: a\r\rdata: b\r\r", []event{{"", "a"}, {"", "b"}}, io.EOF},
		"mixed ends":                {"data: a\r\n\ndata: b\n\r\n", []event{{"", "a"}, {"", "b"}}, io.EOF},
		"no space":                  {"data:a\n\n", []event{{"", "a"}}, io.EOF},
		"only one space goes":       {"data:  a \n\n", []event{{"", " a "}}, io.EOF},
		"several data lines":        {"data: a\ndata\ndata: b\n\n", []event{{"", "a\n\nb"}}, io.EOF},
		"an empty data line":        {"data:\n\n", []event{{"", ""}}, io.EOF},
		"comments":                  {":\n\n: ping\ndata: a\n:x\n\n:\n\n", []event{{"", "a"}}, io.EOF},
		"names":                     {"event: x\ndata: a\n\ndata: b\n\n", []event{{"x", "a"}, {"", "b"}}, io.EOF},
		"a name alone is no event":  {"event: x\n\ndata: a\n\n", []event{{"", "a"}}, io.EOF},
		"other fields":              {"id: 7\nretry: 3\nfoo: bar\ndata: a\nbare\n\n", []event{{"", "a"}}, io.EOF},
		"byte order mark":           {"\xEF\xBB\xBFdata: a\n\n", []event{{"", "a"}}, io.EOF},
		"byte order mark later":     {"data: a\n\n\xEF\xBB\xBFdata: b\n\n", []event{{"", "a"}}, io.EOF},
		"cut in a line":             {"data: a\n\ndata: b", []event{{"", "a"}}, io.ErrUnexpectedEOF},
		"cut before the blank line": {"data: a\n", nil, io.ErrUnexpectedEOF},
		"long":                      {"data: " + strings.Repeat("x", 9000) + "\n\n", []event{{"", strings.Repeat("x", 9000)}}, io.EOF},
		"too long a line":           {"data: " + strings.Repeat("x", 70000), nil, ErrTooLong},
		"too long an event":         {strings.Repeat("data: x\n", 20000), nil, ErrTooLong},
	} {
		for split, r := range map[string]io.Reader{
			"whole": strings.NewReader(c.in), "bytes": iotest.OneByteReader(strings.NewReader(c.in)),
			"halves": iotest.HalfReader(strings.NewReader(c.in)), "error with data": iotest.DataErrReader(strings.NewReader(c.in)),
		} {
			got, err := parse(r, 16384)
			require.ErrorIs(t, err, c.err, "%s, %s", name, split)
			require.Equal(t, c.want, got, "%s, %s", name, split)
		}
	}
}

// ORCH-3054
func TestAParserStopsWhereItsCallerDoes(t *testing.T) {
	boom := errors.New("boom")
	for _, want := range []error{nil, boom} {
		p, calls := parser{limit: 100}, 0
		more, err := p.feed([]byte("data: a\n\ndata: b\n\n"), func(Event) (bool, error) { calls++; return want != nil, want })
		require.ErrorIs(t, err, want)
		require.False(t, more)
		require.Equal(t, 1, calls)
	}
}

// simple is the parser at its plainest, to compare with.
func simple(in string) (events []event, whole bool) {
	in = strings.TrimPrefix(in, "\xEF\xBB\xBF")
	in = strings.ReplaceAll(strings.ReplaceAll(in, "\r\n", "\n"), "\r", "\n")
	var e event
	var data []string
	lines := strings.Split(in, "\n")
	for _, line := range lines[:len(lines)-1] {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if data != nil {
				e.data = strings.Join(data, "\n")
				events = append(events, e)
			}
			e, data = event{}, nil
		case name == "data":
			data = append(data, value)
		case name == "event":
			e.name = value
		}
	}
	return events, data == nil && lines[len(lines)-1] == ""
}

// ORCH-3054
func FuzzParser(f *testing.F) {
	f.Add("data: a\n\n", byte(1))
	f.Add("event: x\r\ndata: a\r\ndata: b\r\r\n:c\n\n", byte(3))
	f.Add("\xEF\xBB\xBFdata\n\nid: 4\ndata:", byte(2))
	f.Fuzz(func(t *testing.T, in string, step byte) {
		r := &stepReader{in: []byte(in), step: max(1, int(step))}
		got, err := parse(r, 1<<20)
		want, whole := simple(in)
		require.Equal(t, want, got)
		if whole {
			require.Equal(t, io.EOF, err)
		} else {
			require.Equal(t, io.ErrUnexpectedEOF, err)
		}
	})
}

type stepReader struct {
	in   []byte
	step int
}

func (r *stepReader) Read(p []byte) (int, error) {
	if len(r.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.in[:min(r.step, len(r.in))])
	r.in = r.in[n:]
	return n, nil
}

// ORCH-3054
func BenchmarkParser(b *testing.B) {
	frame := []byte("data: {\"index\":0,\"content\":\" kernels\",\"tokens\":[983],\"stop\":false,\"id_slot\":-1,\"tokens_predicted\":1,\"tokens_evaluated\":22}\n\n")
	chunked := []byte(fmt.Sprintf("%x\r\n%s\r\n", len(frame), frame))
	p, c, got := parser{limit: 1 << 20}, chunks{}, 0
	in := make([]byte, len(chunked))
	b.ReportAllocs()
	b.SetBytes(int64(len(chunked)))
	for b.Loop() {
		copy(in, chunked)
		data, _, err := c.strip(in)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.feed(data, func(Event) (bool, error) { got++; return true, nil }); err != nil {
			b.Fatal(err)
		}
	}
	require.Positive(b, got)
}
