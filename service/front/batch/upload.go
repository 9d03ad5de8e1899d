// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"errors"
	"io"
	"mime/multipart"
	"net/http"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// The bounds of a form, besides the file's.
const (
	maxParts    = 32
	maxField    = 4 << 10 // bytes of a field's value
	formBytes   = 1 << 20 // of all that is no file
	maxFileName = 255
)

// upload reads a form as it comes: first the bytes of its file, and behind them, before it says that they have ended, the fields that follow. So nothing
// is kept of a form whose fields are wrong.
type upload struct {
	form    *multipart.Reader
	file    *multipart.Part
	parts   int
	name    string
	purpose string
	given   bool // the purpose
}

// openUpload reads a form up to its file.
func openUpload(r *http.Request) (*upload, error) {
	form, err := r.MultipartReader()
	if err != nil {
		return nil, task.Errorf(task.InvalidParams, "this call takes a form, multipart/form-data, with `file` and `purpose`").Because(err)
	}
	u := &upload{form: form}
	for u.file == nil {
		part, err := u.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, lenient.Bad("file", "send the file in the form")
		case err != nil:
			return nil, err
		case part.FormName() == "file":
			u.file, u.name = part, task.Clip(part.FileName(), maxFileName)
		default:
			if err := u.field(part); err != nil {
				return nil, err
			}
		}
	}
	if u.given {
		return u, u.check()
	}
	return u, nil
}

// next is the next part of the form.
func (u *upload) next() (*multipart.Part, error) {
	if u.parts++; u.parts > maxParts {
		return nil, task.Errorf(task.InvalidParams, "the form has more than %d parts", maxParts)
	}
	part, err := u.form.NextPart()
	return part, broken(err)
}

// broken words what a form broke off with. What the gate says stays.
func broken(err error) error {
	if e, ok := errors.AsType[*task.Error](err); ok {
		return e
	}
	if err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return task.Errorf(task.InvalidParams, "the form is not whole: send it again").Because(err)
}

// field reads a part that is no file.
func (u *upload) field(part *multipart.Part) error {
	value, err := io.ReadAll(io.LimitReader(part, maxField+1))
	if err != nil {
		return broken(err)
	}
	if len(value) > maxField {
		return lenient.Bad(task.Clip(part.FormName(), 40), "it has more than %d bytes", maxField)
	}
	switch part.FormName() {
	case "purpose":
		u.purpose, u.given = string(value), true
	case "file":
		return lenient.Bad("file", "a form has one file")
	}
	return nil
}

func (u *upload) check() error {
	if u.purpose != "batch" {
		return lenient.Bad("purpose", "files are for batches here: it must be batch, not %q", task.Clip(u.purpose, 40))
	}
	return nil
}

// Read implements io.Reader: the bytes of the file.
func (u *upload) Read(p []byte) (int, error) {
	n, err := u.file.Read(p)
	if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return n, broken(err)
	}
	for {
		part, err := u.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = u.field(part)
		}
		if err != nil {
			return n, err
		}
	}
	if !u.given {
		return n, lenient.Bad("purpose", "say what the file is for: batch")
	}
	if err := u.check(); err != nil {
		return n, err
	}
	return n, io.EOF
}
