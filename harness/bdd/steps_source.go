// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"aead.dev/minisign"
	"github.com/cucumber/godog"

	"github.com/llama-orch/llama-orch/harness/source"
)

// origin is one of the scenario's servers of models.
type origin struct {
	*source.Source
	model []byte
	goOn  func() // lets a held answer go on
}

func (w *world) sourceSteps(step define) {
	step(`^a source of models over (https|hf|s3|oci)$`, w.aSource)
	step(`^the source over (https|hf|s3|oci) (holds|drops) its next answer half way$`, w.theSourceStops)
	step(`^the source over (https|hf|s3|oci) goes on$`, w.theSourceGoesOn)
	step(`^the source over (https|hf|s3|oci) has been asked for the model (once|twice|never)$`, w.theSourceWasAsked)
	step(`^the source over (https|hf|s3|oci) was asked for the second half alone, and sent every byte once$`, w.theSourceSentTheRest)
	step(`^the source over (https|hf|s3|oci) sends its next caller on to "([^"]*)"$`, w.theSourceRedirects)
	step(`^models need a signature by one key$`, w.modelsNeedASignature)
	step(`^a byte of the cached model "([^"]*)" is another$`, w.aByteIsAnother)
	step(`^nothing of the model "([^"]*)" is on the disk$`, w.nothingIsOnTheDisk)
	step(`^the files of the model "([^"]*)" are on the disk$`, w.filesAreOnTheDisk)
	step(`^the audit has an outbound call with$`, w.theAuditHas)
}

// aSource starts a server that has the bundled model, and configures the daemon to call it instead of the real service. The model's ref there is
// $HTTPS, $HF, $S3 or $OCI.
func (w *world) aSource(kind string) error {
	s, err := source.Kinds[kind]()
	if err != nil {
		return fmt.Errorf("start a source: %w", err)
	}
	o := &origin{Source: s, goOn: func() {}}
	w.origins[kind] = o
	if o.model, err = os.ReadFile(w.lab.Model); err != nil {
		return fmt.Errorf("read the bundled model: %w", err)
	}
	if err := s.Put("m.gguf", o.model); err != nil {
		return fmt.Errorf("put the model there: %w", err)
	}
	w.kept[strings.ToUpper(kind)], w.kept["DIGEST"] = s.Ref, source.Sum(o.model)
	switch kind {
	case "https":
		ca := filepath.Join(w.dir, "ca.pem")
		if err := os.WriteFile(ca, s.Certificate(), 0o600); err != nil {
			return fmt.Errorf("write the certificate: %w", err)
		}
		w.setup.env["SSL_CERT_FILE"] = ca
	case "s3":
		w.setup.env["AWS_ACCESS_KEY_ID"], w.setup.env["AWS_SECRET_ACCESS_KEY"] = "AKIDSECRET", "AWSKEYSECRET"
		w.lab.logs.secret("Bearer AWSKEYSECRET")
	case "hf":
		w.setup.env["HF_TOKEN"] = "hf_TOKENSECRET"
		w.lab.logs.secret("Bearer hf_TOKENSECRET")
	}
	w.setup.settings = set([]row{{"policy", `{allow: ["*", "127.0.0.1", "localhost"]}`}}, w.setup.settings...)
	w.configureCatalog()
	return nil
}

// configureCatalog writes the settings for the servers that the steps so far have started.
func (w *world) configureCatalog() {
	var endpoints []string
	for kind, o := range w.origins {
		switch kind {
		case "hf", "s3":
			endpoints = append(endpoints, fmt.Sprintf("%s: %q", kind, o.Server.URL))
		case "oci":
			endpoints = append(endpoints, fmt.Sprintf("oci: [{name: %q, url: %q}]", source.Registry, o.Server.URL))
		}
	}
	value := fmt.Sprintf("{folders: [., %q], endpoints: {", filepath.Dir(w.lab.Model)) + strings.Join(endpoints, ", ") + "}"
	if w.trust != "" {
		value += ", trust: " + w.trust
	}
	w.setup.settings = set(w.setup.settings, row{"catalog", value + "}"})
}

func (w *world) origin(kind string) (*origin, error) {
	if o := w.origins[kind]; o != nil {
		return o, nil
	}
	return nil, fmt.Errorf("the scenario has started no source over %s", kind)
}

// theSourceStops breaks an answer off halfway, or holds it there. A held answer ends with its client, or goes on when a step says so.
func (w *world) theSourceStops(kind, how string) error {
	o, err := w.origin(kind)
	if err != nil {
		return err
	}
	open := make(chan struct{})
	o.goOn = sync.OnceFunc(func() { close(open) })
	o.Lock()
	defer o.Unlock()
	o.Cut, o.Gate = []int{len(o.model) / 2}, nil
	if how == "holds" {
		o.Gate = func(_ http.ResponseWriter, _ int, r *http.Request) {
			select {
			case <-open:
			case <-r.Context().Done():
				panic(http.ErrAbortHandler)
			}
		}
	}
	return nil
}

