// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/gen"
)

// ProofFormat names the form of the proof bundles that this client reads.
const ProofFormat = "llama-orch.proof.v1"

// Proof is a proof bundle: what is needed to run a task again and to see whether the answer is the same (OC-CTRL-2067).
// Digests are SHA-256 in hex. Words of the client and of the model are there only where the server's configuration keeps them.
type Proof struct {
	Format        string          `json:"format"`
	TaskID        string          `json:"task_id"`
	Outcome       gen.Outcome     `json:"outcome"`
	Error         *ProofError     `json:"error"`
	Request       ProofRequest    `json:"request"`
	Seed          uint32          `json:"seed"`
	Determinism   gen.Determinism `json:"determinism"`
	Sampling      ProofSampling   `json:"sampling"`
	RequestDigest string          `json:"request_digest"`
	Placement     ProofPlacement  `json:"placement"`
	Timing        ProofTiming     `json:"timing"`
	Metrics       ProofMetrics    `json:"metrics"`
	Transcript    ProofTranscript `json:"transcript"`
	Result        *ProofResult    `json:"result"` // of an embedding or rerank
	Receipt       *ProofReceipt   `json:"receipt"`
}

// ProofError is why a task ended without an answer.
type ProofError struct {
	Code    gen.ErrorCode `json:"code"`
	Message string        `json:"message"`
}

// ProofRequest is what the client asked for. Prompt, Messages and Inputs are there if Kept; their digests are there where the
// request had them: a prompt's over its bytes, the others' over their JSON without white space or needless escapes.
type ProofRequest struct {
	ModelRef       string         `json:"model_ref"`
	Workload       gen.Workload   `json:"workload"`
	Priority       gen.Priority   `json:"priority"`
	MaxTokens      int            `json:"max_tokens"`
	Ctx            int            `json:"ctx"`
	Kept           bool           `json:"kept"`
	PromptSHA256   string         `json:"prompt_sha256"`
	MessagesSHA256 string         `json:"messages_sha256"`
	InputsSHA256   string         `json:"inputs_sha256"`
	Prompt         string         `json:"prompt"`
	Messages       []ProofMessage `json:"messages"`
	Inputs         []string       `json:"inputs"`
}

// ProofMessage is one turn of a chat.
type ProofMessage struct {
	Role    gen.MessageRole `json:"role"`
	Content string          `json:"content"`
}

// ProofSampling is the sampler profile with every value resolved.
type ProofSampling struct {
	Profile       string   `json:"profile"`
	Temperature   float64  `json:"temperature"`
	TopP          float64  `json:"top_p"`
	TopK          int      `json:"top_k"`
	MinP          float64  `json:"min_p"`
	RepeatPenalty float64  `json:"repeat_penalty"`
	Stop          []string `json:"stop"`
}

// ProofPlacement is where the task ran and why.
type ProofPlacement struct {
	PoolID        string   `json:"pool_id"`
	Engine        string   `json:"engine"`
	EngineVersion string   `json:"engine_version"`
	ReplicaID     string   `json:"replica_id"`
	Fingerprint   string   `json:"fingerprint"`
	Reasons       []string `json:"reasons"`
}

// ProofTiming says when what happened; durations are milliseconds.
type ProofTiming struct {
	AcceptedAt       time.Time  `json:"accepted_at"`
	StartedAt        *time.Time `json:"started_at"`
	FinishedAt       time.Time  `json:"finished_at"`
	PredictedStartMS int64      `json:"predicted_start_ms"`
	WaitedMS         int64      `json:"waited_ms"`
	RanMS            int64      `json:"ran_ms"`
	DecodeTimeMS     int64      `json:"decode_time_ms"`
}

// ProofMetrics are the task's figures.
type ProofMetrics struct {
	QueuePosition int     `json:"queue_position"`
	TokensIn      int     `json:"tokens_in"`
	TokensOut     int     `json:"tokens_out"`
	TokensPerSec  float64 `json:"tokens_per_second"`
}

// ProofTranscript is the answer. Text and Ends are there if Kept: Ends[i] is the length of Text after token i.
type ProofTranscript struct {
	SHA256 string `json:"sha256"`
	Bytes  int    `json:"bytes"`
	Tokens int    `json:"tokens"`
	Kept   bool   `json:"kept"`
	Text   string `json:"text"`
	Ends   []int  `json:"ends"`
}

// ProofResult is the answer of a task that streams no tokens, by the digest of its JSON without white space.
type ProofResult struct {
	SHA256 string          `json:"sha256"`
	Value  json.RawMessage `json:"value"`
}

// ProofReceipt is the receipt that the task's stream ended with.
type ProofReceipt struct {
	Fingerprint      string `json:"fingerprint"`
	RequestDigest    string `json:"request_digest"`
	TranscriptSHA256 string `json:"transcript_sha256"`
	ReplicaID        string `json:"replica_id"`
	EngineVersion    string `json:"engine_version"`
	ModelDigest      string `json:"model_digest"`
}

// DecodeProof reads a bundle and checks that it says one thing.
func DecodeProof(text []byte) (*Proof, error) {
	p := &Proof{}
	if err := json.Unmarshal(text, p); err != nil {
		return nil, fmt.Errorf("this is no proof bundle: %w", err)
	}
	if p.Format != ProofFormat {
		return nil, fmt.Errorf("this is no proof bundle that this program reads: its format is %.40q, not %q", p.Format, ProofFormat)
	}
	t := p.Transcript
	if t.Kept && (digest([]byte(t.Text)) != t.SHA256 || len(t.Ends) != t.Tokens || !slices.IsSorted(t.Ends) ||
		len(t.Ends) > 0 && (t.Ends[0] < 0 || t.Ends[len(t.Ends)-1] != len(t.Text))) {
		return nil, errors.New("this proof bundle was changed: its transcript is not the one that its digest is of")
	}
	return p, nil
}

