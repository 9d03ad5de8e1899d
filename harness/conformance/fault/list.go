// SPDX-License-Identifier: GPL-3.0-or-later

package fault

import (
	"bytes"
	"compress/gzip"
	"net"
	"net/http"
	"strings"
	"time"
)

// RetryAfter is what the servers ask for that are asked too often, in seconds. The standard knows whole ones; a test has no time for them.
const RetryAfter = "0.02"

const (
	eventStream = "text/event-stream"
	jsonType    = "application/json"
	// shown is how many pieces come before an answer breaks.
	shown = 2
	// tooLong is more than any event of an engine has.
	tooLong = 12 << 20
)

// NoFinal is the fault of an answer that ends without saying so.
const NoFinal = "no final event"

// All are the faults.
func All() []Fault {
	return append(append(atHead(), inFrames()...), atEnd()...)
}

// atHead are the faults of heads.
func atHead() []Fault {
	refuse := func(status int, always bool) func(*call) {
		return func(c *call) {
			if c.n > 1 && !always {
				c.s.next.ServeHTTP(c.w, c.r)
				return
			}
			c.w.Header().Set("Retry-After", RetryAfter)
			c.head(status, jsonType)
			c.write(c.s.shape.Error(status, "not now"))
		}
	}
	page := func(kind, text string) func(*call) {
		return func(c *call) {
			c.head(http.StatusOK, kind)
			c.write(text)
		}
	}
	return []Fault{
		{Name: "slow headers", Want: Same, wrap: func(c *call) {
			time.Sleep(50 * time.Millisecond)
			c.s.next.ServeHTTP(c.w, c.r)
		}},
		{Name: "no headers", Want: Held, Nothing: true, wrap: (*call).hold},
		{Name: "429 with Retry-After, once", Want: Retried, Nothing: true, wrap: refuse(http.StatusTooManyRequests, false)},
		{Name: "429 with Retry-After, always", Want: Broken, Nothing: true, wrap: refuse(http.StatusTooManyRequests, true)},
		{Name: "503 while loading, once", Want: Retried, Nothing: true, wrap: refuse(http.StatusServiceUnavailable, false)},
		{Name: "503 while loading, always", Want: Broken, Nothing: true, wrap: refuse(http.StatusServiceUnavailable, true)},
		{Name: "500", Want: Broken, Nothing: true, wrap: refuse(http.StatusInternalServerError, true)},
		{Name: "an error body with status 200", Want: Broken, Nothing: true, wrap: func(c *call) {
			c.head(http.StatusOK, jsonType)
			c.write(c.s.shape.Error(http.StatusInternalServerError, "out of luck"))
		}},
		{Name: "a page of a proxy with status 200", Want: Broken, Nothing: true, wrap: page("text/html", "<html>Bad gateway</html>")},
		{Name: "an empty answer", Want: Broken, Nothing: true, wrap: page(eventStream, "")},
		{Name: "wrong content type: JSON", Want: Broken, Nothing: true, wrap: late(jsonType)},
		{Name: "wrong content type: plain text", Want: Same, wrap: late("text/plain")},
		{Name: "gzip", Want: Broken, Nothing: true, wrap: func(c *call) {
			var all bytes.Buffer
			z := gzip.NewWriter(&all)
			c.w.Header().Set("Content-Encoding", "gzip")
			c.s.next.ServeHTTP(&copied{c.w, z}, c.r)
			_ = z.Close() // into memory
			c.write(all.String())
		}},
		{Name: "cut before the headers", Want: Broken, Nothing: true, wrap: func(*call) { panic(http.ErrAbortHandler) }},
	}
}