func (w *world) theSourceGoesOn(kind string) error {
	o, err := w.origin(kind)
	if err == nil {
		o.goOn()
	}
	return err
}

func (w *world) theSourceWasAsked(kind, often string) error {
	o, err := w.origin(kind)
	if err != nil {
		return err
	}
	want := map[string]int{"never": 0, "once": 1, "twice": 2}[often]
	return poll("the requests", func() error {
		if seen := o.Requests(); len(seen) != want {
			return fmt.Errorf("it was asked %d times: %v", len(seen), seen)
		}
		return nil
	})
}

func (w *world) theSourceSentTheRest(kind string) error {
	o, err := w.origin(kind)
	if err != nil {
		return err
	}
	half, seen := fmt.Sprintf("bytes=%d-", len(o.model)/2), o.Requests()
	if len(seen) != 2 || seen[0].Range != "" || !strings.HasPrefix(seen[1].Range, half) {
		return fmt.Errorf("it was asked for %v, and should have been for all, then for %s", seen, half)
	}
	if sent := o.Sent.Load(); sent != int64(len(o.model)) {
		return fmt.Errorf("it has sent %d bytes of a model of %d", sent, len(o.model))
	}
	return nil
}

func (w *world) theSourceRedirects(kind, to string) error {
	o, err := w.origin(kind)
	if err != nil {
		return err
	}
	o.Lock()
	defer o.Unlock()
	o.First = []http.HandlerFunc{func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, to, http.StatusFound) }}
	return nil
}

// modelsNeedASignature makes three signatures: $SIGNATURE is the bundled model's by the trusted key, $OTHER is by another key, and $WRONG is of other
// bytes.
func (w *world) modelsNeedASignature() error {
	model, err := os.ReadFile(w.lab.Model)
	if err != nil {
		return fmt.Errorf("read the bundled model: %w", err)
	}
	sign := func(key minisign.PrivateKey, content []byte) (string, error) {
		r := minisign.NewReader(bytes.NewReader(content))
		if _, err := r.Read(make([]byte, len(content))); err != nil {
			return "", fmt.Errorf("sign a model: %w", err)
		}
		return base64.StdEncoding.EncodeToString(r.Sign(key)), nil
	}
	public, private, err1 := minisign.GenerateKey(nil)
	_, other, err2 := minisign.GenerateKey(nil)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	var errs [3]error
	w.kept["SIGNATURE"], errs[0] = sign(private, model)
	w.kept["OTHER"], errs[1] = sign(other, model)
	w.kept["WRONG"], errs[2] = sign(private, model[1:])
	w.trust = fmt.Sprintf("{mode: strict, keys: [%q]}", public.String())
	w.configureCatalog()
	return errors.Join(errs[:]...)
}

// cached lists the files that the daemon has fetched, or begun to fetch, for a model of the catalog.
func (w *world) cached(id string) (found []string, err error) {
	err = filepath.WalkDir(filepath.Join(w.dir, "data", "models", "files", id), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for the model's files: %w", err)
	}
	return found, nil
}

// aByteIsAnother changes a byte but keeps the file's size and time, so that only the bytes tell.
func (w *world) aByteIsAnother(id string) error {
	found, err := w.cached(id)
	if err != nil {
		return err
	}
	for _, path := range found {
		if !strings.HasSuffix(path, ".gguf") {
			continue
		}
		at, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("look at the cached model: %w", err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read the cached model: %w", err)
		}
		data[len(data)-1] ^= 1
		if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, data, 0o600), os.Chtimes(path, at.ModTime(), at.ModTime())); err != nil {
			return fmt.Errorf("change the cached model: %w", err)
		}
		return nil
	}
	return fmt.Errorf("there is no model among %v", found)
}

func (w *world) nothingIsOnTheDisk(id string) error {
	found, err := w.cached(id)
	if record := filepath.Join(w.dir, "data", "models", id+".json"); err == nil {
		if _, wrong := os.Stat(record); wrong == nil {
			found = append(found, record)
		}
	}
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("there are %v", found)
	}
	return err
}

func (w *world) filesAreOnTheDisk(id string) error {
	found, err := w.cached(id)
	if err == nil && len(found) == 0 {
		err = errors.New("there is none")
	}
	return err
}

// theAuditHas waits for a line of the policy that fits the table.
func (w *world) theAuditHas(t *godog.Table) error {
	var seen []logLine
	err := w.daemon.logged("such an audit line", func(l logLine) bool {
		if l["msg"] != "an outbound call was decided" {
			return false
		}
		seen = append(seen, l)
		return w.lineHas(l, t) == nil
	})
	if err != nil {
		return fmt.Errorf("%w; the audit has %v", err, seen)
	}
	return nil
}
