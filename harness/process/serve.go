// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// Serve serves on an address until until ends, which is the standard input of a stand-in's program. It writes where it listens, as workers do.
func Serve(addr string, h http.Handler, until io.Reader, out io.Writer) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: h}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	fmt.Fprintf(out, "{\"listening\":%q}\n", listener.Addr())
	_, err = io.Copy(io.Discard, until)
	_ = server.Close()
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
