// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// OC-CTRL-2030
func TestEnvelope(t *testing.T) {
	encode := func(e *Error) string {
		b, err := json.Marshal(e.Envelope())
		require.NoError(t, err)
		return string(b)
	}
	require.JSONEq(t, `{"code":"INVALID_PARAMS","message":"no","retriable":false}`,
		encode(Errorf(InvalidParams, "no").Because(errors.New("the cause stays out"))))
	require.JSONEq(t, `{"code":"WORKER_RESET","message":"gone","retriable":true,"engine":"e","pool_id":"p"}`,
		encode(&Error{Code: WorkerReset, Message: "gone", Engine: "e", PoolID: "p"}))
	require.JSONEq(t, `{"code":"ADMISSION_REJECT","message":"full","retriable":true,"retry_after_ms":1000,"policy_label":"reject"}`,
		encode(Errorf(AdmissionReject, "full")))
	require.JSONEq(t, `{"code":"POOL_UNREADY","message":"wait","retriable":true,"retry_after_ms":2}`,
		encode(Errorf(PoolUnready, "wait").Retry(1001*time.Microsecond)))
	require.Len(t, Errorf(Internal, "%s", strings.Repeat("é", 9999)).Envelope().Message, maxMessage)
	require.Contains(t, encode(&Error{Code: Internal, Message: "an engine said \xc3\xff", Hint: "\xff"}), "\"an engine said \ufffd\ufffd\",",
		"as it comes back from the record")
}

func TestCodesAreListedOnce(t *testing.T) {
	seen := map[Code]bool{}
	for _, c := range Codes() {
		require.False(t, seen[c], c)
		seen[c] = true
	}
	for c := range traits {
		require.True(t, seen[c], c)
	}
}
