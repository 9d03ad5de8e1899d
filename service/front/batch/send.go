// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"errors"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// sendWithin bounds each write of an answer that may be long: a slow client is served as long as it moves.
const sendWithin = 30 * time.Second

// sending is an answer that may be long.
type sending struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

// Write implements io.Writer.
func (s *sending) Write(p []byte) (int, error) {
	if err := s.control.SetWriteDeadline(time.Now().Add(sendWithin)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	s.begun = true
	return s.w.Write(p)
}

// sendFile answers with the bytes of a file.
func (f *Feeder) sendFile(w http.ResponseWriter, in io.Reader) {
	out := &sending{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", linesType)
	if _, err := io.Copy(out, in); err != nil {
		f.log.Debug("an answer broke off", zap.Error(err))
		panic(http.ErrAbortHandler) // nobody may take it for whole
	}
	if !out.begun {
		w.WriteHeader(http.StatusOK)
	}
}