// Words are the parts of a request that a bundle may hold by their digests alone. Of other JSON than a request's body it
// takes the fields of these names.
type Words struct {
	Prompt   string         `json:"prompt"`
	Messages []ProofMessage `json:"messages"`
	Inputs   []string       `json:"inputs"`
}

// Keep puts a request's words into a bundle that has only their digests, and reports whether they are the ones.
func (p *Proof) Keep(w Words) bool {
	has := func(sum string, there bool, of func() string) bool {
		return sum == "" && !there || there && sum == of()
	}
	r := &p.Request
	if !has(r.PromptSHA256, w.Prompt != "", func() string { return digest([]byte(w.Prompt)) }) ||
		!has(r.MessagesSHA256, len(w.Messages) > 0, func() string { return digestJSON(w.Messages) }) ||
		!has(r.InputsSHA256, len(w.Inputs) > 0, func() string { return digestJSON(w.Inputs) }) {
		return false
	}
	r.Prompt, r.Messages, r.Inputs, r.Kept = w.Prompt, w.Messages, w.Inputs, true
	return true
}

// Again makes the request that runs a bundle's task again, with the recorded seed and every sampling value as it was (LO-301).
// It fails where the bundle does not keep the request's words.
func (p *Proof) Again() (*gen.TaskRequest, error) {
	in := p.Request
	if !in.Kept {
		return nil, errors.New("the proof bundle holds the request's words by their digests alone")
	}
	r := &gen.TaskRequest{
		ModelRef: gen.ModelRef(in.ModelRef), Inputs: in.Inputs, Seed: gen.NewOptSeed(gen.Seed(p.Seed)),
		Workload: gen.NewOptTaskRequestWorkload(gen.TaskRequestWorkload(in.Workload)),
		Priority: gen.NewOptTaskRequestPriority(gen.TaskRequestPriority(in.Priority)),
	}
	if p.Determinism != "" {
		r.Determinism.SetTo(p.Determinism)
	}
	if in.Prompt != "" || in.PromptSHA256 != "" {
		r.Prompt.SetTo(in.Prompt)
	}
	for _, m := range in.Messages {
		r.Messages = append(r.Messages, gen.Message{Role: m.Role, Content: m.Content})
	}
	if in.MaxTokens > 0 {
		r.MaxTokens.SetTo(in.MaxTokens)
	}
	if in.Ctx > 0 {
		r.Ctx.SetTo(in.Ctx)
	}
	if in.Workload == gen.WorkloadCompletion {
		s := p.Sampling
		if s.Profile != "" {
			r.SamplerProfileVersion.SetTo(s.Profile)
		}
		r.Params.SetTo(gen.Params{
			Temperature: gen.NewOptFloat64(s.Temperature), TopP: gen.NewOptFloat64(s.TopP), TopK: gen.NewOptInt(s.TopK),
			MinP: gen.NewOptFloat64(s.MinP), RepeatPenalty: gen.NewOptFloat64(s.RepeatPenalty), Stop: s.Stop,
		})
	}
	return r, nil
}

// Verdict is what a comparison of two runs found.
type Verdict struct {
	Match   bool `json:"match"`
	Partial bool `json:"partial"` // the recorded run ended early, and the other begins with all it had
	// Token is the first token that differs, from 0; -1 where they match, or where nobody knows.
	Token int    `json:"token"`
	Want  string `json:"want"` // that token as it was recorded; empty where that run had ended
	Got   string `json:"got"`
}

// Compare compares a bundle with the tokens of another run (LO-301). recorded are the bundle's own, from elsewhere, where it
// does not keep them; nil where nobody does. A task that ended early matches a run that begins as it did.
func (p *Proof) Compare(got, recorded []string) Verdict {
	early := p.Outcome != gen.OutcomeCompleted
	if early && len(got) > p.Transcript.Tokens && digestOf(got[:p.Transcript.Tokens]) == p.Transcript.SHA256 {
		return Verdict{Match: true, Partial: true, Token: -1}
	}
	if digestOf(got) == p.Transcript.SHA256 {
		return Verdict{Match: true, Partial: early, Token: -1}
	}
	if p.Transcript.Kept {
		recorded = recorded[:0:0]
		from := 0
		for _, end := range p.Transcript.Ends {
			recorded = append(recorded, p.Transcript.Text[from:end])
			from = end
		}
	} else if recorded == nil || digestOf(recorded) != p.Transcript.SHA256 {
		return Verdict{Token: -1}
	}
	for i := range max(len(got), len(recorded)) {
		a, b := at(recorded, i), at(got, i)
		if a != b || i >= len(recorded) || i >= len(got) {
			return Verdict{Token: i, Want: a, Got: b}
		}
	}
	return Verdict{Token: -1}
}

func at(tokens []string, i int) string {
	if i < len(tokens) {
		return tokens[i]
	}
	return ""
}

// CompareResult compares the answer of a task that streams no tokens.
func (p *Proof) CompareResult(got json.RawMessage) Verdict {
	var compact bytes.Buffer
	match := p.Result != nil && json.Compact(&compact, got) == nil && digest(compact.Bytes()) == p.Result.SHA256
	return Verdict{Match: match, Token: -1}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func digestOf(tokens []string) string {
	h := sha256.New()
	for _, t := range tokens {
		h.Write([]byte(t))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func digestJSON(v any) string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic("sdk: " + err.Error()) // texts always encode
	}
	return digest(bytes.TrimSuffix(b.Bytes(), []byte{'\n'}))
}
