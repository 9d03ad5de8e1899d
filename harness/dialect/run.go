// SPDX-License-Identifier: GPL-3.0-or-later

package dialect

import (
	"fmt"
	"net/http"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Check holds a body against a document.
type Check func(path string, status int, contentType string, body []byte) error

// Run runs a package's tests, none of which may leave a goroutine behind. What any of them gets through http.DefaultClient must fit.
func Run(m *testing.M, check Check) {
	checked := &Checked{Next: http.DefaultTransport, Check: check}
	http.DefaultClient.Transport = checked
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if _, err := checked.Result(); err != nil {
			fmt.Println("not as the document of the dialect's owner has it:", err)
			code = 1
		}
		os.Exit(code)
	}))
}
