// SPDX-License-Identifier: GPL-3.0-or-later

package exchange

import (
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// signOfLife is the time between two pieces of white space before an answer.
const signOfLife = 10 * time.Second

// whole is an answer that is sent as a whole.
type whole struct {
	x       *Exchange
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

// space begins the response, and sends a space.
func (o *whole) space() error {
	if err := o.control.SetWriteDeadline(time.Now().Add(3 * signOfLife)); err != nil {
		return err
	}
	if !o.begun {
		o.begun = true
		o.w.Header().Set("Content-Type", "application/json")
		o.w.WriteHeader(http.StatusOK)
	}
	if _, err := io.WriteString(o.w, " "); err != nil {
		return err
	}
	return o.control.Flush()
}

// fail refuses the request, or breaks the response off where it has begun.
func (o *whole) fail(err error) error {
	if !o.begun {
		return err
	}
	o.x.o.Log.Debug("an answer broke off", zap.Error(err))
	panic(http.ErrAbortHandler)
}

// send sends the answer, behind the white space where there is some.
func (o *whole) send(end *task.End, answer any) error {
	if !o.begun {
		receipt(o.w.Header(), end)
		o.x.Write(o.w, http.StatusOK, answer)
		return nil
	}
	_ = o.control.SetWriteDeadline(time.Now().Add(3 * signOfLife)) // space has set one before
	o.x.write(o.w, JSON(answer))
	return nil
}
