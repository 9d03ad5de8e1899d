// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"aead.dev/minisign"

	"github.com/llama-orch/llama-orch/service/task"
)

// Trust says which models the catalog accepts (ORCH-3037).
type Trust struct {
	Strict  bool     // a signature by one of Keys is needed
	Sources []string // what refs may begin with, such as `hf:org/`; empty: anything
	Keys    []string // minisign public keys, in base64 as `minisign -G` prints them
}

// SignatureState says what is known about a model's signature.
type SignatureState string

// The states of a signature.
const (
	SignatureMissing   SignatureState = "missing"
	SignatureValid     SignatureState = "valid"
	SignatureInvalid   SignatureState = "invalid"   // also: by a key that is not trusted
	SignatureUnchecked SignatureState = "unchecked" // the model is not there yet
)

// trust is Trust in a form that is ready to be asked.
type trust struct {
	strict  bool
	sources []string
	keys    []minisign.PublicKey
}

// readTrust reads a policy. Its errors name the place in the policy.
func readTrust(t Trust) (trust, error) {
	out := trust{strict: t.Strict}
	for i, s := range t.Sources {
		if s = strings.TrimSpace(s); !strings.Contains(s, ":") {
			return out, fmt.Errorf("catalog: source %d of the trust policy, %q, is no beginning of a ref: write such as hf:org/, https://host/, file:/srv/models/", i+1, task.Clip(s, maxNameBytes))
		}
		out.sources = append(out.sources, s)
	}
	for i, k := range t.Keys {
		var key minisign.PublicKey
		if err := key.UnmarshalText([]byte(strings.TrimSpace(k))); err != nil {
			return out, fmt.Errorf("catalog: key %d of the trust policy is no minisign public key: %w", i+1, err)
		}
		out.keys = append(out.keys, key)
	}
	if t.Strict && len(out.keys) == 0 {
		return out, errors.New("catalog: the strict trust policy needs the public keys that models may be signed with")
	}
	return out, nil
}

// source refuses a ref that begins with no allowed source.
func (t trust) source(ref string) error {
	for _, s := range t.sources {
		rest, ok := strings.CutPrefix(ref, s)
		switch {
		case !ok:
		case rest == "", strings.HasSuffix(s, ":"), strings.HasSuffix(s, "/"), rest[0] == '/':
			return nil
		case strings.HasPrefix(ref, "oci:") && (rest[0] == ':' || rest[0] == '@'): // a tag or digest of the repository
			return nil
		}
	}
	if len(t.sources) == 0 {
		return nil
	}
	return task.Errorf(task.UntrustedArtifact, "the trust policy allows no models from there: take one that begins with %s, or have the operator add the source",
		strings.Join(t.sources, " or "))
}

// signature decodes what a client sent: a .minisig file in base64.
func readSignature(text string) (minisign.Signature, error) {
	var s minisign.Signature
	raw, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		err = s.UnmarshalText(raw)
	}
	if err != nil {
		return s, task.Errorf(task.InvalidParams, "`signature` must be the text of a minisign .minisig file, in base64").Because(err)
	}
	if s.Algorithm != minisign.HashEdDSA {
		return s, task.Errorf(task.InvalidParams, "`signature` is of minisign's old form, over the file itself: sign again without -l")
	}
	return s, nil
}

// finding is the result of a check of digest and signature.
type finding struct {
	result    result
	reason    reason
	signature SignatureState
	warnings  []string
	problem   *task.Error // nil: the model may be used
}

// check compares what was read of a model with the digest that it must have (empty: any) and with its signature.
func (t trust) check(h hashed, want, signature string) finding {
	refuse := func(why reason, s SignatureState, format string, args ...any) finding {
		return finding{result: fail, reason: why, signature: s, problem: task.Errorf(task.UntrustedArtifact, format, args...)}
	}
	if want != "" && h.digest != want {
		state := SignatureUnchecked
		if signature == "" {
			state = SignatureMissing
		}
		return refuse(digestMismatch, state, "the model's bytes have the digest %s, and not %s: check the ref and the digest, then fetch it again", h.digest, want)
	}
	if signature == "" {
		if t.strict {
			return refuse(signatureMissing, SignatureMissing, "the trust policy is strict and the model has no signature: add it with one of a trusted key")
		}
		return finding{result: warn, reason: signatureMissing, signature: SignatureMissing, warnings: []string{"it has no signature"}}
	}
	s, err := readSignature(signature)
	if err != nil {
		return refuse(signatureInvalid, SignatureInvalid, "the model's signature cannot be read: add it again")
	}
	text, err := s.MarshalText()
	if err != nil {
		return refuse(signatureInvalid, SignatureInvalid, "the model's signature cannot be read: add it again")
	}
	for _, key := range t.keys {
		if key.ID() != s.KeyID {
			continue
		}
		if h.signed != nil && h.signed.Verify(key, text) {
			return finding{result: pass, reason: none, signature: SignatureValid}
		}
		return refuse(signatureInvalid, SignatureInvalid, "the model's signature does not fit its bytes: fetch both again from their source")
	}
	if t.strict {
		return refuse(signatureInvalid, SignatureInvalid, "the model's signature is by key %016X, which is not among the trusted ones: have the operator add that key", s.KeyID)
	}
	return finding{
		result: warn, reason: signatureInvalid, signature: SignatureInvalid,
		warnings: []string{fmt.Sprintf("its signature is by key %016X, which is not among the trusted ones, and was not checked", s.KeyID)},
	}
}