// inFrames are the faults of frames.
func inFrames() []Fault {
	each := func(change func(c *call, write func(string), frame string)) func(*call) {
		return func(c *call) {
			c.pass(func(write func(string), frame string) {
				if frame != "" {
					change(c, write, frame)
				}
			})
		}
	}
	// behind does something in the place of the frame behind some pieces.
	behind := func(do func(c *call, write func(string), frame string)) func(*call) {
		return func(c *call) {
			pieces := 0
			c.pass(func(write func(string), frame string) {
				switch {
				case frame == "":
				case pieces < shown:
					write(frame)
				default:
					do(c, write, frame)
				}
				if c.s.shape.Says(data(frame)) {
					pieces++
				}
			})
		}
	}
	lines := func(end string) func(*call) {
		return each(func(_ *call, write func(string), frame string) { write(strings.ReplaceAll(frame, "\n", end)) })
	}
	return []Fault{
		{Name: "CRLF frames", Want: Same, wrap: lines("\r\n")},
		{Name: "CR frames", Want: Same, wrap: lines("\r")},
		{Name: "comments", Want: Same, wrap: each(func(_ *call, write func(string), frame string) {
			write(": ping\n\n:\n" + frame + ": \xff\n\n")
		})},
		{Name: "fields that nobody knows", Want: Same, wrap: each(func(_ *call, write func(string), frame string) {
			write("id: 7\nretry: 1\nhello\n" + frame)
		})},
		{Name: "each byte by itself, also within a rune and an emoji", Want: Same, wrap: each(func(_ *call, write func(string), frame string) {
			for i := range len(frame) {
				write(frame[i : i+1])
			}
		})},
		{Name: "a frame in two halves", Want: Same, wrap: each(func(_ *call, write func(string), frame string) {
			write(frame[:len(frame)/2])
			time.Sleep(time.Millisecond)
			write(frame[len(frame)/2:])
		})},
		{Name: "half a frame, then the end", Want: Broken, wrap: behind(func(_ *call, write func(string), frame string) {
			write(frame[:len(frame)/2])
			panic(http.ErrAbortHandler)
		})},
		{Name: "no JSON", Want: Broken, wrap: behind(func(_ *call, write func(string), _ string) { write("data: {nonsense\n\n") })},
		{Name: "an error in mid-stream", Want: Broken, wrap: behind(func(c *call, write func(string), _ string) {
			write("data: " + c.s.shape.Error(http.StatusInternalServerError, "out of luck") + "\n\n")
			panic(http.ErrAbortHandler)
		})},
		{Name: "reset", Want: Broken, wrap: behind(func(c *call, _ func(string), _ string) { reset(c.w) })},
		{Name: "silence in mid-stream", Want: Held, wrap: behind(func(c *call, _ func(string), _ string) { c.hold() })},
		{Name: "endless comments", Want: Held, wrap: behind(func(c *call, write func(string), _ string) {
			for c.r.Context().Err() == nil {
				write(": ping\n\n")
			}
		})},
		{Name: "endless stream", Want: Held, wrap: behind(func(c *call, write func(string), frame string) {
			for c.r.Context().Err() == nil {
				write(frame)
			}
		})},
		{Name: "a line without end", Want: Broken, wrap: behind(func(_ *call, write func(string), _ string) {
			write("data: ")
			for range tooLong >> 20 {
				write(strings.Repeat("a", 1<<20))
			}
		})},
	}
}

// atEnd are the faults of ends.
func atEnd() []Fault {
	return []Fault{
		{Name: NoFinal, Want: Broken, wrap: func(c *call) {
			over := false
			c.pass(func(write func(string), frame string) {
				if over = over || c.s.shape.Ends(data(frame)); !over {
					write(frame)
				}
			})
		}},
		{Name: "the final event twice", Want: Same, wrap: func(c *call) {
			c.pass(func(write func(string), frame string) {
				write(frame)
				if c.s.shape.Ends(data(frame)) {
					write(frame)
				}
			})
		}},
		{Name: "tokens behind the end", Want: Same, wrap: func(c *call) {
			said, over := "", false
			c.pass(func(write func(string), frame string) {
				write(frame)
				if c.s.shape.Says(data(frame)) {
					said = frame
				}
				if over = over || c.s.shape.Ends(data(frame)); over {
					write(said)
				}
			})
		}},
		{Name: "the usage before the finish", Want: Same, wrap: func(c *call) {
			held := ""
			c.pass(func(write func(string), frame string) {
				switch {
				case held == "" && c.s.shape.Ends(data(frame)):
					held = frame
				case held != "" && strings.HasPrefix(data(frame), "{"):
					write(frame)
				default:
					write(held + frame)
					held = ""
				}
			})
		}},
		{Name: "cut behind the end", Want: Same, wrap: func(c *call) {
			c.pass(func(write func(string), frame string) {
				if frame == "" {
					panic(http.ErrAbortHandler)
				}
				write(frame)
			})
		}},
	}
}

// late is a server that sends another type.
func late(kind string) func(*call) {
	return func(c *call) {
		c.s.next.ServeHTTP(&retyped{ResponseWriter: c.w, kind: kind}, c.r)
	}
}

type retyped struct {
	http.ResponseWriter

	kind string
	sent bool
}

// WriteHeader implements http.ResponseWriter.
func (r *retyped) WriteHeader(status int) {
	r.sent = true
	r.Header().Set("Content-Type", r.kind)
	r.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (r *retyped) Write(b []byte) (int, error) {
	if !r.sent {
		r.WriteHeader(http.StatusOK)
	}
	return r.ResponseWriter.Write(b) //nolint:wrapcheck // it is its writer
}

// Unwrap is for http.ResponseController.
func (r *retyped) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// copied is a response whose body goes elsewhere.
type copied struct {
	http.ResponseWriter

	to *gzip.Writer
}

// Write implements io.Writer.
func (c *copied) Write(b []byte) (int, error) { return c.to.Write(b) } //nolint:wrapcheck // it is its writer

// reset has the kernel send a reset.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // it is about to be closed
	}
	_ = conn.Close()            // so it is
	panic(http.ErrAbortHandler) // what the server writes from now on goes nowhere
}
