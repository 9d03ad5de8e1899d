// SPDX-License-Identifier: GPL-3.0-or-later

package port

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/cert"
)

// secured is a port of TLS, and what a client trusts.
func secured(t *testing.T, o Options) (addr string, client *tls.Config, p *Pair, told *[]error) {
	t.Helper()
	certFile, keyFile, err := cert.Write(t.TempDir(), "first")
	require.NoError(t, err)
	told = &[]error{}
	p, err = LoadPair(certFile, keyFile, func(_ Dates, err error) { *told = append(*told, err) })
	require.NoError(t, err)
	o.TLS = p.Config()
	addr, _, _ = serve(t, o)
	text, err := os.ReadFile(certFile)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(text))
	return addr, &tls.Config{RootCAs: roots, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}, p, told
}

// LO-640: requests come by TLS, one after another on a connection, and by HTTP/1.1 alone. What net/http refuses has the port's own words, and an answer that comes early arrives.
func TestRequestsByTLS(t *testing.T) {
	addr, trust, _, _ := secured(t, Options{HalfClose: true})
	transport := &http.Transport{TLSClientConfig: trust, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	for range 2 {
		answer, err := client.Get("https://" + addr + "/")
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1", answer.Proto)
		require.NotNil(t, answer.TLS)
		require.NoError(t, answer.Body.Close())
	}
	answer, err := client.Post("https://"+addr+"/early", "text/plain", strings.NewReader(strings.Repeat("x", 4<<20)))
	require.NoError(t, err)
	require.Equal(t, http.StatusRequestEntityTooLarge, answer.StatusCode)
	require.NoError(t, answer.Body.Close())

	addr, trust, _, _ = secured(t, Options{Refusal: func([]byte) []byte {
		return []byte("HTTP/1.1 400 Ours\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	}})
	c, err := tls.Dial("tcp", addr, trust)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "this is no request\r\n\r\n")
	require.NoError(t, err)
	text, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Contains(t, string(text), "400 Ours")
}

// LO-640: who speaks plain HTTP is told, and who speaks an old TLS, or nothing, is not served.
func TestWhatIsNotTLS(t *testing.T) {
	addr, trust, _, _ := secured(t, Options{})
	answer, err := http.Get("http://" + addr + "/")
	require.NoError(t, err)
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusBadRequest, answer.StatusCode)
	require.Contains(t, string(text), "use https://")
	old := trust.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	_, err = tls.Dial("tcp", addr, old)
	require.Error(t, err)
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// LO-640: what clients refuse by its dates takes no place of what they take, but of what they refuse too. The gauge says what is in use.
func TestACertificateOutsideItsDates(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Now()
	certFile, keyFile, err := cert.WriteFor(t.TempDir(), "expired", now.Add(-9*day), now.Add(-8*day))
	require.NoError(t, err)
	var told []error
	var dates Dates
	p, err := LoadPair(certFile, keyFile, func(d Dates, err error) { dates, told = d, append(told, err) })
	require.NoError(t, err, "a start is not refused")
	require.Contains(t, p.Dates().Warning(now), "has expired on")
	read := func(name string, from, to time.Time) {
		t.Helper()
		_, _, err := cert.WriteFor(filepath.Dir(certFile), name, from, to)
		require.NoError(t, err)
		p.Reload(now)
	}
	serving := func() string { return p.current(now).Leaf.Subject.CommonName }
	read("later", now.Add(day), now.Add(90*day))
	require.Equal(t, "later", serving(), "the one before was no better")
	require.Contains(t, dates.Warning(now), "is not valid before")
	read("good", now.Add(-day), now.Add(90*day))
	require.Equal(t, "good", serving())
	require.Empty(t, dates.Warning(now))
	require.Equal(t, []error{nil, nil}, told)
	read("old", now.Add(-9*day), now.Add(-8*day))
	require.Equal(t, "good", serving())
	require.ErrorContains(t, told[2], "has expired on")
	require.InDelta(t, now.Add(90*day).Unix(), testutil.ToFloat64(p.Metric()), 1)
	require.Zero(t, testutil.ToFloat64((*Pair)(nil).Metric()))
	read("short", now.Add(-day), now.Add(13*day))
	require.Equal(t, "short", serving())
	require.Contains(t, dates.Warning(now), "expires on "+now.Add(13*day).UTC().Format("2006-01-02"))
}

// LO-640: a new pair is served within seconds of its coming, or at once on a reload; one that does not fit is not, and is told of.
func TestAPairIsReadAgain(t *testing.T) {
	addr, trust, p, told := secured(t, Options{})
	serving := func() string {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MinVersion: trust.MinVersion})
		require.NoError(t, err)
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	require.Equal(t, "first", serving())
	_, _, err := cert.Write(filepath.Dir(p.cert), "second")
	require.NoError(t, err)
	require.Equal(t, "first", serving(), "it was looked at a moment ago")
	now := time.Now().Add(lookEvery)
	require.NotNil(t, p.current(now))
	require.Equal(t, "second", serving())
	require.Equal(t, []error{nil}, *told)

	require.NoError(t, os.WriteFile(p.key, []byte("no key"), 0o600))
	p.Reload(time.Now())
	var e *PairError
	require.ErrorAs(t, (*told)[1], &e)
	require.Equal(t, "second", serving())
	_, _, err = cert.Write(filepath.Dir(p.cert), "third")
	require.NoError(t, err)
	p.Reload(time.Now())
	require.Equal(t, "third", serving())
	p.current(now.Add(time.Hour))
	require.Len(t, *told, 3, "nothing has changed")
}

// LO-640: what is wrong with a pair is said with its files.
func TestAPairThatCannotBeUsed(t *testing.T) {
	one, key, err := cert.Write(t.TempDir(), "one")
	require.NoError(t, err)
	other, _, err := cert.Write(t.TempDir(), "other")
	require.NoError(t, err)
	for _, pair := range [][2]string{{other, key}, {one, filepath.Join(t.TempDir(), "gone")}, {key, key}} {
		_, err := LoadPair(pair[0], pair[1], nil)
		e, ok := errors.AsType[*PairError](err)
		require.True(t, ok)
		require.Equal(t, pair[0], e.Cert)
		require.Equal(t, pair[1], e.Key)
		require.Contains(t, e.Error(), "set tls.cert")
	}
}
