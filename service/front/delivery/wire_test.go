// SPDX-License-Identifier: GPL-3.0-or-later

package delivery

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/task"
)

// ORCH-3026: a stream that is cut off by a cancel sends nothing more of a token of which a part was sent.
func TestACutStreamSendsNoRestOfAToken(t *testing.T) {
	server, client := net.Pipe()
	d := &delivery{streams: New(Options{}), wire: newWire(server, true, time.Minute)}
	d.wire.begin(nil)
	got := make(chan string)
	go func() { // joined by the read of got
		all, _ := io.ReadAll(client)
		got <- string(all)
	}()
	require.NoError(t, d.wire.write([]byte(startedFrame), nil, false))
	require.False(t, d.wire.try([]byte(tokenFrame)), "a pipe takes nothing without waiting")
	d.close(stream.ErrCutOff)
	all := <-got
	require.Contains(t, all, startedFrame)
	require.NotContains(t, all, "token")
}

// ORCH-2002: of a stream that breaks off before its first event the client gets the head.
func TestAStreamThatBreaksOffAtOnceHasAHead(t *testing.T) {
	server, client := net.Pipe()
	d := &delivery{streams: New(Options{}), wire: newWire(server, true, time.Minute)}
	d.wire.begin(nil)
	got := make(chan string)
	go func() { // joined by the read of got
		all, _ := io.ReadAll(client)
		got <- string(all)
	}()
	d.close(stream.ErrDetached)
	require.Regexp(t, "(?s)^HTTP/1.1 200 OK.*\r\n\r\n$", <-got)
}

// waiting is a stream whose reader waits while the test writes directly.
type waiting struct {
	write chan func([]byte) bool // given when the reader waits
	left  chan struct{}          // closed when a direct write left something
	step  int
	tried func([]byte) bool
}

func (s *waiting) Next(ctx context.Context, _ <-chan time.Time) ([]byte, error) {
	s.step++
	switch s.step {
	case 1:
		return []byte(startedFrame), nil
	case 2:
		s.write <- s.tried
		select {
		case <-s.left:
			return []byte{}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case 3:
		return []byte(endFrame), nil
	}
	return nil, io.EOF
}
func (s *waiting) Direct(write func([]byte) bool) { s.tried = write }
func (s *waiting) Written()                       {}
func (s *waiting) Last() bool                     { return false }
func (s *waiting) Metrics() (task.Metrics, bool)  { return task.Metrics{}, false }
func (s *waiting) Close()                         {}

// ORCH-2002, OC-CTRL-2026: a direct write to a client that does not read ends at once, and what did not fit is not lost.
func TestADirectWriteDoesNotWaitForTheClient(t *testing.T) {
	s := &waiting{write: make(chan func([]byte) bool), left: make(chan struct{})}
	res := serve(t, []Stream{s}).ask(t, t.Context())
	write := <-s.write
	want := bytes.NewBufferString(startedFrame)
	for i := 0; ; i++ {
		frame := fmt.Appendf(nil, "id: %d\nevent: token\ndata: %0*d\n\n", i, 64<<10, i)
		want.Write(frame)
		if !write(frame) {
			break
		}
		require.Less(t, i, 1000, "the kernel takes no 64 MB, so this write waits or loses bytes")
	}
	close(s.left)
	want.WriteString(endFrame)
	got, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want.Bytes(), got), "%d bytes for %d", len(got), want.Len())
}

// OC-CTRL-2026
func TestATokenCostsNoAllocation(t *testing.T) {
	out := sink(t)
	frames := []byte(tokenFrame)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if err := out.write(frames, nil, false); err != nil {
			panic(err)
		}
	}))
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if !out.try(frames) && out.write(nil, nil, false) != nil {
			panic("the client does not read")
		}
	}))
}

func BenchmarkStreamWrite(b *testing.B) {
	out := sink(b)
	frames := []byte(tokenFrame)
	b.ReportAllocs()
	for b.Loop() {
		if err := out.write(frames, nil, false); err != nil {
			b.Fatal(err)
		}
	}
}

// sink is a wire to a client that reads all.
func sink(t testing.TB) *wire {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	client, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	conn, err := l.Accept()
	require.NoError(t, err)
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.Copy(io.Discard, client) }()
	t.Cleanup(func() { _ = conn.Close(); <-done; _ = client.Close(); _ = l.Close() })
	return newWire(conn, true, time.Minute)
}
