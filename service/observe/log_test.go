// SPDX-License-Identifier: GPL-3.0-or-later

package observe_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/observe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logged runs f with a logger and returns the lines it wrote, each parsed, and the raw bytes.
func logged(t *testing.T, o observe.Options, f func(log *zap.Logger)) ([]map[string]any, string) {
	t.Helper()
	var out bytes.Buffer
	o.Out = &out
	log, err := observe.NewLogger(o)
	require.NoError(t, err)
	f(log)
	var lines []map[string]any
	for line := range bytes.Lines(out.Bytes()) {
		var fields map[string]any
		require.NoError(t, json.Unmarshal(line, &fields), "not a line of JSON: %s", line)
		lines = append(lines, fields)
	}
	return lines, out.String()
}

// ORCH-3027
func TestLoggerWritesJSONLines(t *testing.T) {
	lines, _ := logged(t, observe.Options{}, func(log *zap.Logger) {
		log.Named("scheduler").Info("placed", zap.String("pool_id", "default"), zap.Duration("took_ms", 1500*time.Microsecond))
		log.Debug("not at info")
	})
	require.Len(t, lines, 1)
	require.Equal(t, "info", lines[0]["level"])
	require.Equal(t, "scheduler", lines[0]["logger"])
	require.Equal(t, "placed", lines[0]["msg"])
	require.Equal(t, "default", lines[0]["pool_id"])
	require.EqualValues(t, 1, lines[0]["took_ms"])
	at, err := time.Parse(time.RFC3339Nano, lines[0]["ts"].(string))
	require.NoError(t, err)
	require.Equal(t, time.UTC, at.Location())
}

// ORCH-3027
func TestUnknownLevelIsAnErrorThatNamesTheLevels(t *testing.T) {
	_, err := observe.NewLogger(observe.Options{Level: "loud"})
	require.ErrorContains(t, err, "debug, info, warn or error")
}

type stringer struct{ s string }

func (s stringer) String() string { return s.s }

// AUTH-1007, ORCH-3300
func TestSecretsNeverReachTheLog(t *testing.T) {
	for _, secret := range []string{"correct-horse", `quo"te\back<&>`, "12345678", "ümläut-token", `ends with "`} {
		r := observe.NewRedactor("short-lived")
		r.Add(secret)
		lines, raw := logged(t, observe.Options{Redactor: r}, func(log *zap.Logger) {
			log = log.With(zap.String("with", "x "+secret))
			log.Info("message with "+secret, zap.String("string", secret+secret), zap.Error(fmt.Errorf("wrapped: %w", errors.New(secret))),
				zap.Stringer("stringer", stringer{secret}), zap.ByteString("bytes", []byte(secret)), zap.Strings("list", []string{"a", secret}),
				zap.Any("nested", map[string]any{"deep": []any{secret}}), zap.Int("number", 12345678))
		})
		escaped, err := json.Marshal(secret)
		require.NoError(t, err)
		require.Len(t, lines, 1)
		for field, v := range lines[0] {
			if field != "number" {
				require.NotContains(t, fmt.Sprint(v), secret, field)
			}
		}
		require.NotContains(t, raw, string(escaped))
		require.Equal(t, "x "+observe.Redacted, lines[0]["with"])
		require.Equal(t, "message with "+observe.Redacted, lines[0]["msg"])
		require.EqualValues(t, 12345678, lines[0]["number"], "a number is no secret, and the line stays JSON")
	}
}

// AUTH-1007
func TestBearerCredentialsAreRedactedUnregistered(t *testing.T) {
	r := observe.NewRedactor()
	require.Equal(t, "Authorization: Bearer [redacted], please", r.String("Authorization: Bearer abcDEF123-._~+/==, please"))
	require.Equal(t, "bearer  [redacted]", r.String("bearer  0123456789"))
	require.Equal(t, "a bearer token is missing", r.String("a bearer token is missing"))
	require.Equal(t, "forbearer abcdefghij", r.String("forbearer abcdefghij"))
}

// Whatever stands around it, credentials are redacted as the expression alone would have it.
// AUTH-1007
func TestPropertyNoCredentialIsOverlooked(t *testing.T) {
	whole := regexp.MustCompile(`(?i)\b(bearer\s+)[A-Za-z0-9._~+/-]{8,}=*`)
	piece := rapid.OneOf(
		rapid.SampledFrom([]string{"bearer ", "Bearer\t", "bEARER  ", "BEARER", "bear", "b", "B", "earer ", "\u212a", "abcdefgh", "12345678==", "-._~+/12", " ", ",", "\n"}),
		rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(piece, 0, 8).Draw(t, "text"), "")
		require.Equal(t, whole.ReplaceAllString(text, "${1}"+observe.Redacted), observe.NewRedactor().String(text))
	})
}

// A secret that contains another is redacted whole, whichever was added first.
// AUTH-1007
func TestOverlappingSecrets(t *testing.T) {
	require.Equal(t, "[redacted]", observe.NewRedactor("token", "token-and-more").String("token-and-more"))
	require.Equal(t, "abc", observe.NewRedactor("abc").String("abc"), "too short to look for")
}

// ORCH-3300
func FuzzRedactedLineStaysJSON(f *testing.F) {
	f.Add("correct-horse", `a correct-horse " \ b`)
	f.Add("12345678", "bearer 12345678\"")
	f.Add(`\u00`, "\x00\x01")
	f.Fuzz(func(t *testing.T, secret, text string) {
		lines, _ := logged(t, observe.Options{Redactor: observe.NewRedactor(secret)}, func(log *zap.Logger) {
			log.Info(text, zap.String("field", text), zap.Any("any", []string{text}))
		})
		require.Len(t, lines, 1)
	})
}
